from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from engine.errors import InvalidModel, ResourceLimit, RunFailed, UnsupportedOp
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import REGISTRY
from engine.ops.rows import RowKind
from tests.engine.ops.single_node import (
    NodeCase,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

X = floats(3, 4, 5)


def scalar(value: object, dtype: object = np.int64) -> np.ndarray:
    return np.array(value, dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [[0, -1, 2], [[0, 1], [2, -3]], 1, []])
def test_gather(axis, indices):
    for dtype in (np.int64, np.int32):
        check_node("Gather", X, np.array(indices, dtype), axis=axis, atol=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_and_scatter_elements(axis):
    indices = np.random.default_rng(0).integers(-3, 3, (2, 3, 4))
    check_node("GatherElements", X, indices, axis=axis, atol=0)
    unique = np.argsort(floats(*X.shape, seed=3), axis=axis)
    check_node("ScatterElements", X, unique, floats(*X.shape, seed=1), axis=axis, atol=0)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatter_that_combines(reduction):
    indices = np.random.default_rng(0).integers(-3, 3, (2, 3, 4))
    updates = floats(2, 3, 4, seed=1)
    check_node("ScatterElements", X, indices, updates, reduction=reduction, opset=18)
    check_node(
        "ScatterND", X, np.array([[0], [2], [0]]), floats(3, 4, 5), reduction=reduction, opset=18
    )


def test_scatter_by_its_first_name():
    check_node("Scatter", X, np.zeros((1, 4, 5), np.int64), floats(1, 4, 5), opset=9, atol=0)
    with pytest.raises(UnsupportedOp, match="removed"):
        REGISTRY.lookup("", "Scatter", 11)


@pytest.mark.parametrize(
    ("indices", "batch"),
    [
        ([[0, 1], [2, -1]], 0),
        ([[2], [0]], 0),
        ([[[0, 1, 2]]], 0),
        ([[1], [0], [-1]], 1),
        ([[[1, 0], [0, 1]]] * 3, 1),
    ],
)
def test_gather_nd(indices, batch):
    check_node("GatherND", X, np.array(indices), batch_dims=batch, atol=0)


def test_scatter_nd():
    check_node("ScatterND", X, np.array([[0, 1], [2, -1]]), floats(2, 5), atol=0)
    check_node("ScatterND", X, np.array([[[0, 1, 2]]]), floats(1, 1), atol=0)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Gather", [X, int64(3)], {}),
        ("Gather", [X, int64(-4)], {}),
        ("GatherElements", [X, np.full((1, 1, 1), 7)], {}),
        ("GatherND", [X, int64(9)[None]], {}),
        ("GatherND", [X, np.zeros((2, 1), np.int64)], {"batch_dims": 1}),
        ("ScatterElements", [X, np.full((1, 1, 1), 7), floats(1, 1, 1)], {}),
        ("ScatterElements", [X, np.zeros((1, 1, 1), np.int64), floats(1, 1, 2)], {}),
        ("ScatterND", [X, int64(9)[None], floats(1, 4, 5)], {}),
        ("ScatterND", [X, int64(1)[None], floats(4, 5)], {}),
    ],
)
def test_indices_that_do_not_fit_fail_when_they_run(op, inputs, attributes):
    with pytest.raises(RunFailed, match=op):
        NodeCase(op, inputs, attributes).run_engine()


