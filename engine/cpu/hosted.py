"""Native code for operators whose output sizes only their values tell.

Such a node stands between regions, like a portable one; what computes it is a kernel called
directly. Values that the kernel does not take go to the portable definition.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.cpu.code_store import CodeStore, Handle
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.suppression import Suppress, candidate_bytes
from engine.cpu.target import Target
from engine.ir.graph import Array, Graph
from engine.ops.contexts import ComputeContext
from engine.ops.detection import corners_of
from engine.ops.registry import Operator, Registry

HOSTED = ("NonMaxSuppression",)
MOST_CANDIDATES = 1 << 24  # boxes that are numbered with 32 bits, with room to spare


def hosted_kernels(graph: Graph) -> list[Kernel]:
    """Return the kernels that `hosted_operators` of a graph need."""
    needed = any(node.op in HOSTED and not node.domain for _, node in graph.walk())
    return [Suppress()] if needed else []


def hosted_operators(
    graph: Graph, registry: Registry, store: CodeStore, target: Target
) -> Iterator[Operator]:
    """Yield, for those of these operators that a graph needs, one that computes natively."""
    versions = {node.version for _, node in graph.walk() if node.op in HOSTED and not node.domain}
    found = {id(op): op for v in versions for op in [registry.lookup("", HOSTED[0], v)]}
    if not found:
        return
    kernel = Suppress()
    handle = store.get([kernel], target)[kernel]
    for operator in found.values():
        yield replace(operator, compute=_Suppression(operator, handle, target), bind=None)


class _Suppression:
    """Computes NonMaxSuppression; everything unusual is left to the portable definition."""

    def __init__(self, portable: Operator, handle: Handle, target: Target) -> None:
        self._portable, self._handle, self._target = portable, handle, target
        kind = ctypes.CFUNCTYPE(
            None,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        )
        self._call = kind(handle.address)

    def __call__(
        self,
        ctx: ComputeContext,
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        threshold: Array | None = None,
    ) -> Sequence[Array]:
        """Return rows of (image, class, box), as the portable definition does."""
        limit = 0 if most is None else int(most.reshape(-1)[0])
        iou = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
        if not self._takes(boxes, scores, limit, iou):
            return self._portable.compute(ctx, boxes, scores, most, overlap, threshold)
        least = -np.inf if threshold is None else float(threshold.reshape(-1)[0])
        corners = corners_of(boxes, bool(ctx.attributes["center_point_box"]))
        chosen, counts = self._choose(corners, scores, limit, iou, least)
        return [_rows(chosen, counts, scores.shape[1])]

    @staticmethod
    def _takes(boxes: Array, scores: Array, limit: int, iou: float) -> bool:
        fits = boxes.ndim == scores.ndim == 3 and boxes.shape[2] == 4
        return (
            fits
            and boxes.shape[:2] == scores.shape[::2]
            and scores.size > 0
            and scores.shape[2] < MOST_CANDIDATES
            and limit > 0
            and 0 <= iou <= 1
            and boxes.dtype == scores.dtype == np.float32
            and bool(np.isfinite(scores).all())
        )

    def _choose(
        self, corners: Array, scores: Array, limit: int, iou: float, least: float
    ) -> tuple[Array, Array]:
        images, classes, count = scores.shape
        most, tasks = min(limit, count), images * classes
        chosen = np.empty((tasks, most), np.int64)
        counts = np.empty(tasks, np.int64)
        operands: list[np.ndarray[Any, Any]] = [
            chosen,
            counts,
            np.empty(candidate_bytes(count, self._target), np.uint8),
            np.ascontiguousarray(corners.transpose(0, 2, 1)),  # (images, 4, boxes)
            np.ascontiguousarray(scores),
            np.array([iou, least], np.float32),
        ]
        pointers = np.array([a.ctypes.data for a in operands], np.int64)
        numbers = np.array([count, classes, most], np.int64)
        self._call(pointers.ctypes.data, numbers.ctypes.data, 0, tasks, None)
        return chosen, counts


def _rows(chosen: Array, counts: Array, classes: int) -> Array:
    """Return (image, class, box) for the first `counts` boxes of every task."""
    task, place = np.nonzero(np.arange(chosen.shape[1]) < counts[:, None])
    return np.stack([task // classes, task % classes, chosen[task, place]], axis=1)
