from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.ir.types import TensorType, symbol
from engine.limits import Limits
from engine.ops.rows import RowKind
from tests.engine.ops.single_node import (
    NodeCase,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

X = floats(2, 3, 4)


@pytest.mark.parametrize(
    "part", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 9}, {"start": 3}]
)
def test_shape(part):
    check_node("Shape", X, **part, atol=0)
    check_node("Size", X, atol=0)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((2, 3, 4), [6, 4]),
        ((2, 3, 4), [0, -1]),
        ((2, 3, 4), [-1]),
        ((2, 3, 4), [4, 0, -1]),
        ((1,), []),
    ],
)
@pytest.mark.parametrize("fixed", [(), (1,)])
def test_reshape(shape, target, fixed):
    check_node("Reshape", floats(*shape), int64(*target), fixed=fixed, atol=0)


def test_reshape_may_take_zero_by_the_letter():
    check_node("Reshape", floats(0, 3), int64(3, 0), allowzero=1, opset=14, atol=0)


def test_reshape_of_nothing():
    case = NodeCase("Reshape", [floats(0, 3), int64(0, -1)])
    assert case.run_engine()[0].shape == (0, 3)
    case = NodeCase("Reshape", [floats(0, 3), int64(5, 2, -1)])
    assert case.run_engine()[0].shape == (5, 2, 0)


