"""The time to load a model is looked at within passes and within compiling, not only between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import engine
from engine.compiler import CompileRequest, compile_model
from engine.cpu.compiling import compile_graph, in_time
from engine.cpu.native_writer import write_native
from engine.cpu.target import host_target
from engine.errors import ResourceLimit
from engine.limits import Deadline, Limits
from engine.ops.registry import REGISTRY
from engine.passes.context import Pass, PassContext
from engine.passes.pipeline import O2
from tests.engine.onnx_models import convnet, graph_of, model, node, normal


class Countdown(Deadline):
    """A deadline that is over after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__(3600)
        self.left, self.seen = looks, 0

    def check(self, where: str) -> None:
        self.seen += 1
        if self.seen > self.left:
            raise ResourceLimit(where, "more than its looks", "load_s=0")


def long_chain(count: int) -> bytes:
    """Nodes that no pass can remove, of kinds that most passes look at."""
    kinds = ("Relu", "Exp", "Sigmoid", "Tanh")
    nodes = [node(kinds[k % 4], [f"v{k}"], [f"v{k + 1}"]) for k in range(count)]
    return model(nodes, [("v0", ["N", 4])], [(f"v{count}", None)])


# Those that end at once where the graph has nothing for them, before they walk through it.
CONDITIONAL = {
    "activation_unfolding",
    "einsum_unfolding",
    "sequence_elimination",
    "integer_weights",
    "transpose_elimination",
    "attention_fusion",
    "quantized_weights",
}


@pytest.mark.parametrize("name,apply", [p for p in O2 if p[0] not in CONDITIONAL])
def test_passes_look_at_every_node(name: str, apply: Pass) -> None:
    graph = graph_of(long_chain(40))
    ctx = PassContext(REGISTRY, Limits(), Countdown(10))
    with pytest.raises(ResourceLimit, match="node"):
        apply(graph, ctx)
    apply(graph, PassContext(REGISTRY, Limits(), Countdown(10**6)))


def counted(run: Callable[[Deadline], object]) -> int:
    run(Countdown(10**9))  # kernels that are known are looked up, without a look at the time
    deadline = Countdown(10**9)
    run(deadline)
    return deadline.seen


def test_compiling_ends_wherever_time_is_over() -> None:
    """Also while nodes are lowered, weights packed and kernels compiled."""
    graph = compile_model(convnet(), CompileRequest()).graph

    def compiled(deadline: Deadline) -> object:
        how = {"target": host_target(), "registry": REGISTRY, "limits": Limits()}
        return compile_graph(graph, threads=1, deadline=deadline, **how)  # type: ignore[arg-type]

    with pytest.raises(ResourceLimit, match="kernel 1 of"):
        in_time(Countdown(0), None)(1, 3)
    looks = counted(compiled)
    assert looks >= 4 * len(graph.nodes)  # typed, tried, lowered, packed
    for left in range(0, looks, max(1, looks // 7)):
        with pytest.raises(ResourceLimit):
            compiled(Countdown(left))


def test_writing_ends_when_time_is_over() -> None:
    class Nowhere:
        def add(self, blob: object) -> int:
            return 0

    graph = compile_model(convnet(), CompileRequest()).graph

    def written(deadline: Deadline) -> object:
        how = {"target": host_target(), "registry": REGISTRY, "limits": Limits()}
        return write_native(graph, Nowhere(), deadline=deadline, **how)  # type: ignore[arg-type]

    looks = counted(written)
    for left in range(0, looks, max(1, looks // 5)):
        with pytest.raises(ResourceLimit):
            written(Countdown(left))


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_no_time_at_all(device: str) -> None:
    with pytest.raises(ResourceLimit, match="load_s=0"):
        engine.load(long_chain(5), device=device, limits=Limits(load_s=0))


def test_sizes_that_come_later_have_time_of_their_own() -> None:
    """The deadline of loading is over by then."""
    nodes = [node("Conv", ["x", "w"], ["y"])]
    data = model(nodes, [("x", ["N", 3, "H", "W"])], [("y", None)], {"w": normal(4, 3, 1, 1)})
    with engine.load(data, device="cpu") as loaded:
        plan = loaded._plan
        assert plan is not None
        x = np.ones((1, 3, 5, 5), np.float32)
        before = loaded.run({"x": x})["y"]
        assert plan.wait(60)  # type: ignore[attr-defined]
        np.testing.assert_allclose(loaded.run({"x": x})["y"], before, 1e-5)
