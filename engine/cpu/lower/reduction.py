"""Reductions over any axes, places of extremes, and means over whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.cpu.buffers import Buffer
from engine.cpu.builder import MEMORY
from engine.cpu.expressions import unsupported
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.extremes import ArgExtreme
from engine.cpu.kernels.image_reduction import ImageReduce
from engine.cpu.kernels.reduction import Reduce, Stages
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers, lowers_definitions
from engine.cpu.lower.strided import strides_of
from engine.dtypes import DType
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, dim_max, element_count, floordiv
from engine.ops.define_reduction import Reduction
from engine.ops.registry import REGISTRY

TASK: Final = 1 << 13  # elements of one task
COLUMNS: Final = 256  # results side by side of one task
PIXELS: Final = (2, 3)  # the axes of a picture that are not items and channels


@dataclass(frozen=True)
class Group:
    """Neighbouring axes of which all are kept, or all are reduced."""

    size: Dim
    stride: Dim
    is_reduced: bool


@lowers_definitions(Reduction)
def reduce(ctx: Lowering, node: Node) -> None:
    """Lower an operator that is defined as a reduction."""
    operator = ctx.operator(node)
    definition = operator.definition
    if not isinstance(definition, Reduction):
        raise NoKernel(f"version {node.version} of the operator is no reduction")
    attributes = operator.complete(node)
    rank = len(ctx.shape(node.inputs[0]))
    axes = definition.normal_axes(_stated_axes(ctx, node, attributes), rank, attributes)
    lower_reduction(ctx, node, definition, axes)


def _stated_axes(ctx: Lowering, node: Node, attributes: Any) -> tuple[int, ...]:
    if attributes.get("axes") is not None:
        return tuple(map(int, attributes["axes"]))
    if len(node.inputs) < 2 or not node.inputs[1]:
        return ()
    value = ctx.constant(node.inputs[1])
    if value is None:
        raise NoKernel("its axes are computed")
    return tuple(map(int, value.reshape(-1)))


@lowers("GlobalAveragePool", "GlobalMaxPool")
def pool_all(ctx: Lowering, node: Node) -> None:
    """The mean or the largest over all places of a picture."""
    name = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
    rank = len(ctx.shape(node.inputs[0]))
    if rank < 3:
        raise NoKernel(f"a value of {rank} axes is no picture")
    definition = REGISTRY.lookup("", name, 13).definition
    lower_reduction(ctx, node, definition, tuple(range(2, rank)))


def lower_reduction(
    ctx: Lowering, node: Node, definition: Reduction, axes: tuple[int, ...]
) -> None:
    """Add the step that reduces the node's first input along axes counted from the front."""
    x, y = node.inputs[0], node.outputs[0]
    stages = _stages(ctx, definition, ctx.dtype(x))
    shape = ctx.shape(x)
    if _is_over_pixels(ctx, node, axes) and not stages.peak:
        _reduce_picture(ctx, node, stages)
        return
    source = ctx.plain(x, node)
    reduce_step(ctx, node, stages, shape, axes, source, ctx.output(y))


def reduce_step(
    ctx: Lowering,
    node: Node,
    stages: Stages,
    shape: Shape,
    axes: Sequence[int],
    source: Buffer,
    target: Buffer,
) -> None:
    """Add the step that reduces a dense array along axes counted from the front."""
    groups = grouped(shape, axes)
    *outer, inner = groups or [Group(1, 1, True)]
    kept = [g for g in outer if not g.is_reduced]
    reduced = [g for g in outer if g.is_reduced]
    count = element_count(tuple(shape[a] for a in axes))
    rows = element_count(tuple(g.size for g in kept))
    has_rows = inner.is_reduced
    breadth = dim_max(count, 1) * (1 if has_rows else dim_max(inner.size, 1))
    height = dim_max(1, floordiv(TASK, breadth))
    numbers: list[Dim] = [inner.size, COLUMNS, rows, height, count]
    for some in (kept, reduced):
        numbers += [*(g.size for g in some), *(g.stride for g in some)]
    tasks = ceildiv(rows, height) * (1 if has_rows else ceildiv(inner.size, COLUMNS))
    kernel = Reduce(stages, has_rows, len(kept), len(reduced))
    ctx.step(kernel, [target], [source], tasks=tasks, numbers=numbers, node=node)