ROWS = [
    ("Gather", [X, int64(0, 2)], {"axis": 1}, (0,), (0, 1)),
    ("Gather", [X, np.array([[0, 2]])], {"axis": 1}, (0,), (0, 1)),
    ("Gather", [X, int64(0, 2)], {"axis": 0}, (0,), None),
    ("Gather", [X, np.array([[0], [2], [1]])], {"axis": 0}, (1,), (0, 1)),  # an embedding
    ("Gather", [X, int64(1, 2, 0)], {"axis": 2}, (1,), (2, 1)),
    ("GatherElements", [X, np.zeros((3, 2, 5), np.int64)], {"axis": 1}, (0, 1), (0, 1)),
    ("GatherElements", [X, np.zeros((3, 2, 5), np.int64)], {"axis": 0}, (0, 1), None),
    ("GatherElements", [X, np.zeros((3, 2, 5), np.int64)], {"axis": 1}, (0,), None),
    ("GatherND", [X, np.zeros((3, 1), np.int64)], {"batch_dims": 1}, (0, 1), (0, 1)),
    ("GatherND", [X, np.zeros((3, 1), np.int64)], {}, (1,), (0, 1)),
    ("GatherND", [X, np.zeros((3, 1), np.int64)], {}, (0,), None),
    ("ScatterND", [X, np.zeros((1, 1), np.int64), floats(1, 4, 5)], {}, (0,), None),
    ("TopK", [floats(3, 5), int64(2)], {}, (0,), (0, 1)),
    ("TopK", [floats(3, 5), int64(2)], {"axis": 0}, (0,), None),
    ("CumSum", [floats(3, 5), scalar(1)], {}, (0,), (0, 1)),
    ("CumSum", [floats(3, 5), scalar(0)], {}, (0,), None),
    ("OneHot", [int64(0, 1, 2), scalar(4), floats(2)], {}, (0,), (0, 1)),
    ("OneHot", [int64(0, 1, 2), scalar(4), floats(2)], {"axis": 0}, (0,), (1, 1)),
    ("Trilu", [floats(3, 2, 2)], {}, (0,), (0, 1)),
    ("Trilu", [floats(3, 2)], {}, (0,), None),
    ("NonZero", [floats(3, 2)], {}, (0,), None),
    ("Compress", [floats(3, 2), np.array([True, False])], {"axis": 1}, (0,), None),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "items", "expected"), ROWS)
def test_rows(op, inputs, attributes, items, expected):
    fixed = [i for i in range(1, len(inputs)) if i not in items]
    outputs = 2 if op == "TopK" else 1
    case = NodeCase(op, inputs, attributes, 18, fixed=fixed, outputs=outputs)
    states = row_states(case, items) if expected is None else check_rows(case, items)
    assert {(s.axis, s.block) if s.is_rows else None for s in states} == {expected}


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_top_k(axis, largest):
    x = np.random.default_rng(0).integers(0, 4, (3, 5)).astype(np.float32)  # with equal values
    check_node("TopK", x, int64(2), axis=axis, largest=largest, outputs=2, atol=0)
    check_node("TopK", x, int64(0), axis=axis, outputs=2, atol=0)
    (ours, _) = NodeCase("TopK", [x], {"k": 2, "axis": axis}, opset=9, outputs=2).run_engine()
    assert ours.shape[axis] == 2
    with pytest.raises(RunFailed, match="k=9"):
        NodeCase("TopK", [x, int64(9)], outputs=2).run_engine()


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_of_what_is_no_number(largest):
    x = np.array([3, 1, np.nan, 2, -1, np.nan, np.inf], np.float32)
    attributes = {"largest": largest}
    want, places = NodeCase("TopK", [x, int64(7)], attributes, outputs=2).run_engine()
    assert np.isnan(want[:2] if largest else want[-2:]).all()
    narrow = x.astype(ml_dtypes.bfloat16)
    got, same = NodeCase("TopK", [narrow, int64(7)], attributes, outputs=2).run_engine()
    np.testing.assert_array_equal(got.astype(np.float32), want)
    assert same.tolist() == places.tolist()


def test_top_k_of_numbers_that_have_no_negative():
    x = np.array([[3, 0, 255, 255, 1]], np.uint8)
    values, indices = NodeCase("TopK", [x, int64(3)], outputs=2).run_engine()
    assert values.tolist() == [[255, 255, 3]]
    assert indices.tolist() == [[2, 3, 0]]


def test_non_zero():
    x = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], np.float32)
    check_node("NonZero", x, atol=0)
    assert NodeCase("NonZero", [np.array(3.0, np.float32)]).run_engine()[0].shape == (0, 1)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_cum_sum(axis, reverse, exclusive):
    check_node("CumSum", X, scalar(axis), exclusive=exclusive, reverse=reverse)


