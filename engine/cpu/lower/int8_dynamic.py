"""Bytes, their scale and zero point, from the values' own range: of all values, or row by row."""

from __future__ import annotations

from typing import Final

from engine.cpu.kernels.int8_dynamic import PIECE, FindRange, QuantizeByRange, ScaleOfRange
from engine.cpu.kernels.int8_rows import QuantizeRows
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv, element_count
from engine.ops.fused import FUSED_DOMAIN

ROWS_TASK: Final = 1 << 13  # elements of rows in one task


@lowers("DynamicQuantizeLinear")
def dynamic_quantize(ctx: Lowering, node: Node) -> None:
    """Find the range in pieces, then the scale, then quantize."""
    x = node.inputs[0]
    if ctx.dtype(x) is not DType.FLOAT32 or len([n for n in node.outputs if n]) != 3:
        raise NoKernel("it quantizes float32, and gives all three results")
    size = element_count(ctx.shape(x))
    pieces = ceildiv(size, PIECE)
    values = ctx.plain(x, node)
    ranges = ctx.temporary(f"{x}.ranges", pieces * 8)
    y, scale, zero = (ctx.output(name) for name in node.outputs)
    ctx.step(FindRange(), [ranges], [values], tasks=pieces, numbers=[size], node=node)
    ctx.step(ScaleOfRange(), [scale, zero], [ranges], tasks=1, numbers=[pieces], node=node)
    ctx.step(QuantizeByRange(), [y], [values, scale, zero], tasks=pieces, numbers=[size], node=node)


@lowers("QuantizeRows", domain=FUSED_DOMAIN)
def quantize_rows(ctx: Lowering, node: Node) -> None:
    """Each row by its own range."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    width = shape[-1] if shape else 0
    if ctx.dtype(x) is not DType.FLOAT32 or not isinstance(width, int) or not width:
        raise NoKernel("it quantizes rows of float32, of a fixed width")
    rows, height = element_count(shape[:-1]), max(1, ROWS_TASK // width)
    values = ctx.plain(x, node)
    y, scales = (ctx.output(name) for name in node.outputs)
    ctx.step(
        QuantizeRows(width),
        [y, scales],
        [values],
        tasks=ceildiv(rows, height),
        numbers=[rows, height],
        node=node,
    )
