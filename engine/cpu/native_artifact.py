"""Compiled graphs in files: programs, machine code and packed weights, mapped when they are read.

Reading one parses no ONNX, runs no pass, lowers nothing and compiles nothing; weights stay where
the file is mapped. Everything is bound to this processor, this LLVM and these sources by the
fingerprint that is part of the file's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from engine.cpu.binding import Binder
from engine.cpu.code_store import CodeStore, sources_digest
from engine.cpu.compiled import CompiledGraph, Coverage
from engine.cpu.kernel import Kernel
from engine.cpu.lanes import Lanes
from engine.cpu.program_json import StoredKernel, read_program
from engine.cpu.region import CompiledRegion
from engine.cpu.target import Target
from engine.cpu.weight_store import Held, WeightPool
from engine.graph_json import GraphLoader
from engine.ir.graph import Graph
from engine.limits import Limits

FORMAT: Final = 2  # raise it when files hold something else
# What decides what a model compiles to, beside the model.
SOURCES: Final = (
    *("cpu", "frontend", "ir", "lowering", "ops", "passes"),
    *("compiler.py", "dtypes.py", "evaluation.py", "graph_json.py", "inference.py"),
)

Json = Any


def fingerprint(target: Target, precision: str) -> str:
    """Return what a compiled graph depends on beside the graph, as text."""
    versions = (FORMAT, llvmlite.__version__, llvm.llvm_version_info, np.__version__)
    parts = (*map(str, versions), repr(target), precision, sources_digest(SOURCES))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Contents:
    """The bytes of fixed values, in the order in which the data numbers them.

    Attributes:
        arrays: One per value.
        held: What keeps them in memory.
    """

    arrays: Sequence[np.ndarray]
    held: Sequence[object] = ()

    @classmethod
    def mapped(cls, data: Json, blobs: Sequence[memoryview]) -> Contents:
        """Return them where the file is mapped."""
        return cls([np.frombuffer(blobs[blob], np.uint8) for blob, _ in data["contents"]])

    @classmethod
    def pooled(
        cls, data: Json, blobs: Sequence[memoryview], known: Mapping[str, Held], pool: WeightPool
    ) -> Contents:
        """Return them from a pool, which takes in those that were not `known`."""
        held = [
            known[digest]
            if blob is None
            else pool.hold_as(digest, np.frombuffer(blobs[blob], np.uint8))
            for blob, digest in data["contents"]
        ]
        return cls([each.array for each in held], held)

    def loader(self, data: Json) -> GraphLoader:
        """Return what reads the graphs of the data."""
        return GraphLoader([memoryview(self.arrays[n]).toreadonly() for n in data["arrays"]])


def read_native(
    data: Json,
    graph: Graph,
    blobs: Sequence[memoryview],
    *,
    target: Target,
    limits: Limits,
    threads: int,
    store: CodeStore | None = None,
    contents: Contents | None = None,
    lanes: Lanes | None = None,
) -> CompiledGraph:
    """Return what `write_native` wrote for this graph, on mapped blobs or on other `contents`.

    Raises LookupError, TypeError or ValueError where the data is none of `write_native`.
    """
    contents = contents or Contents.mapped(data, blobs)
    lanes = lanes or Lanes()
    loader = contents.loader(data)
    nodes = [*(node for _, node in graph.walk()), *map(loader.node, data["nodes"])]
    code = {key: bytes(blobs[blob]) for key, blob in data["code"].items()}
    handles = (store or CodeStore()).adopt(code, target)
    kernels = [StoredKernel(*described) for described in data["kernels"]]
    addresses: dict[Kernel, int] = {k: handles[k.key].address for k in kernels}
    regions = []
    for region in data["regions"]:
        program = read_program(region["program"], kernels, nodes)
        binder = Binder(
            program,
            [addresses[step.kernel] for step in program.steps],
            [_place(contents.arrays[number]) for number in region["program"]["weights"]],
            scratch_bytes=max((s.kernel.scratch_bytes(target) for s in program.steps), default=0),
            limit_bytes=limits.effective_run_bytes,
            label=region["label"],
        )
        regions.append(CompiledRegion(program, binder, threads, lanes))
    weights = [contents.arrays[number] for number in data["weights"]]
    return CompiledGraph(
        graph=loader.graph(data["graph"]).replace(types=graph.types),
        types=graph.types,
        regions=regions,
        coverage=tuple(Coverage(nodes[n], reason, where) for n, reason, where in data["coverage"]),
        lanes=lanes,
        code=list(handles.values()),
        weights=Contents(weights, contents.held),
        weights_bytes=sum(array.nbytes for array in weights),
    )


def read_whole(blobs: Sequence[memoryview], number: int) -> Graph:
    """Return the graph with all its fixed values, which a blob describes where they were kept for
    later compilations.
    """
    data = json.loads(bytes(blobs[number]))
    return GraphLoader([blobs[array] for array in data["arrays"]]).graph(data["graph"])


def _place(array: np.ndarray) -> tuple[int, int]:
    """Return address and bytes of an array."""
    return int(array.ctypes.data), array.nbytes
