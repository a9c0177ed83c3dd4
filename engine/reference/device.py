"""The device called "reference": a graph's meaning, against which other devices are tested."""

from __future__ import annotations

import numpy as np

from engine.device import CompileOptions
from engine.errors import DeviceUnavailable
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ops.registry import registry_of


class ReferenceDevice:
    """Runs the portable definitions over numpy."""

    name = "reference"

    def compile(self, graph: Graph, options: CompileOptions) -> GraphPlan:
        """Return a plan that walks the graph node by node."""
        if options.precision not in ("fp32", "int8", "auto"):
            raise DeviceUnavailable(
                f"device {self.name!r} computes what the graph states; precision "
                f"{options.precision!r} needs another device, expected 'fp32', 'int8' or 'auto'"
            )
        registry = registry_of(options.operators)
        return GraphPlan(graph, xp=np, registry=registry, limits=options.limits)
