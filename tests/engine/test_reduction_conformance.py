"""Every reduction against other libraries: types, axes in both forms, empty tensors."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from engine.dtypes import BOOLS, NUMBERS, DType
from engine.ops import REGISTRY
from engine.ops.define_reduction import Reduction
from engine.ops.registry import Operator
from tests.engine.generated import tensor
from tests.engine.oracle import LATEST, NoOracle, computed, expected

OPERATORS = [op for op in REGISTRY.operators() if isinstance(op.definition, Reduction)]
TOLERANCE = {DType.FLOAT16: 5e-3, DType.BFLOAT16: 3e-2, DType.FLOAT32: 5e-6, DType.FLOAT64: 1e-12}


def check(
    op: Operator,
    x: np.ndarray,
    axes: list[int] | None,
    attributes: dict[str, Any],
    version: int = LATEST,
) -> None:
    as_input = version >= (13 if op.name == "ReduceSum" else 18)
    inputs: list[np.ndarray | None] = [x]
    if axes is not None and as_input:
        inputs.append(np.array(axes, dtype=np.int64))
    elif axes is not None:
        attributes = {**attributes, "axes": tuple(axes)}
    actual = computed(op.name, inputs, attributes, version)
    dtype = DType.from_numpy(x.dtype)
    wanted = expected(op.name, inputs, attributes, version, dtype)
    assert actual.dtype == x.dtype
    wanted = wanted.astype(x.dtype)  # onnx.reference widens sums of squares of integers
    assert actual.shape == wanted.shape
    if dtype.is_float:
        tolerance = TOLERANCE[dtype]
        pair = actual.astype(np.float64), wanted.astype(np.float64)
        assert_allclose(*pair, rtol=tolerance, atol=tolerance, err_msg=f"{op.name} {dtype}")
    else:
        assert_array_equal(actual, wanted, err_msg=f"{op.name} {dtype}")


def values(op: Operator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{op.name}{dtype}{shape}".encode()))
    x = tensor(dtype, shape, rng, special=False)
    # Logarithms of negative sums are NaN on one side and an error of the last place on the other.
    return np.abs(x) + x.dtype.type(1) if op.name == "ReduceLogSum" else x


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_definition_agrees_on_every_type(op: Operator) -> None:
    checked = 0
    for dtype in sorted(op.definition.types & (NUMBERS | BOOLS), key=str):
        try:
            check(op, values(op, dtype, (3, 4, 5)), [1], {"keepdims": 0})
            checked += 1
        except NoOracle:
            continue  # neither library has this type; the count catches an operator unasked
    assert checked > 0


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
@pytest.mark.parametrize("version", [11, 13, LATEST])
def test_axes_of_every_form(op: Operator, version: int) -> None:
    x = values(op, DType.FLOAT32, (2, 3, 4))
    for keep in (0, 1):
        for axes in (None, [0], [-1], [0, 2], [2, 1, 0]):
            check(op, x, axes, {"keepdims": keep}, version)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_no_axes_may_mean_nothing_to_reduce(op: Operator) -> None:
    x = values(op, DType.FLOAT32, (2, 3))
    y = computed(op.name, [x, np.int64([])], {"noop_with_empty_axes": 1}, LATEST)
    alone = computed(op.name, [x.reshape(6, 1), np.int64([1])], {"keepdims": 0}, LATEST)
    assert_allclose(y, alone.reshape(2, 3), rtol=1e-6)
    check(op, x, [], {"noop_with_empty_axes": 0})


@pytest.mark.parametrize(
    ("name", "dtype", "identity"),
    [
        ("ReduceSum", DType.FLOAT32, 0.0),
        ("ReduceProd", DType.INT32, 1),
        ("ReduceMax", DType.FLOAT32, -np.inf),
        ("ReduceMin", DType.FLOAT32, np.inf),
        ("ReduceMax", DType.INT8, -128),
        ("ReduceMin", DType.UINT8, 255),
        ("ReduceMin", DType.BOOL, True),
        ("ReduceL2", DType.FLOAT32, 0.0),
        ("ReduceLogSum", DType.FLOAT32, -np.inf),
        ("ReduceLogSumExp", DType.FLOAT32, -np.inf),
    ],
)
def test_reducing_nothing_gives_the_identity(name: str, dtype: DType, identity: float) -> None:
    x = np.zeros((2, 0, 3), dtype=dtype.numpy)
    y = computed(name, [x, np.int64([1])], {"keepdims": 0}, LATEST)
    assert y.dtype == dtype.numpy
    assert_array_equal(y, np.full((2, 3), identity))


def test_nan_and_infinity_propagate() -> None:
    x = np.float32([[1.0, np.nan], [np.inf, 2.0], [-np.inf, -np.inf]])
    axes = np.int64([1])
    assert_array_equal(
        computed("ReduceMax", [x, axes], {"keepdims": 0}, 18), np.float32([np.nan, np.inf, -np.inf])
    )
    assert_array_equal(
        computed("ReduceLogSumExp", [x, axes], {"keepdims": 0}, 18),
        np.float32([np.nan, np.inf, -np.inf]),
    )


def test_log_sum_exp_does_not_overflow() -> None:
    x = np.float32([1000.0, 1000.0])
    (y,) = computed("ReduceLogSumExp", [x], {"keepdims": 1}, 18)
    assert y == pytest.approx(1000 + np.log(2))


def test_narrow_floats_accumulate_in_float32() -> None:
    # 4096 halves of 1.0 stop growing at 2048 when summed in float16.
    assert computed("ReduceSum", [np.ones(4096, np.float16)], {}, 13).tolist() == [4096.0]


@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arg_extremum(name: str, keep: int, last: int, axis: int) -> None:
    x = np.random.default_rng(2).integers(0, 3, (4, 5, 3)).astype(np.float32)
    attributes = {"axis": axis, "keepdims": keep, "select_last_index": last}
    actual = computed(name, [x], attributes, 13)
    wanted = expected(name, [x], attributes, 13, DType.INT64)
    assert actual.dtype == np.int64
    assert_array_equal(actual, wanted)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    op=st.sampled_from([op for op in OPERATORS if op.name != "ReduceProd"]),
)
def test_items_do_not_depend_on_their_batch(
    shape: tuple[int, ...], data: st.DataObject, op: Operator
) -> None:
    """Reducing inner axes gives an item the same bits alone as among others."""
    axes = data.draw(st.lists(st.integers(1, len(shape)), unique=True, min_size=1))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = np.abs(rng.standard_normal((5, *shape)).astype(np.float32)) + 1
    inputs = np.array(sorted(axes), dtype=np.int64)
    together = computed(op.name, [x, inputs], {"keepdims": 1}, LATEST)
    alone = [computed(op.name, [x[i : i + 1], inputs], {"keepdims": 1}, LATEST) for i in range(5)]
    assert_array_equal(together, np.concatenate(alone))
