"""Operators of com.microsoft that came before ONNX's own, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import (
    NodeCase,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

MICROSOFT = "com.microsoft"


def case(op: str, *inputs: np.ndarray | None, outputs: int = 1, **attributes: object) -> NodeCase:
    return NodeCase(op, inputs, attributes, outputs=outputs, domain=MICROSOFT)


def check(op: str, *inputs: np.ndarray | None, **more: object) -> list[np.ndarray]:
    return check_node(op, *inputs, domain=MICROSOFT, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [-1, 0, 2])
@pytest.mark.parametrize("upper", [0, 1])
def test_triangles(upper, k):
    check("Trilu", floats(2, 3, 4), np.array(k, np.int64), upper=upper, atol=0)


def test_gathered_tuples():
    check("GatherND", floats(3, 4, 5), int64(0, 2, 2, 1).reshape(2, 2), atol=0)
    check("GatherND", floats(3, 4), np.array([[1], [0]], np.int32), atol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grids(mode, padding):
    grid = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(np.float32)
    check("GridSample", floats(2, 3, 5, 6), grid, mode=mode, padding_mode=padding, atol=1e-4)


@pytest.mark.parametrize("matrix", [False, True])
def test_padding(matrix):
    pads = int64(0, 1, 2, -1)
    pads = pads[None] if matrix else pads
    check("Pad", floats(3, 4), pads, np.array([7], np.float32), atol=0, fixed=(1,))
    check("Pad", floats(3, 4), int64(0, 1, 2, 1), mode="reflect", atol=0, fixed=(1,))


@pytest.mark.parametrize("fixed", [(), (0, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_ranges(dtype, fixed):
    start, limit, step = (np.array(v, dtype) for v in (2, 9, 3))
    check("Range", start, limit, atol=0, fixed=fixed)
    check("Range", start, limit, step, atol=0, fixed=fixed)
    check("Range", start.reshape(1), limit.reshape(1), atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("fixed", [(), (1,)])
def test_a_new_axis(axis, fixed):
    check("ExpandDims", floats(3, 4), np.array(axis, np.int32), atol=0, fixed=fixed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_inverse(dtype):
    x = (floats(2, 3, 4, 4) + 4 * np.eye(4)).astype(dtype)
    tolerance = 1e-2 if dtype == np.float16 else 1e-5
    check("Inverse", x, rtol=tolerance, atol=tolerance)
    with pytest.raises(InvalidModel, match="square"):
        case("Inverse", x[..., :3].copy()).graph()


def test_a_singular_matrix_is_an_error():
    import engine

    node = case("Inverse", np.zeros((2, 2), np.float32))
    with (
        engine.load(node.model(), device="reference") as model,
        pytest.raises(RunFailed, match="Singular"),
    ):
        model.run(node.feeds())


def test_different_values_in_their_first_order():
    x = np.array([2, 1, 1, 3, 4, 3, 2, -1], np.float32)
    y, places, counts = check("Unique", x, outputs=3, atol=0)
    assert y.tolist() == [2, 1, 3, 4, -1]
    assert places.tolist() == [0, 1, 1, 2, 3, 2, 0, 4]
    assert counts.tolist() == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_repeated_runs_of_tokens(size):
    ids = np.array([[0, 1, 2, 0, 1], [3, 3, 3, 3, 3], [4, 3, 2, 1, 0]], np.int64)
    check("NGramRepeatBlock", ids, floats(3, 6), ngram_size=size, atol=0)
    with pytest.raises(InvalidModel, match="ngram_size"):
        case("NGramRepeatBlock", ids, floats(3, 6), ngram_size=0).graph()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances(dtype, metric):
    a, b = floats(5, 7, dtype=dtype), floats(4, 7, seed=1, dtype=dtype)
    check("CDist", a, b, metric=metric, rtol=1e-4)
    with pytest.raises(UnsupportedOp, match="hamming"):
        case("CDist", a, b, metric="hamming").graph()


@pytest.mark.parametrize(
    ("bad", "attributes", "expected"),
    [
        (0.0, {}, True),
        (np.nan, {}, False),
        (np.inf, {"isnan_only": 1}, True),
        (np.inf, {"isinf_only": 1}, False),
        (np.nan, {"isinf_only": 1}, True),
    ],
)
def test_finite(bad, attributes, expected):
    inputs = [floats(3), np.array([1, bad], np.float32)]
    (ours,) = case("IsAllFinite", *inputs, **attributes).run_engine("symbolic")
    assert ours.dtype == bool
    assert bool(ours) is expected


SQUARES = np.tile(np.eye(2, dtype=np.float32), (3, 1, 1))
ROWS = [
    (case("Inverse", SQUARES), (0,), True),
    (case("Inverse", np.eye(3, dtype=np.float32)), (0,), False),
    (
        case("NGramRepeatBlock", np.zeros((3, 4), np.int64), floats(3, 5), ngram_size=2),
        (0, 1),
        True,
    ),
    (case("CDist", floats(3, 4), floats(5, 4)), (0,), True),
    (case("Unique", floats(3)), (0,), False),
]


@pytest.mark.parametrize(("node", "items", "expected"), ROWS)
def test_rows(node, items, expected):
    (state,) = check_rows(node, items) if expected else row_states(node, items)
    assert state.is_rows == expected