def test_compress():
    check_node("Compress", X, np.array([True, False, True]), axis=1, atol=0)
    check_node("Compress", X, np.array([True, False, True, True]), atol=0)
    case = NodeCase("Compress", [X, np.array([True] * 9)], {"axis": 0})
    assert case.run_engine()[0].shape == X.shape


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(time, batch):
    lengths = int64(*range(1, X.shape[batch] + 1)).clip(max=X.shape[time])
    check_node("ReverseSequence", X, lengths, time_axis=time, batch_axis=batch, atol=0)
    with pytest.raises(RunFailed, match="lengths"):
        NodeCase(
            "ReverseSequence", [X, lengths + 9], {"time_axis": time, "batch_axis": batch}
        ).run_engine()


def test_reverse_sequence_rows():
    attributes = {"time_axis": 1, "batch_axis": 0}
    case = NodeCase("ReverseSequence", [X, int64(1, 4, 2)], attributes)
    (state,) = check_rows(case, (0, 1))
    assert state.is_rows
    (state,) = row_states(case, (0,))
    assert not state.is_rows


@pytest.mark.parametrize(
    ("start", "limit", "delta"), [(0, 5, 1), (5, 0, -2), (0, 5, 2), (3, 3, 1), (5, 0, 1)]
)
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.int32])
def test_range(start, limit, delta, dtype):
    inputs = [scalar(v, dtype) for v in (start, limit, delta)]
    check_node("Range", *inputs, atol=1e-6)
    check_node("Range", *inputs, atol=1e-6, fixed=(0, 1, 2))


def test_ranges_without_end_fail():
    with pytest.raises(RunFailed, match="step of 0"):
        NodeCase("Range", [scalar(0), scalar(5), scalar(0)]).run_engine()
    (state,) = row_states(NodeCase("Range", [scalar(0), scalar(5), scalar(1)]), ())
    assert state.kind is RowKind.SHARED


@pytest.mark.parametrize("shape", [[2, 3], [0], []])
def test_constant_of_shape(shape):
    value = numpy_helper.from_array(int64(7))
    for fixed in ((), (0,)):
        check_node("ConstantOfShape", int64(*shape), fixed=fixed, atol=0)
        check_node("ConstantOfShape", int64(*shape), fixed=fixed, value=value, atol=0)
    with pytest.raises((InvalidModel, RunFailed)):
        NodeCase("ConstantOfShape", [int64(-2)]).run_engine()


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_eye_like(k):
    check_node("EyeLike", floats(3, 4), k=k, atol=0)
    check_node("EyeLike", floats(3, 4), k=k, dtype=7, atol=0)
    (state,) = row_states(NodeCase("EyeLike", [floats(3, 4)]), (0,))
    assert state.kind is RowKind.SIZES


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis):
    indices = np.array([[0, 3], [-1, 7]])
    for fixed in ((), (1,)):
        check_node("OneHot", indices, scalar(4), floats(2), axis=axis, fixed=fixed, atol=0)
    plan = GraphPlan(
        NodeCase("OneHot", [indices, scalar(1 << 40), floats(2)]).graph(),
        limits=Limits(run_bytes=1 << 20),
    )
    with pytest.raises(ResourceLimit):
        plan.run({"x0": indices, "x1": scalar(1 << 40), "x2": floats(2)})


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -2, 0, 1, 1 << 40])
def test_trilu(k, upper):
    inputs = [X] if k is None else [X, scalar(k)]
    case = NodeCase("Trilu", inputs, {"upper": upper})
    function = np.triu if upper else np.tril
    np.testing.assert_array_equal(case.run_engine("symbolic")[0], function(X, min(k or 0, 99)))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_gather_of_any_shapes(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    index = st.integers(-size, size - 1)
    indices = data.draw(st.lists(st.lists(index, min_size=2, max_size=2), max_size=3))
    picked = np.array(indices, np.int64).reshape(-1, 2)
    check_node("Gather", floats(*shape), picked, axis=axis, atol=0, dims=("symbolic",))


def test_indices_of_another_rank_are_refused():
    case = NodeCase("GatherElements", [floats(3, 3), int64(0, 1, 2)])
    with pytest.raises(InvalidModel, match="rank"):
        case.graph()
