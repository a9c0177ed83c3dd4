"""Rules of reading by index."""

from __future__ import annotations

from typing import Final

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.gather import Gather, GatherElements, GatherND
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, element_count
from engine.ops.common import normalize_axis

TASK: Final = 1 << 14  # elements of one task


def index_type(ctx: Lowering, name: str) -> DType:
    """Return the type of indices; `NoKernel` for one that no kernel reads."""
    dtype = ctx.dtype(name)
    if dtype not in (DType.INT32, DType.INT64):
        raise NoKernel(f"indices of type {dtype}")
    return dtype


def _reads(ctx: Lowering, node: Node) -> tuple[tuple[Buffer, Buffer], DType]:
    """Return data and indices, and the indices' type."""
    x, indices = node.inputs[:2]
    dtype = index_type(ctx, indices)
    return (ctx.plain(x, node), ctx.plain(indices, node)), dtype


@lowers("Gather")
def gather(ctx: Lowering, node: Node) -> None:
    """Whole slices along one axis."""
    x, y = node.inputs[0], node.outputs[0]
    shape = ctx.shape(x)
    axis = normalize_axis(int(ctx.attributes(node)["axis"]), len(shape))
    reads, dtype = _reads(ctx, node)
    outer, inner = element_count(shape[:axis]), element_count(shape[axis + 1 :])
    count = element_count(ctx.shape(node.inputs[1]))
    size = ctx.dtype(x).itemsize
    block = max(1, TASK // max(inner, 1)) if isinstance(inner, int) else 16
    kernel = Gather(dtype, size if inner == 1 else 0)
    fault = ctx.fault(node, f"an index is outside of [-{shape[axis]}, {shape[axis]})")
    ctx.step(
        kernel,
        (ctx.output(y), fault),
        reads,
        tasks=outer * ceildiv(count, block),
        numbers=(count, shape[axis], inner * size, block),
        node=node,
    )


def picked_axis(ctx: Lowering, node: Node, shape: Shape, picks: Shape) -> int:
    """Return the axis along which indices pick; `NoKernel` unless they cover all other axes."""
    if len(shape) != len(picks) or not shape:
        raise NoKernel("data and indices have different ranks")
    axis = normalize_axis(int(ctx.attributes(node)["axis"]), len(shape))
    if any(a != b for k, (a, b) in enumerate(zip(shape, picks, strict=True)) if k != axis):
        raise NoKernel("the indices do not cover the data")
    return axis


@lowers("GatherElements")
def gather_elements(ctx: Lowering, node: Node) -> None:
    """Element by element, along one axis."""
    x, indices, y = *node.inputs[:2], node.outputs[0]
    shape, picks = ctx.shape(x), ctx.shape(indices)
    axis = picked_axis(ctx, node, shape, picks)
    reads, dtype = _reads(ctx, node)
    outer, inner = element_count(shape[:axis]), element_count(shape[axis + 1 :])
    fault = ctx.fault(node, f"an index is outside of [-{shape[axis]}, {shape[axis]})")
    ctx.step(
        GatherElements(dtype, ctx.dtype(x).itemsize),
        (ctx.output(y), fault),
        reads,
        tasks=outer * picks[axis],
        numbers=(picks[axis], shape[axis], inner),
        node=node,
    )


@lowers("GatherND")
def gather_nd(ctx: Lowering, node: Node) -> None:
    """Slices named by tuples."""
    x, indices, y = *node.inputs[:2], node.outputs[0]
    shape, picks = ctx.shape(x), ctx.shape(indices)
    depth, batch = picks[-1] if picks else 0, int(ctx.attributes(node)["batch_dims"])
    if not isinstance(depth, int) or not 0 < depth <= len(shape) - batch:
        raise NoKernel(f"tuples of {depth} for {len(shape) - batch} axes")
    reads, dtype = _reads(ctx, node)
    for mine, other in zip(shape[:batch], picks[:batch], strict=True):
        ctx.require_equal(mine, other, node, "batch dims differ")
    end = batch + depth
    slice_bytes = element_count(shape[end:]) * ctx.dtype(x).itemsize
    numbers: tuple[Dim, ...] = (slice_bytes, element_count(picks[batch:-1]), *shape[batch:end])
    fault = ctx.fault(node, "an index is out of range")
    ctx.step(
        GatherND(dtype, depth),
        (ctx.output(y), fault),
        reads,
        tasks=element_count(picks[:-1]),
        numbers=numbers,
        node=node,
    )
