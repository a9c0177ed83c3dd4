"""Compiles a graph into a file that `native_artifact` reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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
from engine.cpu.weight_store import digest_of
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
    known: Collection[str] | None = None,
) -> Json:
    """Compile a graph; write its weights and its code, and return all else as JSON.

    Weights are packed one after the other, each written before the next is packed.

    `known` is given for one of many sizes: digests of what the reader has in memory already, which
    is left out. One such compilation takes one core.
    """
    deadline = deadline or Deadline(limits.load_s)
    compiler = GraphCompiler(target, registry, limits, precision, deadline)
    rewritten = compiler.rewrite(graph)
    kernels = kernels_of(compiler.lowered)
    others = [*hosted_kernels(rewritten), *tail_kernels(kernels), Walker()]
    needed = list(dict.fromkeys([*kernels, *others]))
    writer, nodes, contents = GraphWriter(), _Nodes(graph), _Contents(into, known)
    packed = _PackedWeights(contents)
    programs = ProgramWriter({k: number for number, k in enumerate(kernels)}, nodes.number)
    watched, processes = in_time(deadline, progress), None if known is None else 1
    with ThreadPoolExecutor(1) as beside:  # LLVM and numpy both let go of the GIL
        compiling = beside.submit(
            (store or CodeStore()).codes, needed, target, watched, processes=processes
        )
        regions = [_region(each, programs, packed, deadline) for each in compiler.lowered]
        codes = compiling.result()
    symbols = open_symbols(graph, compiler.coverage) if known is None else ()
    graphs = {
        "coverage": [[nodes.number(c.node), c.reason, c.graph] for c in compiler.coverage],
        "nodes": [writer.node(node) for node in nodes.others],
        "graph": writer.graph(rewritten.replace(types={})),
        "typed": None if known is None else writer.graph(_without_fixed(graph)),
    }
    whole = writer.graph(graph) if symbols else None
    arrays = [contents.add(np.frombuffer(blob, np.uint8)) for blob in writer.blobs]
    return {
        "regions": regions,
        **graphs,
        "kernels": [[k.label, k.scratch_bytes(target), kernel_key(k, target)] for k in kernels],
        "code": {kernel_key(k, target): into.add(code) for k, code in codes.items()},
        "weights": packed.numbers,
        "arrays": arrays,
        "contents": contents.table,
        "sizes": {
            "symbols": symbols,
            "whole": _add_whole(into, whole, [contents.table[n][0] for n in arrays]),
        }
        if symbols
        else None,
    }


def _region(
    each: Lowered, programs: ProgramWriter, packed: _PackedWeights, deadline: Deadline
) -> Json:
    numbers = []
    for weights in each.program.weights:
        deadline.check(f"packing {weights.key.partition('|')[0]!r}")
        numbers.append(packed.find(weights, each.scope))
    each.program.weights.clear()  # what they were packed from may go
    return {"label": each.label, "program": programs.program(each.program, numbers)}


def _add_whole(into: ContainerWriter, whole: Json, arrays: Sequence[int | None]) -> int:
    """Write a graph for later compilations into a blob of its own: who serves never reads it."""
    return into.add(json.dumps({"graph": whole, "arrays": arrays}).encode())


def _without_fixed(graph: Graph) -> Graph:
    return graph.replace(initializers={}, constants={})


class _Contents:
    """The bytes of fixed values on their way into the file.

    Attributes:
        table: The blob of each, and its digest where readers share them; no blob where the reader
            has the bytes already.
    """

    def __init__(self, into: ContainerWriter, known: Collection[str] | None) -> None:
        self._into, self._known = into, known
        self._numbers: dict[str, int] = {}
        self.table: list[tuple[int | None, str | None]] = []

    def add(self, content: np.ndarray) -> int:
        """Write bytes, unless they are there; return their number."""
        if self._known is None:
            self.table.append((self._into.add(content.data), None))
            return len(self.table) - 1
        digest = digest_of(content)
        if digest not in self._numbers:
            blob = None if digest in self._known else self._into.add(content.data)
            self.table.append((blob, digest))
            self._numbers[digest] = len(self.table) - 1
        return self._numbers[digest]


class _PackedWeights:
    """Numbers of packed weights, each packed once."""

    def __init__(self, contents: _Contents) -> None:
        self._contents = contents
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def numbers(self) -> list[int]:
        """The numbers of all."""
        return list(dict.fromkeys(self._numbers.values()))

    def find(self, weights: Weights, scope: str) -> int:
        """Return the number of a fixed value, packing it if nobody has."""
        key = scope, weights.key
        if key not in self._numbers:
            packed = np.ascontiguousarray(weights.pack())
            self._numbers[key] = self._contents.add(packed.reshape(-1).view(np.uint8))
        return self._numbers[key]


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
