"""Compiles a graph into a file that `native_artifact` reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine.container import ContainerWriter
from engine.cpu.buffers import Weights
from engine.cpu.code_store import CodeStore, Progress, kernel_key
from engine.cpu.compiling import GraphCompiler, Lowered, in_time, kernels_of
from engine.cpu.hosted import hosted_kernels
from engine.cpu.program_json import ProgramWriter
from engine.cpu.runtime.walker import Walker
from engine.cpu.specializing import open_symbols
from engine.cpu.tails import tail_kernels
from engine.cpu.target import Target
from engine.graph_json import GraphWriter
from engine.ir.graph import Graph, Node
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry

Json = Any


def write_native(
    graph: Graph,
    into: ContainerWriter,
    *,
    target: Target,
    registry: Registry,
    limits: Limits,
    precision: str = "fp32",
    store: CodeStore | None = None,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> Json:
    """Compile a graph; write its weights and its code, and return all else as JSON.

    Weights are packed one after the other, each written before the next is packed.
    """
    deadline = deadline or Deadline(limits.load_s)
    compiler = GraphCompiler(target, registry, limits, precision, deadline)
    rewritten = compiler.rewrite(graph)
    kernels = kernels_of(compiler.lowered)
    others = [*hosted_kernels(rewritten), *tail_kernels(kernels), Walker()]
    needed = dict.fromkeys([*kernels, *others])
    writer, nodes, packed = GraphWriter(), _Nodes(graph), _PackedWeights(into)
    programs = ProgramWriter({k: number for number, k in enumerate(kernels)}, nodes.number)
    open_sizes = open_symbols(graph, compiler.coverage)
    with ThreadPoolExecutor(1) as beside:  # LLVM and numpy both let go of the GIL
        watched = in_time(deadline, progress)
        compiling = beside.submit((store or CodeStore()).codes, list(needed), target, watched)
        regions = [_region(each, programs, packed, deadline) for each in compiler.lowered]
        codes = compiling.result()
    return {
        "regions": regions,
        "coverage": [[nodes.number(c.node), c.reason, c.graph] for c in compiler.coverage],
        "nodes": [writer.node(node) for node in nodes.others],
        "graph": writer.graph(rewritten.replace(types={})),
        "whole": writer.graph(graph) if open_sizes else None,
        "kernels": [[k.label, k.scratch_bytes(target), kernel_key(k, target)] for k in kernels],
        "code": {kernel_key(k, target): into.add(code) for k, code in codes.items()},
        "weights": packed.blobs,
        "arrays": _added(into, writer),
    }


def _region(
    each: Lowered, programs: ProgramWriter, packed: _PackedWeights, deadline: Deadline
) -> Json:
    blobs = []
    for weights in each.program.weights:
        deadline.check(f"packing {weights.key.partition('|')[0]!r}")
        blobs.append(packed.find(weights, each.scope))
    each.program.weights.clear()  # what they were packed from may go
    return {"label": each.label, "program": programs.program(each.program, blobs)}


def _added(into: ContainerWriter, writer: GraphWriter) -> tuple[int, int]:
    """Write the arrays of graphs; return the number of the first blob, and how many there are."""
    numbers = [into.add(blob) for blob in writer.blobs]
    return (numbers[0] if numbers else 0), len(numbers)


class _PackedWeights:
    """Packed weights on their way into the file, equal ones once."""

    def __init__(self, into: ContainerWriter) -> None:
        self._into = into
        self._known: dict[tuple[str, str], int] = {}

    @property
    def blobs(self) -> list[int]:
        """Numbers of all blobs."""
        return list(self._known.values())

    def find(self, weights: Weights, scope: str) -> int:
        """Return the blob of a fixed value, packing it if nobody has."""
        key = scope, weights.key
        if key not in self._known:
            packed = np.ascontiguousarray(weights.pack())
            self._known[key] = self._into.add(packed.reshape(-1).view(np.uint8).data)
        return self._known[key]


class _Nodes:
    """Numbers nodes: those of the graph and its bodies as `Graph.walk` gives them, then others."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph  # nodes are told by identity: they must stay
        self._numbers = {id(node): number for number, (_, node) in enumerate(graph.walk())}
        self.others: list[Node] = []

    def number(self, node: Node) -> int:
        """Return a node's number."""
        if id(node) not in self._numbers:
            self._numbers[id(node)] = len(self._numbers)
            self.others.append(node)
        return self._numbers[id(node)]
