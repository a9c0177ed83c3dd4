"""A plan for one GPU: the portable definitions over CuPy's arrays, node by node.

Untuned on purpose: it shows that every definition holds on the device, and is what generated
kernels and captured graphs are measured and checked against. Nodes whose types a GPU cannot hold
(strings, 8-bit floats) run on the host in between; runs share CUDA's default stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.device import RunControl
from engine.errors import ResourceLimit
from engine.interpreter import GraphPlan
from engine.ir.graph import Array, Graph
from engine.limits import Limits
from engine.ops.registry import Registry
from engine.transfers import to_device, to_host


class CudaPlan:
    """A portable plan between two copies: feeds to the device, results back to the host."""

    def __init__(self, graph: Graph, *, xp: Any, registry: Registry, limits: Limits) -> None:
        """Copy the weights to the device. `xp` is cupy, or a namespace that behaves like it."""
        self._xp = xp
        try:
            self._plan = GraphPlan(graph, xp=xp, registry=registry, limits=limits)
        except MemoryError as error:
            raise ResourceLimit("the weights", error, "the GPU memory there is") from error

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute `fetches` as numpy arrays from numpy arrays."""
        try:
            moved = {name: to_device(self._xp, value) for name, value in feeds.items()}
        except MemoryError as error:
            raise ResourceLimit("the inputs", error, "the GPU memory there is") from error
        results = self._plan.run(moved, fetches, control)
        return {name: to_host(self._xp, value) for name, value in results.items()}

    def memory(self) -> dict[str, int]:
        """Return bytes of fixed values on the device."""
        return self._plan.memory()
