"""Which plain arrays lie otherwise than densely as float32: rows that only products read.

Rows of float32 whose pitch would be whole pages keep some room between them: those of a tile would
meet in the same few places of the first-level cache.

With precision "bf16" more of them are held as bfloat16.

A product with fixed weights rounds its left side to bfloat16 anyway, once for every group of
columns. Where only such products read what a product, a normalization or attention makes, it is
rounded as it is written; a normalization that others read, too, writes its result both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from engine.cpu.buffers import Buffer, HalfRows, PlainLayout, StridedView
from engine.cpu.lower.broadcasting import View, broadcast_steps
from engine.cpu.lower.context import CONVERTERS_OF_HALVES, Lowering
from engine.cpu.lower.strided import copy_view
from engine.dtypes import DType
from engine.ir.expr import argument, cast
from engine.ir.graph import Node
from engine.ir.types import element_count

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
PRODUCTS = ("MatMul", "Gemm")
PAGE = 4096  # bytes; rows at such distances meet in the same few places of a cache


@dataclass(frozen=True)
class Rows:
    """One side of a product, or its result.

    Attributes:
        buffer: The memory.
        pitch: Elements from one row to the next.
        dtype: FLOAT32 or BFLOAT16.
    """

    buffer: Buffer
    pitch: int
    dtype: DType = DType.FLOAT32


class Half(Enum):
    """How the readers of an array want it."""

    NO = auto()
    ONLY = auto()  # as bfloat16, and in no other form
    TOO = auto()  # as bfloat16, and as it is


def takes_half(ctx: Lowering) -> bool:
    """Whether products multiply numbers of bfloat16."""
    return ctx.precision == "bf16" and ctx.target.has_bf16_dot


def wish(ctx: Lowering, name: str, *, dense: bool = True) -> Half:
    """Return how the readers of an array want it; `dense`: it has no room between its rows."""
    if not takes_half(ctx) or ctx.is_wanted(name) or ctx.dtype(name) is not DType.FLOAT32:
        return Half.NO
    shape = ctx.shape(name)
    columns = shape[-1] if shape else 0
    if dense and isinstance(columns, int) and columns * DType.BFLOAT16.itemsize % PAGE == 0:
        return Half.NO
    readers = [_reads_half(ctx, node, name) for node in ctx.graph.consumers.get(name, ())]
    if not any(readers):
        return Half.NO
    return Half.ONLY if all(readers) else Half.TOO


def _reads_half(ctx: Lowering, node: Node, name: str) -> bool:
    """Whether a node takes an array as bfloat16: a product, or a view that only products read."""
    if list(node.inputs).count(name) != 1 or node.inputs[0] != name:
        return False
    if node.domain == "" and node.op in VIEWS:
        return not ctx.is_view(name) and wish(ctx, node.outputs[0]) is Half.ONLY
    return _multiplies(ctx, node, name)


def _multiplies(ctx: Lowering, node: Node, name: str) -> bool:
    """Whether a node is a product of the rows of an array, and nothing else, with fixed weights."""
    if list(node.inputs).count(name) != 1 or node.inputs[0] != name:
        return False
    if node.domain not in ("", "millrace") or node.op not in PRODUCTS or len(node.inputs) < 2:
        return False
    weights = ctx.constant(node.inputs[1])
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32:
        return False
    if node.op == "Gemm" and ctx.attributes(node)["transA"]:
        return False
    columns = ctx.shape(name)[-1]
    turned = node.op == "Gemm" and ctx.attributes(node)["transB"]
    return columns == weights.shape[1 if turned else 0] and columns % 2 == 0


def output_as_half(ctx: Lowering, name: str) -> Buffer:
    """Return the new dense array of a value that lies as bfloat16."""
    shape = ctx.shape(name)
    buffer = ctx.temporary_plain(f"{name}.half", shape, DType.BFLOAT16)
    columns = shape[-1]
    assert isinstance(columns, int)
    ctx.halves[name] = HalfRows(buffer, columns)
    return buffer


def output_rows(ctx: Lowering, name: str, columns: int) -> Rows:
    """Return the new array of a product's result."""
    if _wants_room(ctx, name, columns):
        return _rows_apart(ctx, name, columns, DType.FLOAT32, ctx.target.lanes)
    if wish(ctx, name, dense=False) is not Half.ONLY:
        return Rows(ctx.output(name), columns)
    if columns * DType.BFLOAT16.itemsize % PAGE:
        return Rows(output_as_half(ctx, name), columns, DType.BFLOAT16)
    return _rows_apart(ctx, name, columns, DType.BFLOAT16, 2 * ctx.target.lanes)


