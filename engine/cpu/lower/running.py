"""Running sums and products along a fixed axis."""

from __future__ import annotations

from typing import Final

from engine.cpu.builder import MEMORY
from engine.cpu.kernels.running import Running
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv, dim_max, element_count, floordiv

TASK: Final = 1 << 12  # elements of one task
COLUMNS: Final = 256  # of one task


@lowers("CumSum", "CumProd")
def running(ctx: Lowering, node: Node) -> None:
    """The axis' elements one after the other, those behind the axis side by side."""
    x, stated = node.inputs
    shape, dtype, fixed = ctx.shape(x), ctx.dtype(x), ctx.constant(stated)
    if fixed is None or fixed.size != 1 or not shape:
        raise NoKernel("its axis is computed")
    if dtype not in MEMORY or (dtype is DType.FLOAT16 and ctx.target.isa == "sse2"):
        raise NoKernel(f"{dtype} has no native code")
    axis = int(fixed.reshape(())) % len(shape)
    size, inner = shape[axis], element_count(shape[axis + 1 :])
    rows = element_count(shape[:axis])
    height = dim_max(1, floordiv(TASK, dim_max(size, 1) * dim_max(inner, 1)))
    attributes = ctx.attributes(node)
    kernel = Running(
        dtype,
        "add" if node.op == "CumSum" else "mul",
        bool(attributes["exclusive"]),
        bool(attributes["reverse"]),
    )
    reads = [ctx.plain(x, node)]
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        reads,
        tasks=ceildiv(rows, height) * ceildiv(inner, COLUMNS),
        numbers=[size, inner, rows, height, COLUMNS],
        node=node,
        in_place=True,
    )
