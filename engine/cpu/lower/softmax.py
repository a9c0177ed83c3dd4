"""Softmax and LogSoftmax: over one axis, before opset 13 over all from one on."""

from __future__ import annotations

from typing import Final

from engine.cpu.kernels.softmax import Softmax
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.exact import is_rounded_next
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, ceildiv, dim_max, element_count, floordiv
from engine.ops.softmax import AXIS_SEMANTICS

TASK: Final = 1 << 12  # elements of one task
COLUMNS: Final = 256  # of one task, where the axis is not the last
TYPES: Final = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


@lowers("Softmax", "LogSoftmax")
def softmax(ctx: Lowering, node: Node) -> None:
    """Rows where the axis is last (or size 1 behind it), else columns."""
    (x,) = node.inputs
    shape, dtype = ctx.shape(x), ctx.dtype(x)
    if dtype not in TYPES or (dtype is DType.FLOAT16 and ctx.target.isa == "sse2"):
        raise NoKernel(f"softmax of {dtype} has no native code")
    if not shape:
        raise NoKernel("a single number is no row")
    stated = ctx.attributes(node)["axis"]
    is_new = node.version >= AXIS_SEMANTICS
    axis = (-1 if is_new else 1) if stated is None else int(stated)
    axis = axis % len(shape) if axis < len(shape) else len(shape)
    size: Dim = shape[axis] if is_new else element_count(shape[axis:])
    inner: Dim = element_count(shape[axis + 1 :]) if is_new else 1
    rows = element_count(shape[:axis])
    width = size if isinstance(size, int) else None
    has_rows = inner == 1
    is_logarithm = node.op == "LogSoftmax"
    exact = not is_logarithm and is_rounded_next(ctx, node.outputs[0])
    kernel = Softmax(dtype, is_logarithm, has_rows, width if has_rows else None, exact)
    columns = 1 if has_rows else COLUMNS
    breadth = dim_max(size, 1) * (1 if has_rows else dim_max(inner, 1))
    height: Dim = dim_max(1, floordiv(TASK, breadth))
    reads = [ctx.plain(x, node)]
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        reads,
        tasks=ceildiv(rows, height) * ceildiv(inner, columns),
        numbers=[size, inner, rows, height, columns],
        node=node,
        in_place=True,
    )