def _rows_apart(ctx: Lowering, name: str, columns: int, dtype: DType, room: int) -> Rows:
    """Return a new array of rows with room behind each."""
    pitch, rows = columns + room, element_count(ctx.shape(name)[:-1])
    buffer = ctx.temporary_plain(f"{name}.rows", (rows, pitch), dtype)
    ctx.halves[name] = HalfRows(buffer, pitch)
    return Rows(buffer, pitch, dtype)


def _wants_room(ctx: Lowering, name: str, columns: int) -> bool:
    """Whether rows of float32 would lie whole pages apart, and only products read them."""
    if takes_half(ctx) or ctx.is_wanted(name) or ctx.dtype(name) is not DType.FLOAT32:
        return False
    readers = ctx.graph.consumers.get(name, ())
    whole_pages = columns * DType.FLOAT32.itemsize % PAGE == 0
    return whole_pages and bool(readers) and all(_multiplies(ctx, r, name) for r in readers)


def input_rows(ctx: Lowering, name: str, columns: int, node: Node) -> Rows:
    """Return the left side of a product."""
    half = ctx.halves.get(name)
    if half is None or columns % 2:
        return Rows(ctx.plain(name, node), columns)
    return Rows(half.buffer, half.pitch, half.buffer.plain.dtype)


def alias_half(ctx: Lowering, name: str, source: str) -> bool:
    """Let a view be one of an array that lies as bfloat16 only; whether it does."""
    half = ctx.halves.get(source)
    if half is None or ctx.has_plain(source) or half.pitch != ctx.shape(source)[-1]:
        return False
    layout = PlainLayout(ctx.shape(name), half.buffer.plain.dtype)
    columns = layout.shape[-1] if layout.shape else 0
    if not isinstance(columns, int):
        return False
    ctx.halves[name] = HalfRows(
        Buffer(f"{name}.half", layout, layout.size_bytes, half.buffer.place, half.buffer), columns
    )
    return True


def widen(ctx: Lowering, target: Buffer, half: HalfRows, node: Node) -> None:
    """Add the steps that make a plain array of rows that lie otherwise."""
    shape, buffer = target.plain.shape, half.buffer
    columns = shape[-1]
    assert isinstance(columns, int)
    if buffer.plain.dtype is target.plain.dtype:
        outer = [element_count(shape[k + 1 : -1]) * half.pitch for k in range(len(shape) - 1)]
        copy_view(ctx, target, StridedView(buffer, shape, (*outer, 1)), node)
        return
    if half.pitch != columns:
        rows = element_count(shape[:-1])
        source = StridedView(buffer, (rows, columns), (half.pitch, 1))
        buffer = ctx.temporary_plain(f"{buffer.name}.dense", (rows, columns), DType.BFLOAT16)
        copy_view(ctx, buffer, source, node)
    expr = cast(argument(0, DType.BFLOAT16), DType.FLOAT32)
    broadcast_steps(
        ctx, node, expr, [View(buffer, shape, DType.BFLOAT16)], View(target, shape, DType.FLOAT32)
    )


CONVERTERS_OF_HALVES["to_plain"] = widen
