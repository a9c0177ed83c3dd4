"""Compiled graphs in files: programs, machine code and packed weights, mapped when they are read.

Reading one parses no ONNX, runs no pass, lowers nothing and compiles nothing; weights stay where
the file is mapped. Everything is bound to this processor, this LLVM and these sources by the
fingerprint that is part of the file's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
from engine.graph_json import GraphLoader
from engine.ir.graph import Graph
from engine.limits import Limits

FORMAT: Final = 1  # raise it when files hold something else
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


def read_native(
    data: Json,
    graph: Graph,
    blobs: Sequence[memoryview],
    *,
    target: Target,
    limits: Limits,
    threads: int,
    store: CodeStore | None = None,
) -> CompiledGraph:
    """Return what `write_native` wrote for this graph, on mapped blobs.

    Raises LookupError, TypeError or ValueError where the data is none of `write_native`.
    """
    first, count = data["arrays"]
    loader = GraphLoader(blobs[first : first + count])
    nodes = [*(node for _, node in graph.walk()), *map(loader.node, data["nodes"])]
    code = {key: bytes(blobs[blob]) for key, blob in data["code"].items()}
    handles = (store or CodeStore()).adopt(code, target)
    kernels = [StoredKernel(*described) for described in data["kernels"]]
    addresses: dict[Kernel, int] = {k: handles[k.key].address for k in kernels}
    weights = {blob: np.frombuffer(blobs[blob], np.uint8) for blob in data["weights"]}
    lanes = Lanes()
    regions = []
    for region in data["regions"]:
        program = read_program(region["program"], kernels, nodes)
        binder = Binder(
            program,
            [addresses[step.kernel] for step in program.steps],
            [_place(weights[blob]) for blob in region["program"]["weights"]],
            scratch_bytes=max((s.kernel.scratch_bytes(target) for s in program.steps), default=0),
            limit_bytes=limits.effective_run_bytes,
            label=region["label"],
        )
        regions.append(CompiledRegion(program, binder, threads, lanes))
    return CompiledGraph(
        graph=loader.graph(data["graph"]).replace(types=graph.types),
        types=graph.types,
        regions=regions,
        coverage=tuple(Coverage(nodes[n], reason, where) for n, reason, where in data["coverage"]),
        lanes=lanes,
        code=list(handles.values()),
        weights=_Mapped(list(weights.values())),
        weights_bytes=sum(array.nbytes for array in weights.values()),
    )


@dataclass(frozen=True, eq=False)
class _Mapped:
    """Packed weights where the file is mapped."""

    arrays: Sequence[np.ndarray]


def read_whole(data: Json, blobs: Sequence[memoryview]) -> Graph | None:
    """Return the graph with all its fixed values, where they were kept for later compilations."""
    first, count = data["arrays"]
    whole = data["whole"]
    return None if whole is None else GraphLoader(blobs[first : first + count]).graph(whole)


def _place(array: np.ndarray) -> tuple[int, int]:
    """Return address and bytes of an array."""
    return int(array.ctypes.data), array.nbytes
