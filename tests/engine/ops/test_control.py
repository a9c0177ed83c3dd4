"""If, Loop and Scan: against ONNX Runtime, their types, their limits, and what is refused."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import engine
from engine.device import RunControl
from engine.errors import InvalidModel, ResourceLimit, RunCancelled, RunFailed
from engine.limits import Limits
from engine.ops.registry import REGISTRY
from tests.counting import counted_calls
from tests.engine.onnx_models import graph_of, load, normal
from tests.engine.ops.bodies import BOOL, FLOAT, INT64, check, graph, model, tensor, untyped

node = helper.make_node
X = normal(2, 3)
OPSETS = (11, 13, 16, 19, 21)


def typed(data: bytes) -> list[str]:
    return [str(v.type) for v in graph_of(data).outputs]


# ------------------------------------------------------------------------------ If


def choice(
    then: onnx.GraphProto, other: onnx.GraphProto, outputs: Any = None, opset: int = 21
) -> bytes:
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        [tensor("c", [], BOOL), tensor("x", ["N", 3])],
        outputs or untyped("y"),
        opset,
    )


def branch(op: str, *inputs: str, **attributes: Any) -> onnx.GraphProto:
    fixed = attributes.pop("fixed", {})
    return graph([node(op, list(inputs), ["out"], **attributes)], [], untyped("out"), op, **fixed)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("condition", [True, False])
def test_if_runs_one_branch(condition: bool, opset: int) -> None:
    data = choice(branch("Neg", "x"), branch("Exp", "x"), opset=opset)
    check(data, {"c": np.array(condition), "x": X})
    assert typed(data) == ["float32[N, 3]"]


def test_conditions_may_have_one_dim_and_branches_may_be_captured_values() -> None:
    keep = graph([], [], [tensor("x", None)], "keep")
    data = model(
        [node("If", ["c"], ["y"], then_branch=keep, else_branch=branch("Neg", "x"))],
        [tensor("c", [1], BOOL), tensor("x", ["N", 3])],
        untyped("y"),
    )
    for condition in (True, False):
        got = check(data, {"c": np.array([condition]), "x": X}, {"y": X if condition else -X})
        assert got["y"].shape == (2, 3)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (branch("Transpose", "x"), r"float32\[any_\d+, any_\d+\]"),
        (branch("Concat", "x", "x", axis=0), r"float32\[any_\d+, 3\]"),
        (branch("Flatten", "x", axis=0), r"float32\[any_\d+, any_\d+\]"),
        (branch("ReduceSum", "x", keepdims=0), r"float32\[\.\.\.\]"),
        (branch("Add", "x", "one", fixed={"one": np.float32([1])}), r"float32\[N, 3\]"),
    ],
)
def test_branches_of_different_shapes_are_joined(other: onnx.GraphProto, kind: str) -> None:
    import re

    data = choice(branch("Neg", "x"), other)
    assert re.fullmatch(kind, typed(data)[0])
    for condition in (True, False):
        check(data, {"c": np.array(condition), "x": X})


def test_conditions_are_one_bool() -> None:
    for shape, kind in (([], FLOAT), ([2], BOOL)):
        data = model(
            [
                node(
                    "If",
                    ["c"],
                    ["y"],
                    then_branch=branch("Neg", "x"),
                    else_branch=branch("Abs", "x"),
                )
            ],
            [tensor("c", shape, kind), tensor("x", [2])],
            untyped("y"),
        )
        with pytest.raises(InvalidModel, match="expected one bool"):
            graph_of(data)


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (branch("Cast", "x", to=INT64), "cannot be float32.* and int64|int64.* and float32"),
        (graph([], [], [], "none"), "branches give 0 and 1"),
        (
            graph([node("Neg", ["i"], ["out"])], [tensor("i", [2])], untyped("out")),
            "has 1 inputs, its node gives it 0",
        ),
    ],
)
def test_branches_that_do_not_go_together_are_refused(then: onnx.GraphProto, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        graph_of(choice(then, branch("Neg", "x")))


def test_both_branches_may_use_the_same_names_and_nodes_may_share_a_name() -> None:
    """Inlining gives each its own names."""
    ifs = [
        node(
            "If",
            [f"c{i}"],
            [f"y{i}"],
            name="same",
            then_branch=branch("Neg", "x" if i == 0 else "y0"),
            else_branch=branch("Abs", "x"),
        )
        for i in range(3)
    ]
    fixed = {f"c{i}": np.array(True) for i in range(2)}
    data = model(
        ifs, [tensor("c2", [], BOOL), tensor("x", ["N", 3])], untyped("y0", "y1", "y2"), **fixed
    )
    ops = [n.op for n in graph_of(data).nodes]
    assert ops.count("If") == 1 and ops.count("Neg") == 2
    check(data, {"c2": np.array(True), "x": X}, {"y0": -X, "y1": X, "y2": X})


# ------------------------------------------------------------------------------ Loop

ITERATION = [tensor("i", [], INT64), tensor("go", [], BOOL)]


def loop(
    body: list[onnx.NodeProto],
    *,
    states: int = 1,
    scans: int = 0,
    trips: str = "m",
    condition: str = "",
    shapes: Any = None,
    go_on: str = "go",
    opset: int = 21,
    state_inputs: list[str] | None = None,
    inner: dict[str, Any] | None = None,
    **fixed: Any,
) -> bytes:
    """A Loop over states s0.. -> t0.., stacking u0..; `x` leads to every state by default."""
    before = [tensor(f"s{k}", (shapes or {}).get(f"s{k}")) for k in range(states)]
    after = untyped(*(f"t{k}" for k in range(states)), *(f"u{k}" for k in range(scans)))
    flag = [node("Identity", [go_on], ["on"])]
    inside = graph([*body, *flag], [*ITERATION, *before], [*untyped("on"), *after], **(inner or {}))
    names = [*(f"y{k}" for k in range(states)), *(f"z{k}" for k in range(scans))]
    outer = [
        node("Loop", [trips, condition, *(state_inputs or ["x"] * states)], names, body=inside)
    ]
    inputs = [tensor("x", ["N", 3])]
    inputs += [tensor("m", [], INT64)] if trips == "m" and "m" not in fixed else []
    inputs += [tensor("c", [], BOOL)] if condition == "c" and "c" not in fixed else []
    return model(outer, inputs, untyped(*names), opset, **fixed)


DOUBLE = [node("Add", ["s0", "s0"], ["t0"])]
STACK = [*DOUBLE, node("Neg", ["s0"], ["u0"])]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("trips", [0, 1, 4, -3])
def test_loop_runs_as_often_as_it_is_told(trips: int, opset: int) -> None:
    data = loop(STACK, scans=1, opset=opset)
    # Without a pass, ONNX Runtime forgets what it would have stacked.
    nothing = {"y0": X, "z0": np.zeros((0, 2, 3), np.float32)}
    check(data, {"x": X, "m": np.array(trips)}, nothing if trips <= 0 else None)
    assert typed(data)[0] == "float32[N, 3]"


def test_a_loop_tells_how_long_its_stacked_outputs_are() -> None:
    assert typed(loop(STACK, scans=1, m=np.array(5)))[1] == "float32[5, N, 3]"
    assert typed(loop(STACK, scans=1, m=np.array(-5)))[1] == "float32[0, N, 3]"
    shape = node("Shape", ["x"], ["dims"])
    zero = node("Gather", ["dims", "first"], ["m"], axis=0)
    built = onnx.ModelProto.FromString(loop(STACK, scans=1, trips="m", first=np.array(0)))
    del built.graph.input[1]
    built.graph.node.insert(0, zero)
    built.graph.node.insert(0, shape)
    data = built.SerializeToString()
    assert typed(data)[1] == "float32[N, N, 3]"
    check(data, {"x": X})


STOP = [*STACK, node("Less", ["i", "two"], ["more"])]


@pytest.mark.parametrize("condition", ["", "c"])
@pytest.mark.parametrize("trips", ["", "m"])
@pytest.mark.parametrize("begins", [True, False])
def test_a_loop_stops_when_its_condition_says_so(trips: str, condition: str, begins: bool) -> None:
    data = loop(
        STOP, scans=1, trips=trips, condition=condition, go_on="more", inner={"two": np.array(2)}
    )
    feeds: dict[str, Any] = {"x": X}
    feeds |= {"m": np.array(100)} if trips else {}
    feeds |= {"c": np.array(begins)} if condition else {}
    if not condition and not begins:
        return
    count = 3 if begins else 0
    stacked = np.stack([-(X * 2.0**k) for k in range(3)]).astype(np.float32)[:count]
    wanted = {"y0": X * np.float32(2**count), "z0": stacked}
    check(data, feeds, wanted)
    if count:
        check(data, feeds)


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_states_that_change_their_shape_get_open_dims(trips: int) -> None:
    grow = [node("Concat", ["s0", "x"], ["t0"], axis=0)]
    data = loop(grow)
    assert typed(data)[0].endswith(", 3]") and "any" in typed(data)[0]
    check(data, {"x": X, "m": np.array(trips)}, {"y0": np.concatenate([X] * (trips + 1))})


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_states_that_change_their_rank_have_no_shape(trips: int) -> None:
    data = loop([node("Unsqueeze", ["s0", "front"], ["t0"])], inner={"front": np.array([0])})
    assert typed(data) == ["float32[...]"]
    check(data, {"x": X, "m": np.array(trips)}, {"y0": X.reshape(*(1,) * trips, 2, 3)})


def test_what_was_equal_in_a_pass_is_not_taken_for_equal_behind_the_loop() -> None:
    """The stacked value is the state before the pass: its dims are not those of the last state."""
    grow = [node("Concat", ["s0", "x"], ["t0"], axis=0), node("Neg", ["s0"], ["u0"])]
    first, second = typed(loop(grow, scans=1))
    assert first.split("[")[1].split(",")[0] not in second
    check(
        loop(grow, scans=1),
        {"x": X, "m": np.array(1)},
        {"y0": np.concatenate([X, X]), "z0": -X[None]},
    )


def test_states_may_swap_places() -> None:
    swap = [node("Identity", ["s1"], ["t0"]), node("Transpose", ["s0"], ["t1"])]
    data = loop(swap, states=2, state_inputs=["x", "x"])
    for trips in range(4):
        check(data, {"x": X, "m": np.array(trips)})


def test_captured_and_shadowed_names() -> None:
    """The body hides `h`, which the graph around it defines after the loop, and reads `k`."""
    body = [
        node("Mul", ["s0", "k"], ["h"]),
        node("Add", ["h", "x"], ["t0"]),
    ]
    built = onnx.ModelProto.FromString(loop(body))
    built.graph.node.insert(0, node("Exp", ["x"], ["k"]))
    built.graph.node.append(node("Neg", ["y0"], ["h"]))
    built.graph.output.append(untyped("h")[0])
    want = X
    for _ in range(3):
        want = want * np.exp(X) + X
    data = built.SerializeToString()
    check(data, {"x": X, "m": np.array(3)}, {"y0": want, "h": -want})


def test_loops_nest_and_capture_from_all_around() -> None:
    inner = graph(
        [
            node("Add", ["a", "x"], ["b"]),
            node("Mul", ["b", "s0"], ["c2"]),
            node("Identity", ["go2"], ["on2"]),
        ],
        [tensor("j", [], INT64), tensor("go2", [], BOOL), tensor("a", None)],
        untyped("on2", "c2", "b"),
        "inner",
    )
    body = [
        node("Loop", ["three", "", "s0"], ["t0", "parts"], body=inner),
        node("ReduceSum", ["parts"], ["u0"], keepdims=0),
    ]
    data = loop(body, scans=1, inner={"three": np.array(3)})
    check(data, {"x": X / 4, "m": np.array(2)})


def test_the_number_of_a_pass_and_a_condition_of_one_dim() -> None:
    inside = graph(
        [node("Mul", ["i", "s0"], ["t0"]), node("Identity", ["go"], ["on"])],
        [tensor("i", [1], INT64), tensor("go", [1], BOOL), tensor("s0", [1], INT64)],
        [tensor("on", [1], BOOL), tensor("t0", [1], INT64), tensor("i", [1], INT64)],
    )
    data = model(
        [node("Loop", ["m", "c", "x"], ["y", "z"], body=inside)],
        [tensor("m", [1], INT64), tensor("c", [1], BOOL), tensor("x", [1], INT64)],
        [tensor("y", None, INT64), tensor("z", None, INT64)],
    )
    feeds = {"m": np.array([4]), "c": np.array([True]), "x": np.array([7])}
    check(data, feeds, {"y": np.array([0]), "z": np.arange(4)[:, None]})


def test_what_a_body_computes_from_weights_is_computed_once() -> None:
    body = [node("Exp", ["w"], ["e"]), node("Add", ["s0", "e"], ["t0"])]
    data = loop(body, w=np.float32([1, 2, 3]))
    with load(data) as net:
        (call,) = net.graph.nodes
        ((_, inside),) = call.bodies
        assert [n.op for n in inside.nodes if n.op != "Identity"] == ["Add"]
    check(data, {"x": X, "m": np.array(3)})


# ------------------------------------------------------------------------------ limits


def refused(data: bytes, limits: Limits, **feeds: Any) -> str:
    with pytest.raises(ResourceLimit) as caught, load(data, limits=limits) as net:
        net.run(feeds)
    return str(caught.value)


def test_loops_that_never_end_are_refused_at_once() -> None:
    with counted_calls() as counter:
        assert "loop_iterations=1000000" in refused(loop(DOUBLE), Limits(), x=X, m=np.array(2**62))
        assert "endless" in refused(
            loop(DOUBLE, trips="", condition="c"), Limits(), x=X, c=np.array(True)
        )
        assert "loop_iterations" in refused(loop(DOUBLE, m=np.array(2**62)), Limits(), x=X)
    assert counter.calls < 500_000  # one call for each of a million passes would be more


def test_loops_that_do_not_end_in_time_are_stopped() -> None:
    body = [*DOUBLE, node("Less", ["i", "lots"], ["more"])]
    data = loop(body, trips="", go_on="more", inner={"lots": np.array(2**40)})
    assert "more than 50" in refused(data, Limits(loop_iterations=50), x=X)
    many = loop(body, go_on="more", inner={"lots": np.array(2**40)})
    assert "more than 50" in refused(many, Limits(loop_iterations=50), x=X, m=np.array(2**62))
    with load(many, limits=Limits(loop_iterations=50)) as net:
        net.run({"x": X, "m": np.array(50)})


def test_what_a_loop_collects_counts() -> None:
    data = loop(STACK, scans=1)
    big = np.zeros((1 << 14, 3), np.float32)  # 192 KiB
    limits = Limits(run_bytes=8 << 20)
    assert "run_bytes" in refused(data, limits, x=big, m=np.array(100))
    with load(data, limits=limits) as net:
        net.run({"x": big, "m": np.array(10)})


def test_states_that_grow_are_stopped() -> None:
    data = loop([node("Concat", ["s0", "s0"], ["t0"], axis=0)])
    assert "run_bytes" in refused(data, Limits(run_bytes=1 << 20), x=X, m=np.array(60))


def test_a_running_loop_can_be_cancelled() -> None:
    control = RunControl()
    with load(loop(DOUBLE), limits=Limits(loop_iterations=10**9)) as net:
        timer = threading.Timer(0.1, control.cancel)
        timer.start()
        with pytest.raises(RunCancelled):
            net.run({"x": X, "m": np.array(10**9)}, control=control)


def test_loops_in_loops_are_typed_in_time() -> None:
    """Each level's states change their shape, so that every level is walked several times."""
    body = [node("Unsqueeze", ["s0", "front"], ["t0"]), node("Identity", ["go"], ["on"])]
    for _ in range(20):
        inside = graph(
            body, [*ITERATION, tensor("s0", None)], untyped("on", "t0"), front=np.array([0])
        )
        body = [
            node("Loop", ["m", "", "s0"], ["t0"], body=inside),
            node("Identity", ["go"], ["on"]),
        ]
    data = model(
        [node("Loop", ["m", "", "x"], ["y"], body=inside)],
        [tensor("x", ["N", 3]), tensor("m", [], INT64)],
        untyped("y"),
    )
    with counted_calls() as counter:
        graph_of(data)
    assert counter.calls < 2_000_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (loop([node("Cast", ["s0"], ["t0"], to=INT64)]), "cannot be float32.* and int64"),
        (loop(DOUBLE, m=np.float32(3)), "trip count is float32"),
        (loop(DOUBLE, condition="c", c=np.array([True, True])), "expected one bool"),
        (loop(DOUBLE, state_inputs=["x", "x"]), "its body has 3 inputs, expected 4"),
    ],
)
def test_loops_that_cannot_run_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        graph_of(data)


