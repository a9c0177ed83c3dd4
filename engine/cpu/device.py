"""The device called "cpu": native code for this machine's processor."""

from __future__ import annotations

from engine.cpu.compiling import Coverage, native_coverage
from engine.cpu.plan import CpuPlan
from engine.cpu.runtime.cores import allowed_cores
from engine.cpu.target import host_target
from engine.device import CompileOptions, Plan
from engine.errors import DeviceUnavailable
from engine.ir.graph import Graph
from engine.ops.registry import registry_of


class CpuDevice:
    """Runs graphs on the host's processor."""

    name = "cpu"

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Return a plan of native code; what has none runs from its portable definition."""
        if options.precision not in ("fp32", "auto"):
            raise DeviceUnavailable(
                f"device {self.name!r} has no kernels for precision {options.precision!r} yet; "
                "expected 'fp32' or 'auto'"
            )
        return CpuPlan(
            graph,
            target=host_target(),
            registry=registry_of(options.operators),
            limits=options.limits,
            threads=options.threads or allowed_cores(),
        )

    def coverage(self, graph: Graph, options: CompileOptions) -> tuple[Coverage, ...]:
        """Return for every node, bodies included, whether it would be native code, or why not."""
        registry = registry_of(options.operators)
        return native_coverage(graph, host_target(), registry, options.limits)
