"""The device called "cpu". Today it hands every node to the portable kernels; native code comes
here.

It holds a portable plan rather than inheriting from one: with native segments, the portable plan
becomes what runs between them.
"""

from __future__ import annotations

import numpy as np

from engine.device import CompileOptions, Plan
from engine.errors import DeviceUnavailable
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ops.registry import registry_of


class CpuDevice:
    """Runs graphs on the host's processor."""

    name = "cpu"

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Return a plan for this machine; for now every node runs from its portable definition."""
        if options.precision not in ("fp32", "auto"):
            raise DeviceUnavailable(
                f"device {self.name!r} has no kernels for precision {options.precision!r} yet; "
                "expected 'fp32' or 'auto'"
            )
        registry = registry_of(options.operators)
        return GraphPlan(graph, xp=np, registry=registry, limits=options.limits)