def test_passes_must_give_equal_shapes_to_stack() -> None:
    grow = [node("Concat", ["s0", "x"], ["t0"], axis=0), node("Neg", ["s0"], ["u0"])]
    with load(loop(grow, scans=1)) as net, pytest.raises(RunFailed, match="Loop"):
        net.run({"x": X, "m": np.array(3)})


# ------------------------------------------------------------------------------ Scan


def scan(
    opset: int = 21,
    inputs: Any = None,
    body: list[onnx.NodeProto] | None = None,
    shapes: tuple[Any, Any] = (["C"], ["T", "C"]),
    **attributes: Any,
) -> bytes:
    """A running sum `s` over slices `v`, which stacks `s * v`."""
    inside = graph(
        body or [node("Add", ["s", "v"], ["t"]), node("Mul", ["s", "v"], ["u"])],
        [tensor("s", None), tensor("v", None)],
        untyped("t", "u"),
    )
    call = node(
        "Scan", inputs or ["x0", "x1"], ["y", "z"], body=inside, num_scan_inputs=1, **attributes
    )
    given = [tensor("x0", shapes[0]), tensor("x1", shapes[1])]
    return model([call], given, untyped("y", "z"), opset)


@pytest.mark.parametrize("opset", [9, *OPSETS])
@pytest.mark.parametrize("backwards", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_scan_walks_in_both_directions(opset: int, backwards: tuple[int, int]) -> None:
    data = scan(opset, scan_input_directions=[backwards[0]], scan_output_directions=[backwards[1]])
    check(data, {"x0": normal(3), "x1": normal(5, 3, seed=1)})
    assert typed(data) == ["float32[C]", "float32[T, C]"]


@pytest.mark.parametrize(("axis", "out"), [(0, 0), (1, 0), (1, 2), (2, 1), (-1, -1), (-3, -2)])
def test_scan_walks_along_any_axis(axis: int, out: int) -> None:
    shape = [4, 4, 4]
    shape[axis] = 5
    data = scan(
        shapes=(["A", "A"], ["P", "Q", "R"]), scan_input_axes=[axis], scan_output_axes=[out]
    )
    check(data, {"x0": normal(4, 4), "x1": normal(*shape, seed=2)})


def test_scan_over_nothing() -> None:
    feeds = {"x0": normal(3), "x1": np.zeros((0, 3), np.float32)}
    check(scan(), feeds, {"y": feeds["x0"], "z": np.zeros((0, 3), np.float32)})


def test_slices_may_be_scalars() -> None:
    check(scan(shapes=([], ["T"])), {"x0": np.array(3, np.float32), "x1": normal(4)})


def test_scan_inputs_must_have_one_length() -> None:
    inside = graph(
        [node("Add", ["v", "w"], ["u"])], [tensor("v", None), tensor("w", None)], untyped("u")
    )
    call = node("Scan", ["a", "b"], ["z"], body=inside, num_scan_inputs=2)
    fixed = model([call], [tensor("a", [3, 2]), tensor("b", [4, 2])], untyped("z"))
    with pytest.raises(InvalidModel, match=r"different lengths: \[3, 4\]"):
        graph_of(fixed)
    free = model([call], [tensor("a", ["A", 2]), tensor("b", ["B", 2])], untyped("z"))
    with load(free) as net, pytest.raises(RunFailed, match="different lengths"):
        net.run({"a": normal(3, 2), "b": normal(4, 2)})
    check(free, {"a": normal(3, 2), "b": normal(3, 2)})


@pytest.mark.parametrize("lengths", [None, [4, 4], [2, 4]])
@pytest.mark.parametrize("direction", [0, 1])
def test_the_first_scan_has_a_batch_and_lengths(lengths: Any, direction: int) -> None:
    first, x0, x1 = "", normal(2, 3), normal(2, 4, 3, seed=3)
    fixed = {}
    if lengths is not None:
        first, fixed = "lengths", {"lengths": np.array(lengths)}
    inside = graph(
        [node("Add", ["s", "v"], ["t"]), node("Mul", ["s", "v"], ["u"])],
        [tensor("s", [3]), tensor("v", [3])],
        [tensor("t", [3]), tensor("u", [3])],
    )
    call = node(
        "Scan",
        [first, "x0", "x1"],
        ["y", "z"],
        body=inside,
        num_scan_inputs=1,
        directions=[direction],
    )
    data = model(
        [call],
        [tensor("x0", ["B", 3]), tensor("x1", ["B", "T", 3])],
        [tensor("y", ["B", 3]), tensor("z", ["B", "T", 3])],
        opset=8,
        **fixed,
    )
    assert typed(data) == ["float32[B, 3]", "float32[B, T, 3]"]
    y, z = x0.copy(), np.zeros_like(x1)
    for item, end in enumerate(lengths or [4, 4]):
        for step in range(end):
            value = x1[item, end - 1 - step if direction else step]
            z[item, step] = y[item] * value
            y[item] += value
    check(data, {"x0": x0, "x1": x1}, {"y": y, "z": z})
    if lengths != [2, 4]:
        check(data, {"x0": x0, "x1": x1})


def test_scans_count_their_passes_and_bytes() -> None:
    feeds = {"x0": normal(3), "x1": normal(50, 3)}
    assert "loop_iterations=20" in refused(scan(), Limits(loop_iterations=20), **feeds)
    wide = {"x0": np.zeros(1 << 14, np.float32), "x1": np.zeros((40, 1 << 14), np.float32)}
    assert "run_bytes" in refused(scan(), Limits(run_bytes=1 << 20), **wide)


def test_scans_that_do_not_fit_their_bodies_are_refused() -> None:
    for attributes, why in (
        ({"scan_input_axes": [7]}, "axis 7"),
        ({"scan_output_axes": [0, 0]}, "2 axes or directions for 1"),
    ):
        with pytest.raises(InvalidModel, match=why):
            graph_of(scan(**attributes))  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match="for a body of"):
        graph_of(scan(inputs=["x1"]))


def test_every_version_of_the_operators_is_known() -> None:
    for op in ("If", "Loop", "Scan"):
        schemas = onnx.defs.get_all_schemas_with_history()
        versions = {s.since_version for s in schemas if s.name == op and s.domain == ""}
        known = {v for o in REGISTRY.operators() if o.name == op and not o.domain for v in o.since}
        assert versions == known


def test_a_model_may_be_opened_by_its_public_door() -> None:
    with engine.load(loop(STACK, scans=1), device="reference") as net:
        assert next(s.shape for s in net.outputs) == ("N", 3)
        assert net.profile({"x": X, "m": np.array(2)}, repeat=1).nodes
