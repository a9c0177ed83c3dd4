"""The interpreter: what runs, what dies when, limits, cancelling, bodies, many threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from engine.device import DEVICES, CompileOptions, Plan, RunControl, get_device
from engine.dtypes import DType
from engine.errors import (
    DeviceUnavailable,
    InvalidInput,
    InvalidModel,
    ResourceLimit,
    RunCancelled,
    RunFailed,
    UnsupportedOp,
)
from engine.interpreter import REMEMBERED_FETCHES, GraphPlan, run_graph
from engine.ir.graph import Graph, Node, Value
from engine.ir.types import Dim, TensorType, symbol
from engine.limits import Limits
from engine.ops import REGISTRY
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import Registry, make_operator

N = symbol("N")
MIB = 1 << 20


def real(*shape: Dim) -> TensorType:
    return TensorType(DType.FLOAT32, shape)


class Same:
    """Types follow the first input; what is computed is up to each subclass."""

    attributes: dict[str, Any] = {}  # noqa: RUF012 - read once, when the operator is made

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        return (ctx.type(0),) * ctx.n_outputs


def own(name: str, compute: Callable[..., Any], **facts: Any) -> Registry:
    """Return the registry with one more operator."""
    cls = type(name, (Same,), {"compute": staticmethod(compute), **facts})
    return REGISTRY.extended([make_operator(cls, name, 1, domain="test")])


def graph_of(nodes: Sequence[Node], outputs: Sequence[str], **more: Any) -> Graph:
    """Return a graph whose every value is float32[N, 4] unless `more` says otherwise."""
    kind = real(N, 4)
    names = [n for node in nodes for n in node.outputs if n]
    fields: dict[str, Any] = {
        "name": "g",
        "inputs": (Value("x", kind),),
        "outputs": tuple(Value(name, kind) for name in outputs),
        "nodes": tuple(nodes),
        "types": {"x": kind, **dict.fromkeys(names, kind)},
        **more,
    }
    return Graph(**fields)


def node(op: str, inputs: str, outputs: str, **more: Any) -> Node:
    names = {"op": op, "inputs": tuple(inputs.split()), "outputs": tuple(outputs.split())}
    return Node(**{"version": 21, **names, **more})


def chain(length: int) -> Graph:
    nodes = [node("Neg", f"v{i}" if i else "x", f"v{i + 1}") for i in range(length)]
    return graph_of(nodes, [f"v{length}"])


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_computes_outputs_by_name() -> None:
    graph = graph_of([node("Neg", "x", "a"), node("Add", "a x", "b")], ["b", "a"])
    results = run_graph(graph, {"x": X})
    assert list(results) == ["b", "a"]
    assert_array_equal(results["a"], -X)
    assert_array_equal(results["b"], X * 0)


def test_only_what_is_fetched_is_computed() -> None:
    def explode(ctx: ComputeContext, x: np.ndarray) -> Any:
        raise AssertionError("nobody asked for this")

    nodes = [node("Neg", "x", "a"), node("Explode", "x", "b", domain="test")]
    plan = GraphPlan(graph_of(nodes, ["a", "b"]), registry=own("Explode", explode))
    assert list(plan.run({"x": X}, ["a"])) == ["a"]
    with pytest.raises(RunFailed):
        plan.run({"x": X})


def test_any_number_of_ways_to_fetch_takes_no_more_memory() -> None:
    plan = GraphPlan(chain(1))
    for count in range(1, 2 * REMEMBERED_FETCHES):
        assert plan.run({"x": X}, ["v1"] * count).keys() == {"v1"}
    assert len(plan._schedules) <= REMEMBERED_FETCHES


def test_unknown_fetches_and_missing_feeds_are_named() -> None:
    plan = GraphPlan(chain(1))
    with pytest.raises(InvalidInput, match="no output is called 'q'; there are v1"):
        plan.run({"x": X}, ["q"])
    with pytest.raises(InvalidInput, match="input 'x' is missing"):
        plan.run({})


def test_inputs_and_constants_can_be_outputs() -> None:
    weight = np.ones((2, 4), np.float32)
    graph = graph_of([], ["x", "w"], initializers={"w": weight})
    results = run_graph(graph, {"x": X})
    assert results["x"] is X
    assert_array_equal(results["w"], weight)
    with pytest.raises(ValueError, match="read-only"):
        results["w"][0] = 7
    assert weight.flags.writeable  # the caller's own array is left alone


def test_absent_inputs_and_unwanted_outputs() -> None:
    nodes = [
        Node("Clip", ("x", "", "top"), ("a",), version=13),
        node("Twins", "a", "b c", domain="test"),
        Node("Twins", ("b",), ("", "d"), domain="test"),
    ]
    registry = own("Twins", lambda ctx, x: (x + 1, x + 2))
    top = {"top": np.array(3, np.float32)}
    graph = graph_of(nodes, ["d"], initializers=top)
    result = run_graph(graph, {"x": X}, registry=registry)["d"]
    assert_array_equal(result, np.minimum(X, 3) + 3)


def live_ids(graph: Graph, registry: Registry = REGISTRY) -> list[int]:
    """Return, after each node, how many of the arrays seen so far are still alive."""
    seen: list[weakref.ref[np.ndarray]] = []
    counts: list[int] = []

    def watch(node: Node, seconds: float, inputs: Any, outputs: Any) -> None:
        counts.append(sum(ref() is not None for ref in seen))
        seen.extend(weakref.ref(v) for v in outputs)

    GraphPlan(graph, registry=registry).run({"x": X}, None, RunControl(watch))
    return counts


def test_intermediates_die_after_their_last_reader() -> None:
    counts = live_ids(chain(30))
    assert max(counts) <= 1


def test_a_value_lives_until_its_last_reader() -> None:
    nodes = [node("Neg", "x", "a"), node("Neg", "a", "b"), node("Neg", "b", "c")]
    nodes.append(node("Add", "c a", "d"))
    assert live_ids(graph_of(nodes, ["d"])) == [0, 1, 2, 2]


def test_an_observer_sees_every_node() -> None:
    seen: list[tuple[str, float, int, tuple[int, ...]]] = []

    def watch(node: Node, seconds: float, inputs: Any, outputs: Any) -> None:
        seen.append((node.op, seconds, len(inputs), outputs[0].shape))

    graph = graph_of([node("Neg", "x", "a"), node("Add", "a x", "b")], ["b"])
    run_graph(graph, {"x": X}, observer=watch)
    assert [(op, count, shape) for op, _, count, shape in seen] == [
        ("Neg", 1, (2, 4)),
        ("Add", 2, (2, 4)),
    ]
    assert all(seconds >= 0 for _, seconds, _, _ in seen)


def test_sizes_are_refused_before_anything_runs() -> None:
    started = []
    registry = own("Start", lambda ctx, x: started.append(1) or (x,))
    wide = Node("Expand", ("a", "shape"), ("b",), version=13, name="grow")
    graph = graph_of(
        [node("Start", "x", "a", domain="test"), wide],
        ["b"],
        initializers={"shape": np.array([1000, 1, 4], np.int64)},
    )
    graph = graph.replace(types={**graph.types, "b": real(1000, N, 4)})
    plan = GraphPlan(graph, registry=registry, limits=Limits(run_bytes=MIB))
    with pytest.raises(
        ResourceLimit, match=r"'grow' \(Expand\): needs \d+ bytes, the limit is run"
    ):
        plan.run({"x": np.zeros((1000, 4), np.float32)})
    assert not started
    assert plan.run({"x": X})["b"].shape == (1000, 2, 4)


def test_sizes_that_only_values_tell_are_refused_before_their_node() -> None:
    shape = TensorType(DType.INT64, (3,))
    graph = Graph(
        "g",
        (Value("x", real(N, 4)), Value("shape", shape)),
        (Value("b", real(symbol("p"), symbol("q"), symbol("r"))),),
        (Node("Expand", ("x", "shape"), ("b",), version=13, name="grow"),),
        types={"x": real(N, 4), "shape": shape, "b": real(symbol("p"), symbol("q"), symbol("r"))},
    )
    plan = GraphPlan(graph, limits=Limits(run_bytes=MIB))
    with pytest.raises(RunFailed, match="grow"):
        plan.run({"x": X, "shape": np.array([3, 5, 4])})
    huge = np.array([1 << 40, 2, 4], np.int64)
    with pytest.raises(ResourceLimit, match="grow"):
        plan.run({"x": X, "shape": huge})
    assert plan.run({"x": X, "shape": np.array([3, 2, 4])})["b"].shape == (3, 2, 4)


def test_bytes_alive_together_are_limited() -> None:
    nodes = [node("Neg", "x", f"v{i}") for i in range(8)]
    big = np.zeros((MIB // 16, 4), np.float32)  # 1 MiB each
    wide = graph_of(nodes, [f"v{i}" for i in range(8)])
    with pytest.raises(ResourceLimit, match="run_bytes"):
        run_graph(wide, {"x": big}, limits=Limits(run_bytes=4 * MIB))
    # A chain holds two at a time: the same limit is enough for any length.
    run_graph(chain(20), {"x": big}, limits=Limits(run_bytes=4 * MIB))


def test_no_memory_is_a_resource_limit() -> None:
    def greedy(ctx: ComputeContext, x: np.ndarray) -> Any:
        raise MemoryError("cannot allocate 1 TiB")

    graph = graph_of([node("Greedy", "x", "a", domain="test", name="g1")], ["a"])
    with pytest.raises(ResourceLimit, match=r"'g1' .* cannot allocate 1 TiB"):
        run_graph(graph, {"x": X}, registry=own("Greedy", greedy))


def test_failures_name_the_node_and_show_no_stack() -> None:
    def broken(ctx: ComputeContext, x: np.ndarray) -> Any:
        raise ValueError("first line\n  File secret.py, line 3")

    graph = graph_of([node("Broken", "x", "a", domain="test", name="b1")], ["a"])
    with pytest.raises(RunFailed, match=r"node 'b1' \(Broken\) failed: ValueError: first line$"):
        run_graph(graph, {"x": X}, registry=own("Broken", broken))


def test_failures_while_watched_are_the_same() -> None:
    graph = graph_of([node("Broken", "x", "a", domain="test", name="b1")], ["a"])
    registry = own("Broken", lambda ctx, x: 1 / 0)
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        run_graph(graph, {"x": X}, registry=registry, observer=lambda *_: None)


def test_a_cancelled_run_stops_before_its_next_node() -> None:
    control = RunControl()
    ran: list[int] = []

    def step(ctx: ComputeContext, x: np.ndarray) -> Any:
        ran.append(1)
        if len(ran) == 3:
            control.cancel()
        return (x,)

    nodes = [node("Step", f"v{i}" if i else "x", f"v{i + 1}", domain="test") for i in range(9)]
    plan = GraphPlan(graph_of(nodes, ["v9"]), registry=own("Step", step))
    with pytest.raises(RunCancelled, match="before node 'v4'"):
        plan.run({"x": X}, None, control)
    assert len(ran) == 3
    assert plan.run({"x": X})["v9"] is X


def test_unknown_operators_are_found_when_the_plan_is_built() -> None:
    with pytest.raises(UnsupportedOp, match="Nonesuch"):
        GraphPlan(graph_of([node("Nonesuch", "x", "a")], ["a"]))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("odd weight"), r"'a' \(Odd\) cannot be prepared: ValueError: odd weight"),
        (UnsupportedOp("a", "Odd", "test", 1, "too odd"), "too odd"),
    ],
)
def test_nodes_that_cannot_be_prepared_are_the_model_s_fault(
    error: Exception, message: str
) -> None:
    def bind(ctx: ComputeContext) -> None:
        raise error

    registry = own("Odd", lambda ctx, x: (x,), bind=staticmethod(bind))
    with pytest.raises(InvalidModel, match=message):
        GraphPlan(graph_of([node("Odd", "x", "a", domain="test")], ["a"]), registry=registry)


def body_graph() -> tuple[Graph, Registry]:
    """y = Repeat(x) { a -> a * w + k }, where the body captures `w` and has a constant `k`."""

    def repeat(ctx: ComputeContext, x: np.ndarray) -> Any:
        assert ctx.bodies is not None
        assert ctx.check_cancel is not None
        for _ in range(ctx.attributes["times"]):
            ctx.check_cancel()
            (x,) = ctx.bodies["body"]([x])
        return (x,)

    kind = real(N, 4)
    body = Graph(
        "body",
        (Value("a", kind),),
        (Value("c", kind),),
        (node("Mul", "a w", "b"), node("Add", "b k", "c")),
        initializers={"k": np.array(1, np.float32)},
        types={"a": kind, "b": kind, "c": kind, "k": real()},
    )
    call = node("Repeat", "x", "y", domain="test", name="r", attributes={"body": body, "times": 3})
    graph = graph_of([node("Neg", "x", "w"), call], ["y"])
    return graph, own("Repeat", repeat, attributes={"body": None, "times": 1})


def test_bodies_see_what_they_capture() -> None:
    graph, registry = body_graph()
    expected = X
    for _ in range(3):
        expected = expected * -X + 1
    assert_array_equal(run_graph(graph, {"x": X}, registry=registry)["y"], expected)


def test_bodies_are_cancelled_and_watched_like_the_rest() -> None:
    graph, registry = body_graph()
    seen: list[str] = []

    def watch(node: Node, seconds: float, inputs: Any, outputs: Any) -> None:
        seen.append(node.op)
        if len(seen) == 4:
            control.cancel()

    control = RunControl(watch)
    with pytest.raises(RunCancelled):
        GraphPlan(graph, registry=registry).run({"x": X}, None, control)
    assert seen == ["Neg", "Mul", "Add", "Mul"]


def test_bodies_count_toward_the_limit() -> None:
    graph, registry = body_graph()
    big = np.zeros((MIB // 16, 4), np.float32)
    with pytest.raises(ResourceLimit):
        run_graph(graph, {"x": big}, registry=registry, limits=Limits(run_bytes=MIB + MIB // 2))
    run_graph(graph, {"x": big}, registry=registry, limits=Limits(run_bytes=6 * MIB))


def test_sizes_inside_bodies_are_refused_before_they_run() -> None:
    graph, registry = body_graph()
    (negate, call) = graph.nodes
    body = call.attributes["body"]
    assert isinstance(body, Graph)
    grown = body.replace(
        nodes=(
            node("Add", "a w", "b"),
            Node("Expand", ("b", "s"), ("c",), version=13, name="grow"),
        ),
        initializers={"s": np.array([1 << 30, 1, 1])},
        types={"a": real(N, 4), "b": real(N, 4), "c": real(1 << 30, N, 4)}
        | {"s": TensorType(DType.INT64, (3,))},
    )
    graph = graph.replace(nodes=(negate, call.replace(attributes={"body": grown, "times": 1})))
    with pytest.raises(ResourceLimit, match="grow"):
        run_graph(graph, {"x": X}, registry=registry, limits=Limits(run_bytes=MIB))


def test_one_plan_serves_many_threads() -> None:
    nodes = [node("Mul", "x x", "a"), node("Add", "a x", "b"), node("Neg", "b", "c")]
    plan = GraphPlan(graph_of(nodes, ["b", "c"]))
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        x = np.full((3, 4), seed, np.float32)
        barrier.wait()
        for i in range(200):
            fetched = plan.run({"x": x}, ["c"] if i % 2 else ["b", "c"])
            assert_array_equal(fetched["c"], -(x * x + x))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_overflow_is_silent_and_infinite() -> None:
    graph = graph_of([node("Exp", "x", "a")], ["a"])
    assert np.isinf(run_graph(graph, {"x": X + 1000})["a"]).all()


def test_plans_tell_their_memory() -> None:
    graph = graph_of([node("Add", "x w", "a")], ["a"], initializers={"w": np.zeros(4, np.float32)})
    memory = GraphPlan(graph).memory()
    assert memory == {"weights_bytes": 16, "arena_bytes": 0, "code_bytes": 0}
    graph, registry = body_graph()
    assert GraphPlan(graph, registry=registry).memory()["weights_bytes"] == 4


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_devices_run_graphs(name: str) -> None:
    device = get_device(name)
    plan = device.compile(chain(3), CompileOptions())
    assert isinstance(plan, Plan)
    assert device.name == name
    assert_array_equal(plan.run({"x": X}, ["v3"])["v3"], -X)
    with pytest.raises(DeviceUnavailable, match="'fp16'"):
        device.compile(chain(1), CompileOptions(precision="fp16"))
    options = CompileOptions(operators=own("Step", lambda ctx, x: (x,)))
    device.compile(graph_of([node("Step", "x", "y", domain="test")], ["y"]), options)


def test_unavailable_devices_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="'tpu'; known are cpu, cuda, reference"):
        get_device("tpu")
    monkeypatch.setitem(DEVICES, "broken", "engine.cuda.nowhere:Device")
    with pytest.raises(DeviceUnavailable, match=r"needs a package that is missing: .*nowhere"):
        get_device("broken")