def test_reshape_solves_its_dims_symbolically():
    graph = NodeCase("Reshape", [floats(2, 3, 4), int64(0, -1, 2)], fixed=(1,)).graph("symbolic")
    n, h, w = (symbol(f"d0{k}") for k in "abc")
    assert graph.outputs[0].type.shape == (n, h * w // 2, 2)


@pytest.mark.parametrize("target", [[5, 5], [-1, -1], [7, -1], [0, 0, 0, 0]])
def test_reshapes_that_do_not_fit_are_refused(target):
    with pytest.raises((InvalidModel, RunFailed), match="Reshape"):
        GraphPlan(NodeCase("Reshape", [X, int64(*target)], fixed=(1,)).graph()).run({"x0": X})
    graph = NodeCase("Reshape", [X, int64(*target)]).graph("symbolic")
    with pytest.raises((InvalidModel, RunFailed), match="Reshape"):
        GraphPlan(graph).run({"x0": X, "x1": int64(*target)})


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_flatten(axis):
    check_node("Flatten", X, axis=axis, atol=0)
    check_node("Flatten", floats(2, 0, 3), axis=axis, atol=0)


def test_flatten_outside_of_the_axes_is_refused():
    with pytest.raises(InvalidModel, match="axis"):
        NodeCase("Flatten", [X], {"axis": 4}).graph()


@pytest.mark.parametrize("axes", [None, [0], [2], [0, 2], [-1]])
def test_squeeze(axes):
    x = floats(1, 3, 1)
    check_node("Squeeze", x, *([] if axes is None else [int64(*axes)]), atol=0, fixed=(1,))
    check_node("Squeeze", x, opset=11, atol=0, **({} if axes is None else {"axes": axes}))


@pytest.mark.parametrize("axes", [[0], [1, 3], [-1], [-1, 0], [4, 0]])
def test_unsqueeze(axes):
    for fixed in ((1,), ()):
        check_node("Unsqueeze", X, int64(*axes), atol=0, fixed=fixed)
    check_node("Unsqueeze", X, opset=11, axes=axes, atol=0)


@pytest.mark.parametrize(
    ("op", "axes"),
    [("Squeeze", [1]), ("Squeeze", [0, 0]), ("Unsqueeze", [9]), ("Unsqueeze", [1, 1])],
)
def test_axes_that_do_not_fit_are_refused(op, axes):
    with pytest.raises(InvalidModel, match=op):
        NodeCase(op, [floats(1, 3), int64(*axes)], fixed=(1,)).graph()


@pytest.mark.parametrize("perm", [None, [0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_transpose(perm):
    check_node("Transpose", X, atol=0, **({} if perm is None else {"perm": perm}))


@pytest.mark.parametrize("perm", [[0, 1], [0, 0, 1], [0, 1, 3]])
def test_orders_of_other_axes_are_refused(perm):
    with pytest.raises(InvalidModel, match="perm"):
        NodeCase("Transpose", [X], {"perm": perm}).graph()


def test_identity_changes_nothing():
    check_node("Identity", X, atol=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_and_split(axis):
    check_node("Concat", X, X, X[:2], axis=axis, atol=0)
    parts = {0: [1, 1], 1: [1, 2], -1: [3, 1]}[axis]
    check_node("Split", X, int64(*parts), axis=axis, outputs=2, atol=0)
    check_node("Split", X, int64(*parts), axis=axis, outputs=2, atol=0, fixed=(1,))
    check_node("Split", X, axis=axis, split=parts, outputs=2, atol=0, opset=11)


def test_split_evenly_or_nearly():
    check_node("Split", floats(6, 2), outputs=3, atol=0)
    check_node("Split", floats(7, 2), outputs=3, num_outputs=3, opset=18, atol=0)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "outputs"),
    [
        ("Concat", [X, floats(2, 3)], {"axis": 0}, 1),
        ("Concat", [X, X], {"axis": 3}, 1),
        ("Split", [X, int64(1, 2)], {"axis": 0}, 2),
        ("Split", [X, int64(1, 1)], {"axis": 0}, 3),
        ("Split", [X], {"axis": 0, "num_outputs": 1 << 40}, 2),
        ("Tile", [X, int64(1, 2)], {}, 1),
        ("Expand", [X, int64(5, 4)], {}, 1),
        ("Pad", [X, int64(1, 2)], {}, 1),
    ],
)
def test_parts_that_do_not_fit_are_refused(op, inputs, attributes, outputs):
    case = NodeCase(
        op, inputs, attributes, 18, fixed=(1,) if op != "Concat" else (), outputs=outputs
    )
    with pytest.raises(InvalidModel, match=op):
        case.graph()


@pytest.mark.parametrize(
    ("shape", "target"),
    [((3, 1), [2, 1, 4]), ((3, 4), [1]), ((1,), [0]), ((2, 3), [2, 3]), ((), [2, 2])],
)
def test_expand(shape, target):
    for fixed in ((), (1,)):
        check_node("Expand", floats(*shape), int64(*target), fixed=fixed, atol=0)


@pytest.mark.parametrize("repeats", [[1, 2, 3], [2, 1, 1], [0, 1, 1]])
def test_tile(repeats):
    for fixed in ((), (1,)):
        check_node("Tile", X, int64(*repeats), fixed=fixed, atol=0)


PADS = [
    ([1, 0, 2, 0, 1, 1], "constant"),
    ([0, 0, -1, 0, 1, -1], "constant"),
    ([1, 0, 2, 0, 1, 1], "edge"),
    ([1, 0, 2, 0, 1, 1], "reflect"),
    ([1, 0, 2, 0, 1, 1], "wrap"),
]


@pytest.mark.parametrize(("pads", "mode"), PADS)
def test_pad(pads, mode):
    opset = 19 if mode == "wrap" else 18
    for fixed in ((), (1,)):
        check_node("Pad", X, int64(*pads), mode=mode, fixed=fixed, opset=opset, atol=0)
    if mode == "constant":
        value = np.array(7, np.float32)
        check_node("Pad", X, int64(*pads), value, opset=opset, atol=0)
        check_node("Pad", X, int64(1, 2), value, int64(-1), opset=18, atol=0, fixed=(1, 3))
    if mode != "wrap":
        check_node("Pad", X, pads=pads, mode=mode, opset=2, atol=0)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("Expand", [floats(1), int64(1 << 40)]),
        ("Tile", [floats(2), int64(1 << 40)]),
        ("Pad", [floats(2), int64(1 << 40, 0)]),
        ("ConstantOfShape", [int64(1 << 40, 2)]),
        (
            "Range",
            [int64(0)[0].reshape(()), int64(1 << 40)[0].reshape(()), int64(1)[0].reshape(())],
        ),
    ],
)
def test_absurd_sizes_are_refused_before_they_are_allocated(op, inputs):
    plan = GraphPlan(NodeCase(op, inputs, opset=18).graph(), limits=Limits(run_bytes=1 << 20))
    with pytest.raises(ResourceLimit):
        plan.run({f"x{i}": x for i, x in enumerate(inputs)})


SLICES = [
    ((1, 0), (3, 2), None, None),
    ((-2,), (9,), (1,), None),
    ((5, -1), (-9, 0), (0, 2), (-2, -1)),
    ((0,), ((1 << 63) - 1,), (2,), (2,)),
    ((-1,), (-(1 << 62),), (1,), (-1,)),
    ((3, 2), (1, 2), (0, 1), (1, 1)),
    ((9,), (12,), (0,), (1,)),
    ((-9,), (-8,), (0,), (1,)),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(starts, ends, axes, steps):
    x = floats(6, 5, 4)
    inputs = [x, int64(*starts), int64(*ends)]
    if axes is not None:
        inputs.append(int64(*axes))
    if steps is not None:
        inputs.append(int64(*steps))
    for fixed in ((), (1, 2, 3, 4)):
        check_node("Slice", *inputs, fixed=fixed, atol=0)
    if steps is None:
        attributes = {} if axes is None else {"axes": axes}
        check_node("Slice", x, starts=starts, ends=ends, opset=9, atol=0, **attributes)


bounds = st.integers(-8, 8)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 5), start=bounds, end=bounds, step=st.integers(-3, 3).filter(bool))
def test_slices_with_any_bounds(size, start, end, step):
    inputs = [floats(size, 2), *(int64(v) for v in (start, end, 0, step))]
    check_node("Slice", *inputs, fixed=(1, 2, 3, 4), atol=0, dims=("static", "symbolic"))


