from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidModel
from tests.engine.ops.single_node import NodeCase, check_node, floats, row_states


def drawn(*shape: int, seed: int = 0, dtype: object = np.float32) -> np.ndarray:
    """Numbers of which many are equal."""
    return np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8])
@pytest.mark.parametrize("is_sorted", [0, 1])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((17,), {}),
        ((3, 4), {}),
        ((9, 2), {"axis": 0}),
        ((2, 9), {"axis": -1}),
        ((2, 11, 2), {"axis": 1}),
        ((1,), {"axis": 0}),
    ],
)
def test_same_as_elsewhere(shape, dtype, is_sorted, attributes):
    x = drawn(*shape, dtype=dtype)
    check_node("Unique", x, outputs=4, opset=11, sorted=is_sorted, **attributes)


def test_of_what_is_no_number_in_bfloat16():
    x = np.array([3, 1, np.nan, 2, -1, 3, np.nan, 1], ml_dtypes.bfloat16)
    values, first, inverse, counts = NodeCase("Unique", [x], {}, 11, outputs=4).run_engine()
    np.testing.assert_array_equal(values.astype(np.float32), [-1, 1, 2, 3, np.nan])
    assert first.tolist() == [4, 1, 3, 0, 2] and counts.tolist() == [1, 2, 1, 2, 2]
    assert inverse.tolist() == [3, 1, 4, 2, 0, 3, 4, 1]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("axis", [None, 0])
def test_of_nothing(shape, axis):
    attributes = {} if axis is None else {"axis": axis}
    case = NodeCase("Unique", [floats(*shape)], attributes, 11, outputs=4)
    values, first, inverse, counts = case.run_engine("symbolic")
    few = 1 if axis == 0 and shape == (3, 0) else 0
    assert first.shape == counts.shape == (few,)
    assert inverse.tolist() == [0] * (shape[0] if axis == 0 else 0)
    assert values.size == 0


def test_text():
    words = np.array([["b", "a"], ["b", "a"], ["a", "c"]], object)
    case = NodeCase("Unique", [words], {"axis": 0}, 11, outputs=4)
    values, first, inverse, counts = case.run_engine()
    assert values.tolist() == [["a", "c"], ["b", "a"]]
    assert (first.tolist(), inverse.tolist(), counts.tolist()) == ([2, 0], [1, 1, 0], [1, 2])


def test_fewer_outputs_and_errors():
    (values,) = NodeCase("Unique", [drawn(9)], {}, 11).run_engine()
    np.testing.assert_array_equal(values, np.unique(drawn(9)))
    with pytest.raises(InvalidModel, match="axis"):
        NodeCase("Unique", [drawn(9)], {"axis": 1}, 11).graph()
    case = NodeCase("Unique", [drawn(3, 2)], {"axis": 1}, 11)
    assert not row_states(case, (0,))[0].is_rows
