"""The device called "cpu": native code for this machine's processor."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from engine.container import ContainerWriter, descriptor_of
from engine.cpu.beside import Beside
from engine.cpu.compiled import CompiledGraph, Coverage
from engine.cpu.native_artifact import fingerprint, read_native, read_whole
from engine.cpu.plan import CpuPlan
from engine.cpu.runtime.cores import allowed_cores
from engine.cpu.size_child import SizeChildren
from engine.cpu.specializing import SpecializingPlan, open_symbols, specialized
from engine.cpu.target import host_target
from engine.device import CompileOptions, Plan
from engine.errors import DeviceUnavailable
from engine.ir.graph import Graph
from engine.ops.registry import registry_of

# Named, and imported when something is compiled: who reads what was compiled before needs neither
# rules nor emitters.
COMPILER: Final = "engine.cpu.compiling"
WRITER: Final = "engine.cpu.native_writer"


class CpuDevice:
    """Runs graphs on the host's processor."""

    name = "cpu"

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Return a plan of native code; what has none runs from its portable definition.

        Where open sizes of pictures are why, sizes that come get plans of their own.
        """
        plan = _compile(graph, options)
        symbols = open_symbols(graph, plan.coverage)
        return _specializing(graph, plan, symbols, options) if symbols else plan

    def coverage(self, graph: Graph, options: CompileOptions) -> tuple[Coverage, ...]:
        """Return for every node, bodies included, whether it would be native code, or why not."""
        compiling: Any = importlib.import_module(COMPILER)
        registry = registry_of(options.operators)
        found: tuple[Coverage, ...] = compiling.native_coverage(
            graph, host_target(), registry, options.limits
        )
        return found

    def fingerprint(self, options: CompileOptions) -> str:
        """Return a text that differs wherever the same graph would compile to something else."""
        return fingerprint(host_target(), _precision(options))

    def write(self, graph: Graph, options: CompileOptions, into: ContainerWriter) -> Any:
        """Compile a graph into blobs of a file; return what else must be known, as JSON."""
        writer: Any = importlib.import_module(WRITER)
        return writer.write_native(graph, into, **_how(options))

    def read(
        self, data: Any, graph: Graph, blobs: Sequence[memoryview], options: CompileOptions
    ) -> Plan:
        """Return the plan of what `write` wrote; its weights stay where the blobs are."""
        compiled = read_native(
            data,
            graph,
            blobs,
            target=host_target(),
            limits=options.limits,
            threads=_threads(options),
        )
        plan, sizes = _plan(compiled, options), data["sizes"]
        if sizes is None:
            return plan
        symbols, whole = sizes["symbols"], sizes["whole"]
        descriptor = descriptor_of(blobs[whole])
        if descriptor is None:  # a file that no child can be given
            return _specializing(read_whole(blobs, whole), plan, symbols, options)
        beside = Beside()
        children = SizeChildren(
            blobs=blobs,
            descriptor=descriptor,
            whole=whole,
            beside=beside,
            target=host_target(),
            precision=_precision(options),
            limits=options.limits,
            threads=_threads(options),
        )

        def compile_sizes(sizes: Mapping[str, int]) -> CpuPlan:
            beside.borrow(compiled)
            return _plan(children.compile(sizes), options)

        return SpecializingPlan(graph, plan, symbols, compile_sizes, beside, children.cancel)


def _specializing(
    graph: Graph, plan: CpuPlan, symbols: Sequence[str], options: CompileOptions
) -> Plan:
    """Return a plan that serves with `plan`, and compiles the graph in this process for sizes that
    come.
    """
    registry, limits = registry_of(options.operators), options.limits
    options = replace(options, deadline=None)  # sizes come long after loading
    beside = Beside()

    def compile_sizes(sizes: Mapping[str, int]) -> CpuPlan:
        beside.borrow(plan.compiled)
        return _compile(specialized(graph, sizes, registry, limits), options, beside)

    return SpecializingPlan(graph, plan, symbols, compile_sizes, beside)


def _compile(graph: Graph, options: CompileOptions, beside: Beside | None = None) -> CpuPlan:
    compiling: Any = importlib.import_module(COMPILER)
    compiled: CompiledGraph = compiling.compile_graph(
        graph, threads=_threads(options), beside=beside, **_how(options)
    )
    return _plan(compiled, options)


def _plan(compiled: CompiledGraph, options: CompileOptions) -> CpuPlan:
    registry = registry_of(options.operators)
    return CpuPlan(compiled, target=host_target(), registry=registry, limits=options.limits)


def _threads(options: CompileOptions) -> int:
    return options.threads or allowed_cores()


def _how(options: CompileOptions) -> dict[str, Any]:
    """Return what compiling is told, whatever becomes of its result."""
    return {
        "target": host_target(),
        "registry": registry_of(options.operators),
        "limits": options.limits,
        "precision": _precision(options),
        "progress": options.progress,
        "deadline": options.deadline,
    }


def _precision(options: CompileOptions) -> str:
    """Return how contractions of floats compute; those of integers are in the graph already."""
    if options.precision in ("fp32", "int8", "auto"):
        return "fp32"
    if options.precision == "bf16" and host_target().has_bf16_dot:
        return "bf16"
    offered = "'fp32', 'bf16', 'int8'" if host_target().has_bf16_dot else "'fp32', 'int8'"
    raise DeviceUnavailable(
        f"device 'cpu' has no kernels for precision {options.precision!r} on this processor; "
        f"expected {offered} or 'auto'"
    )
