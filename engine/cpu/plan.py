"""A graph compiled for the host's processor: native regions, portable nodes between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.cpu.bound import StaticRegion
from engine.cpu.code_store import CodeStore
from engine.cpu.compiled import REGION, REGION_DOMAIN, CompiledGraph
from engine.cpu.hosted import hosted_operators
from engine.cpu.region import CompiledRegion
from engine.cpu.roofline import roofline
from engine.cpu.runtime.program import CancelFlag
from engine.cpu.target import Target
from engine.device import PORTABLE, Observer, RunControl, StaticArrays, StaticRun
from engine.errors import ResourceLimit
from engine.interpreter import GraphPlan
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType, evaluate, symbols_of
from engine.limits import Limits
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import Kernel, Operator, Registry


class CpuPlan:
    """A compiled graph. Thread-safe: runs may overlap."""

    def __init__(
        self,
        compiled: CompiledGraph,
        *,
        target: Target,
        registry: Registry,
        limits: Limits,
        store: CodeStore | None = None,
    ) -> None:
        """Make a compiled graph ready to run; kernels besides its own come from `store`."""
        self._compiled, self._target, self._store = compiled, target, store or CodeStore()
        self._types, self._regions = compiled.types, compiled.regions
        self.coverage, self.code = compiled.coverage, compiled.code
        self._watched = threading.local()
        hosted = hosted_operators(compiled.graph, registry, self._store, target)
        own = registry.extended([_region_operator(self._regions, self._watched), *hosted])
        self._plan = GraphPlan(compiled.graph, xp=np, registry=own, limits=limits)
        self._whole = _WholeGraph.of(compiled.graph, self._regions)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute `fetches` from a value for every input."""
        whole = self._whole
        if control is None and whole is not None and tuple(fetches) == whole.outputs:
            return whole.run(feeds)
        if control is None:
            return self._plan.run(feeds, fetches)
        flag = self._watched.cancel = CancelFlag()
        control.when_cancelled(flag.set)
        try:
            if control.observer is None:
                return self._plan.run(feeds, fetches, control)
            return self._run_watched(feeds, fetches, control, control.observer)
        finally:
            self._watched.cancel = None

    def bind_static(self, arrays: StaticArrays) -> StaticRun | None:
        """Return runs over static arrays where the whole graph is one native region."""
        whole = self._whole
        if whole is None or set(whole.inputs) - arrays.inputs.keys():
            return None
        if arrays.outputs.keys() - set(whole.region.outputs):
            return None
        return StaticRegion(
            whole.region,
            whole.inputs,
            arrays,
            target=self._target,
            store=self._store,
            owner=self._compiled,
        )

    @property
    def compiled(self) -> CompiledGraph:
        """What it runs."""
        return self._compiled

    def memory(self) -> Mapping[str, int]:
        """Return bytes of weights, of arenas made so far, of code, and of what runs so far took of
        the cores' own memory.
        """
        portable = self._plan.memory()
        return {
            "weights_bytes": portable["weights_bytes"] + self._compiled.weights_bytes,
            "arena_bytes": self._compiled.lanes.size_bytes,
            "code_bytes": sum(handle.code_bytes for handle in self.code),
            "scratch_bytes": max((r.scratch_bytes for r in self._regions), default=0),
        }

    def least_seconds(self, flops: float, size_bytes: float) -> float:
        """Return what arithmetic and memory traffic take at this machine's measured peak."""
        threads = max((region.threads for region in self._regions), default=1)
        return roofline().seconds(flops, size_bytes, threads)

    def _run_watched(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        control: RunControl,
        observer: Observer,
    ) -> dict[str, Array]:
        """Run with an observer that is told of the nodes inside of regions, not of regions."""

        def portable_only(
            node: Node,
            seconds: float,
            inputs: Sequence[Array | None],
            outputs: Sequence[Array],
            kernel: str = PORTABLE,
        ) -> None:
            if node.domain != REGION_DOMAIN:
                observer(node, seconds, inputs, outputs, kernel)

        def native(node: Node, seconds: float, bindings: Mapping[str, int], kernel: str) -> None:
            inputs = [_stand_in(self._types.get(name), bindings) for name in node.inputs]
            outputs = [_stand_in(self._types.get(name), bindings) for name in node.outputs]
            observer(node, seconds, inputs, [y for y in outputs if y is not None], kernel)

        watched = _Controlled(control, portable_only)
        self._watched.native = native
        try:
            return self._plan.run(feeds, fetches, watched)
        finally:
            self._watched.native = None