def test_slices_without_end_are_refused():
    case = NodeCase("Slice", [X, int64(0), int64(2), int64(0), int64(0)])
    with pytest.raises(RunFailed, match="step of 0"):
        case.run_engine()
    with pytest.raises(InvalidModel, match="lengths"):
        NodeCase("Slice", [X, int64(0), int64(2, 3)], fixed=(1, 2)).graph()


def test_slices_keep_dims_they_can_name():
    x = floats(6, 5)

    def dim(start: int, end: int, step: int = 1) -> object:
        inputs = [x, int64(start), int64(end), int64(0), int64(step)]
        kind = NodeCase("Slice", inputs, fixed=(1, 2, 3, 4)).graph("symbolic").outputs[0].type
        assert kind.shape is not None
        return kind.shape[0]

    n = symbol("d0a")
    assert dim(0, 1 << 40) == n
    assert dim(0, 1 << 40, 2) == (n + 1) // 2
    assert dim(-1, -(1 << 40), -1) == n
    assert str(dim(1, 1 << 40)) == "max(0, d0a-min(1, d0a))"


ROWS = [
    ("Transpose", [floats(3, 4, 5)], {"perm": [1, 0, 2]}, (0,), (1, 1)),
    ("Flatten", [floats(3, 4, 5)], {}, (0,), (0, 1)),
    ("Flatten", [floats(3, 4, 5)], {"axis": 2}, (0,), (0, 4)),
    ("Flatten", [floats(3, 4, 5)], {"axis": 0}, (0,), (1, 20)),
    ("Reshape", [floats(3, 4, 5), int64(0, -1)], {}, (0,), (0, 1)),
    ("Reshape", [floats(3, 4, 5), int64(-1, 5)], {}, (0,), (0, 4)),
    ("Reshape", [floats(3, 4, 6), int64(2, -1)], {}, (0,), None),
    ("Unsqueeze", [floats(3, 4), int64(0)], {}, (0,), (1, 1)),
    ("Squeeze", [floats(3, 1, 4), int64(1)], {}, (0,), (0, 1)),
    ("Identity", [floats(3, 4)], {}, (0,), (0, 1)),
    ("Concat", [floats(3, 4), floats(3, 2)], {"axis": 1}, (0, 1), (0, 1)),
    ("Concat", [floats(3, 4), floats(3, 4)], {"axis": 0}, (0, 1), None),
    ("Concat", [floats(3, 4), floats(3, 2)], {"axis": 1}, (0,), None),
    ("Slice", [floats(3, 4), int64(1), int64(3), int64(1)], {}, (0,), (0, 1)),
    ("Slice", [floats(3, 4), int64(0), int64(1 << 40), int64(0)], {}, (0,), (0, 1)),
    ("Slice", [floats(3, 4), int64(1), int64(3), int64(0)], {}, (0,), None),
    ("Slice", [floats(3, 4), int64(-1), int64(-9), int64(0), int64(-1)], {}, (0,), None),
    ("Expand", [floats(3, 1), int64(1, 4)], {}, (0,), (0, 1)),
    ("Expand", [floats(3, 1), int64(2, 1, 4)], {}, (0,), (1, 1)),
    ("Tile", [floats(3, 2), int64(1, 4)], {}, (0,), (0, 1)),
    ("Tile", [floats(3, 2), int64(2, 1)], {}, (0,), None),
    ("Pad", [floats(3, 2), int64(0, 1, 0, 2)], {}, (0,), (0, 1)),
    ("Pad", [floats(3, 2), int64(1, 0, 0, 0)], {}, (0,), None),
    ("Pad", [floats(3, 2), int64(1, 2), np.array(0, np.float32), int64(-1)], {}, (0,), (0, 1)),
    ("Pad", [floats(3, 2), int64(1, 2), np.array(0, np.float32), int64(0)], {}, (0,), None),
    ("Dropout", [floats(3, 2)], {}, (0,), (0, 1)),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "items", "expected"), ROWS)
