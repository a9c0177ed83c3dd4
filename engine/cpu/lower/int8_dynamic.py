"""DynamicQuantizeLinear: bytes, their scale and zero point, from the values' own range."""

from __future__ import annotations

from engine.cpu.kernels.int8_dynamic import PIECE, FindRange, QuantizeByRange, ScaleOfRange
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv, element_count


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