def _region_operator(regions: Sequence[CompiledRegion], watched: threading.local) -> Operator:
    """Return the operator of the nodes that stand for regions.

    It knows no plan: a plan in a circle of references would outlive its last user by a collection.
    """

    def region(ctx: InferContext | ComputeContext) -> CompiledRegion:
        return regions[int(ctx.attributes["index"])]

    def infer(ctx: InferContext) -> Sequence[TensorType]:
        return [TensorType(b.plain.dtype, b.plain.shape) for b in region(ctx).program.outputs]

    def bind(ctx: ComputeContext) -> Kernel:
        run: Callable[..., list[Array]] = region(ctx).run

        def kernel(*inputs: Any) -> Sequence[Array]:
            return run(inputs, getattr(watched, "native", None), getattr(watched, "cancel", None))

        return kernel

    return Operator(
        name=REGION,
        domain=REGION_DOMAIN,
        since=(1,),
        attributes={"index": 0},
        infer=infer,
        compute=lambda ctx, *inputs: bind(ctx)(*inputs),
        bind=bind,
    )


@dataclass(frozen=True)
class _WholeGraph:
    """A graph that is one region from end to end: no interpreter is needed around it."""

    region: CompiledRegion
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    places: tuple[int, ...]  # of the outputs among the region's results
    in_order: bool  # whether the region gives these and no others

    @classmethod
    def of(cls, graph: Graph, regions: Sequence[CompiledRegion]) -> _WholeGraph | None:
        """Return the region that is all of a rewritten graph, or None."""
        if len(graph.nodes) != 1 or graph.nodes[0].domain != REGION_DOMAIN:
            return None
        (node,) = graph.nodes
        if not set(graph.output_names) <= set(node.outputs):
            return None
        places = tuple(regions[0].outputs.index(name) for name in graph.output_names)
        in_order = places == tuple(range(len(regions[0].outputs)))
        return cls(regions[0], node.inputs, graph.output_names, places, in_order)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output."""
        try:
            results = self.region.run([feeds[name] for name in self.inputs])
        except MemoryError as error:
            where = f"outputs {list(self.outputs)}"
            raise ResourceLimit(where, error, "the memory there is") from error
        if self.in_order:
            return dict(zip(self.outputs, results, strict=True))
        return {name: results[i] for name, i in zip(self.outputs, self.places, strict=True)}


class _Controlled(RunControl):
    """A caller's control with another observer."""

    __slots__ = ("_outer",)

    def __init__(self, outer: RunControl, observer: Observer) -> None:
        self._outer = outer
        super().__init__(observer)

    @property
    def cancelled(self) -> bool:
        return self._outer.cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        if value:
            self._outer.cancelled = True


def _stand_in(kind: object, bindings: Mapping[str, int]) -> Array | None:
    """Return an array of a value's type and shape that takes no memory: reports look at no more."""
    if not isinstance(kind, TensorType) or kind.shape is None:
        return None
    if any(symbols_of(d) - bindings.keys() for d in kind.shape):
        return None
    shape = tuple(evaluate(d, bindings) for d in kind.shape)
    return np.broadcast_to(np.zeros((), kind.dtype.numpy), shape)


__all__ = ["ComputeContext", "CpuPlan"]