def test_rows_move_with_their_axis(op, inputs, attributes, items, expected):
    fixed = range(1, len(inputs)) if op != "Concat" else ()
    case = NodeCase(op, inputs, attributes, 18, fixed=fixed)
    (state,) = row_states(case, items) if expected is None else check_rows(case, items)
    assert ((state.axis, state.block) if state.is_rows else None) == expected


def test_split_rows():
    for axis, expected in ((1, True), (0, False)):
        case = NodeCase("Split", [floats(3, 6)], {"axis": axis}, outputs=3)
        assert [s.is_rows for s in row_states(case, (0,))] == [expected] * 3
    check_rows(NodeCase("Split", [floats(3, 6)], {"axis": 1}, outputs=3), (0,))


def test_a_shape_tells_how_many_items_there_are():
    (state,) = row_states(NodeCase("Shape", [X]), (0,))
    assert state.kind is RowKind.SIZES
    (state,) = row_states(NodeCase("Shape", [X], {"start": 1}), (0,))
    assert state.kind is RowKind.SHARED
    (state,) = row_states(NodeCase("Size", [X]), (0,))
    assert state.kind is RowKind.SIZES


def test_unknown_targets_leave_the_rank():
    graph = NodeCase("Reshape", [X, int64(6, 4)]).graph()
    kind = graph.outputs[0].type
    assert isinstance(kind, TensorType)
    assert kind.rank == 2


def test_targets_that_are_no_vectors_are_refused():
    for op in ("Reshape", "Expand"):
        with pytest.raises(InvalidModel, match="vector"):
            NodeCase(op, [floats(1, 4), int64(2, 2)[None]]).graph()
