"""Rarer normalizations, put together from reductions and elementwise steps."""

from __future__ import annotations

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.builder import MEMORY
from engine.cpu.expressions import unsupported
from engine.cpu.kernels.extremes import ArgExtreme
from engine.cpu.kernels.reduction import Stages
from engine.cpu.lower.broadcasting import View, broadcast_step
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.reduction import reduce_step
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir import expr as e
from engine.ir.expr import Expr, argument, cast
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node
from engine.ir.types import Shape, ceildiv, dim_max, element_count, floordiv
from engine.ops.define_reduction import reduced_shape
from engine.ops.softmax import AXIS_SEMANTICS

TASK = 1 << 12  # elements of one task


@lowers("LpNormalization")
def lp_normalization(ctx: Lowering, node: Node) -> None:
    """Over the norm along one axis, or over 1 where that is 0."""
    x, attributes = node.inputs[0], ctx.attributes(node)
    shape, wide = ctx.shape(x), _wide(ctx, x)
    axis = int(attributes["axis"]) % len(shape)
    is_first = int(attributes["p"]) == 1
    total = argument(0, wide.dtype)
    norm = total if is_first else e.sqrt(total)
    finish = e.select(e.equal(norm, 0), 1, norm)
    stages = _summed(ctx, x, e.absolute(wide) if is_first else wide * wide, finish)
    over = _reduced(ctx, node, stages, (axis,), "norm")
    _write(ctx, node, wide / argument(1, wide.dtype), [over])


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(ctx: Lowering, node: Node) -> None:
    """Mean 0 and variance 1 along some axes, by ONNX's own formula."""
    x = node.inputs[0]
    rank, wide = len(ctx.shape(x)), _wide(ctx, x)
    axes = tuple(sorted({int(a) % rank for a in ctx.attributes(node)["axes"]}))
    total, count = (argument(i, wide.dtype) for i in range(2))
    views = []
    for name, term in (("mean", wide), ("mean square", wide * wide)):
        stages = _summed(ctx, x, term, total / count)
        views.append(_reduced(ctx, node, stages, axes, name))
    mean, square = (argument(i, wide.dtype) for i in (1, 2))
    deviation = e.sqrt(square - mean * mean)
    _write(ctx, node, (wide - mean) / (deviation + 1e-9), views)


@lowers("Hardmax")
def hardmax(ctx: Lowering, node: Node) -> None:
    """One at the place of the first largest, zero elsewhere."""
    x, dtype = node.inputs[0], ctx.dtype(node.inputs[0])
    shape = ctx.shape(x)
    _wide(ctx, x)
    if not shape:
        raise NoKernel("a single number is no row")
    stated = ctx.attributes(node)["axis"]
    is_new = node.version >= AXIS_SEMANTICS
    axis = (-1 if is_new else 1) if stated is None else int(stated)
    axis = axis % len(shape) if axis < len(shape) else len(shape)
    behind = axis + 1 if is_new else len(shape)
    parts: Shape = tuple(
        element_count(p) for p in (shape[:axis], shape[axis:behind], shape[behind:])
    )
    rows, size, inner = parts
    if not isinstance(size, int) or size == 0:
        raise NoKernel("the size of its axis is not known")
    height = dim_max(1, floordiv(TASK, size * dim_max(inner, 1)))
    kernel = ArgExtreme(dtype, is_largest=True, is_last=False, has_rows=inner == 1)
    source = ctx.plain(x, node)
    place = ctx.temporary_plain("place of the largest", (rows, 1, inner), DType.INT64)
    numbers = [size, inner, rows, height, TASK]
    tasks = ceildiv(rows, height) * ceildiv(inner, TASK)
    ctx.step(kernel, [place], [source], tasks=tasks, numbers=numbers, node=node)
    count = ctx.weights(f"numbers below {size}", lambda: np.arange(size), "numbers")
    here, wanted = (argument(i, DType.INT64) for i in range(2))
    one = cast(e.select(e.equal(here, wanted), *_one_and_zero(dtype)), dtype)
    views = [
        View(count, (size, 1), DType.INT64),
        View(place, (rows, 1, inner), DType.INT64),
    ]
    target = View(ctx.output(node.outputs[0]), parts, dtype)
    broadcast_step(ctx, node, one, views, target)


def _one_and_zero(dtype: DType) -> tuple[Expr, Expr]:
    return e.constant(1, dtype.compute), e.constant(0, dtype.compute)


def _wide(ctx: Lowering, x: str) -> Expr:
    """Return an element in the type in which it computes; `NoKernel` where there is no code."""
    dtype = ctx.dtype(x)
    if dtype not in MEMORY:
        raise NoKernel(f"{dtype} has no native code")
    wide = cast(argument(0, dtype), dtype.compute)
    reason = unsupported(wide, ctx.target)
    if reason or not ctx.shape(x):
        raise NoKernel(reason or "a single number has no axis")
    return wide


def _summed(ctx: Lowering, x: str, term: Expr, finish: Expr) -> Stages:
    return Stages(ctx.dtype(x), write_expr(term), "add", write_expr(finish))


def _reduced(ctx: Lowering, node: Node, stages: Stages, axes: tuple[int, ...], name: str) -> View:
    """Return what the node's input is reduced to, its axes kept as 1."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    small = reduced_shape(shape, axes, True)
    target = ctx.temporary_plain(f"{node.outputs[0]}: {name}", small, stages.result)
    reduce_step(ctx, node, stages, shape, axes, ctx.plain(x, node), target)
    return View(target, small, stages.result)


def _write(ctx: Lowering, node: Node, expr: Expr, views: list[View]) -> None:
    """Add the step that computes the result of the input (x0) and what it was reduced to."""
    x, y = node.inputs[0], node.outputs[0]
    source: Buffer = ctx.plain(x, node)
    operands = [View(source, ctx.shape(x), ctx.dtype(x)), *views]
    target = View(ctx.output(y), ctx.shape(y), ctx.dtype(y))
    broadcast_step(ctx, node, cast(expr, target.dtype), operands, target)