def _stages(ctx: Lowering, definition: Reduction, dtype: DType) -> Stages:
    if dtype not in MEMORY:
        raise NoKernel(f"{dtype} has no native code")
    traced = definition.trace(dtype)
    for expr in (traced.map, traced.finish, traced.peak):
        reason = unsupported(expr, ctx.target) if expr is not None else ""
        if reason:
            raise NoKernel(reason)
    peak = "" if traced.peak is None else write_expr(traced.peak)
    return Stages(
        dtype, write_expr(traced.map), definition.combine, write_expr(traced.finish), peak
    )


def grouped(shape: Shape, axes: Sequence[int]) -> list[Group]:
    """Return the axes of a dense array, but those of size 1, as groups that alternate."""
    groups: list[Group] = []
    for axis, (size, stride) in enumerate(zip(shape, strides_of(shape), strict=True)):
        is_reduced = axis in axes
        if size == 1:
            continue
        if groups and groups[-1].is_reduced == is_reduced:
            groups[-1] = Group(groups[-1].size * size, stride, is_reduced)
        else:
            groups.append(Group(size, stride, is_reduced))
    return groups


def _is_over_pixels(ctx: Lowering, node: Node, axes: tuple[int, ...]) -> bool:
    """Whether the axes are those of the pixels, and the input a picture in whole vectors."""
    x = node.inputs[0]
    if axes != PIXELS or not ctx.is_image(x):
        return False
    layout = ctx.image(x, node).image
    is_float = layout.dtype in (DType.FLOAT32, DType.BFLOAT16)
    return is_float and layout.held % ctx.target.lanes == 0


def _reduce_picture(ctx: Lowering, node: Node, stages: Stages) -> None:
    """Over the pixels of a picture, to a picture of one pixel or a plain array."""
    x, y = node.inputs[0], node.outputs[0]
    source = ctx.image(x, node)
    channels = source.image.channels
    if ctx.can_be_image(y):
        target = ctx.output_image(y)
        layout = target.image
    else:
        target = ctx.output(y)
        layout = ImageLayout(1, 1, channels, channels, channels)
    kernel = ImageReduce(stages, layout, source.image)
    tasks = ctx.shape(x)[0] * kernel.parts(ctx.target)
    ctx.step(kernel, [target], [source], tasks=tasks, node=node)


@lowers("ArgMax", "ArgMin")
def extreme(ctx: Lowering, node: Node) -> None:
    """The place of the largest or the smallest along one axis."""
    x, attributes = node.inputs[0], ctx.attributes(node)
    shape, dtype = ctx.shape(x) or (1,), ctx.dtype(x)
    if dtype not in MEMORY or (dtype is DType.FLOAT16 and ctx.target.isa == "sse2"):
        raise NoKernel(f"{dtype} has no native code")
    axis = int(attributes["axis"]) % len(shape)
    size, inner = shape[axis], element_count(shape[axis + 1 :])
    rows = element_count(shape[:axis])
    if size == 0:
        raise NoKernel("there is nothing to choose from")
    height = dim_max(1, floordiv(TASK, dim_max(size, 1) * dim_max(inner, 1)))
    is_last = bool(attributes["select_last_index"])
    kernel = ArgExtreme(dtype, node.op == "ArgMax", is_last, has_rows=inner == 1)
    source = ctx.plain(x, node)
    ctx.require_equal(size, dim_max(size, 1), node, "there is nothing to choose from")
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        [source],
        tasks=ceildiv(rows, height) * ceildiv(inner, COLUMNS),
        numbers=[size, inner, rows, height, COLUMNS],
        node=node,
    )
