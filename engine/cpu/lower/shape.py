"""Rules of operators that change shapes: mostly other names for the same memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.fill import PIECE, Fill
from engine.cpu.kernels.range import Range
from engine.cpu.kernels.triangle import KeepTriangle
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.half_rows import alias_half
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import Axis, name_view, strided_copy, strides_of
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv, element_count
from engine.ops.shape import permutation
from engine.ops.slicing import FAR

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def view(ctx: Lowering, node: Node) -> None:
    """The same elements in another shape; what states the shape is not read."""
    x, y = node.inputs[0], node.outputs[0]
    there, here = element_count(ctx.shape(x)), element_count(ctx.shape(y))
    ctx.require_equal(there, here, node, "the elements do not fill the new shape")
    if not alias_half(ctx, y, x) and not _drop_ones(ctx, node):
        ctx.alias(y, ctx.plain(x, node))


def _drop_ones(ctx: Lowering, node: Node) -> bool:
    """Let the result of a view be a view if only axes of size 1 come or go."""
    x, y = node.inputs[0], node.outputs[0]
    if not ctx.is_view(x):
        return False
    source, shape = ctx.strided(x, node), ctx.shape(y)
    kept = [(d, s) for d, s in zip(source.shape, source.strides, strict=True) if d != 1]
    if [d for d, _ in kept] != [d for d in shape if d != 1]:
        return False
    strides = iter([s for _, s in kept])
    moved = tuple(0 if d == 1 else next(strides) for d in shape)
    name_view(ctx, y, replace(source, shape=shape, strides=moved))
    return True


@lowers("Identity")
def identity(ctx: Lowering, node: Node) -> None:
    """Another name."""
    x, y = node.inputs[0], node.outputs[0]
    ctx.shape(x)
    if ctx.is_image(x):
        source = ctx.image(x, node)
        ctx.alias_image(y, source, source.image)
    else:
        ctx.alias(y, ctx.plain(x, node))


@lowers("Dropout")
def dropout(ctx: Lowering, node: Node) -> None:
    """Nothing is dropped outside of training."""
    training = ctx.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else False
    if training is None or bool(np.any(training)) or any(node.outputs[1:]):
        raise NoKernel("it may drop something, or is asked for its mask")
    identity(ctx, node)


@lowers("Transpose")
def transpose(ctx: Lowering, node: Node) -> None:
    """No copy between channels last and a picture that lies so; else a view."""
    x, y = node.inputs[0], node.outputs[0]
    shape = ctx.shape(x)
    order = permutation(ctx.attributes(node)["perm"], len(shape))
    if ctx.is_image(x) and ctx.image(x, node).image.dtype is ctx.dtype(y):
        _from_image(ctx, node, order)
        return
    layout = _as_picture(ctx, y) if order == CHANNELS_FIRST else None
    if layout is not None:
        ctx.alias_image(y, ctx.plain(x, node), layout)
        return
    source = ctx.strided(x, node)
    name_view(ctx, y, _transposed(source, order))


def _transposed(view: StridedView, order: tuple[int, ...]) -> StridedView:
    shape, strides = (tuple(each[k] for k in order) for each in (view.shape, view.strides))
    return replace(view, shape=shape, strides=strides)


def _as_picture(ctx: Lowering, y: str) -> ImageLayout | None:
    """Return the layout in which a plain (N, H, W, C) array is the picture `y`, if there is one."""
    if ctx.dtype(y) is not DType.FLOAT32 or not ctx.can_be_image(y):
        return None
    layout = ctx.image_layout(y)
    return layout if layout.is_dense else None


def _from_image(ctx: Lowering, node: Node, order: tuple[int, ...]) -> None:
    x, y = node.inputs[0], node.outputs[0]
    source = ctx.image(x, node)
    layout = source.image
    if order == CHANNELS_LAST and layout.is_dense:
        ctx.alias(y, source)
        return
    view = StridedView(source, ctx.shape(x), image_strides(layout), layout.at(0, 0))
    ctx.output_view(y, _transposed(view, order))


def image_strides(layout: ImageLayout) -> tuple[int, int, int, int]:
    """Return the elements between neighbours along N, C, H and W."""
    return layout.picture, 1, layout.row, layout.pitch


def part_of_image(ctx: Lowering, y: str, source: Buffer, channel: int, channels: int) -> bool:
    """Let `y` be some channels of a picture, if readers may read whole vectors of them."""
    if channels % ctx.target.lanes:
        return False
    layout = replace(source.image, channels=channels, held=channels)
    ctx.alias_image(y, source, layout, channel * layout.dtype.itemsize)
    return True


@lowers("ConstantOfShape")
def constant_of_shape(ctx: Lowering, node: Node) -> None:
    """One number everywhere; the shape is known, so its operand is not read."""
    y = node.outputs[0]
    value = ctx.attributes(node)["value"]
    number = np.zeros(1, np.float32) if value is None else np.asarray(value).reshape(-1)
    if number.size != 1:
        raise NoKernel(f"its value is {number.size} numbers")
    if number.dtype != ctx.dtype(y).numpy:
        raise NoKernel(f"its value is {number.dtype}")
    filled(ctx, ctx.output(y), number, node)


def filled(ctx: Lowering, target: Buffer, number: np.ndarray, node: Node) -> None:
    """Add the step that writes one number everywhere."""
    count = element_count(target.plain.shape)
    key = f"number {number.dtype} {number.tobytes().hex()}"
    source = ctx.weights(key, lambda: number)
    tasks = ceildiv(count, PIECE)
    ctx.step(Fill(number.itemsize), (target,), (source,), tasks=tasks, numbers=(count,), node=node)


@lowers("Range")
def number_range(ctx: Lowering, node: Node) -> None:
    """Every number from its place."""
    start, _, delta = node.inputs[:3]
    y = node.outputs[0]
    dtype, (count,) = ctx.dtype(y), ctx.shape(y)
    if dtype not in (DType.INT64, DType.INT32, DType.FLOAT32):
        raise NoKernel(f"no ranges of {dtype}")
    reads = (ctx.plain(start, node), ctx.plain(delta, node))
    tasks = ceildiv(count, PIECE)
    ctx.step(Range(dtype), (ctx.output(y),), reads, tasks=tasks, numbers=(count,), node=node)


@lowers("DepthToSpace", "SpaceToDepth")
def depth_to_space(ctx: Lowering, node: Node) -> None:
    """Blocks of pixels out of channels, or the other way round."""
    x, y, attributes = node.inputs[0], node.outputs[0], ctx.attributes(node)
    block = int(attributes["blocksize"])
    deep = x if node.op == "DepthToSpace" else y
    if len(ctx.shape(deep)) != 4 or block < 1:
        raise NoKernel(f"blocks of {block} in an array of rank {len(ctx.shape(deep))}")
    n, channels, h, w = ctx.shape(deep)
    if not isinstance(channels, int) or channels % block**2:
        raise NoKernel("its channels are not known")
    c = channels // block**2
    if attributes["mode"] == "CRD":
        split, (at_c, at_y, at_x) = (n, c, block, block, h, w), (1, 2, 3)
    else:
        split, (at_c, at_y, at_x) = (n, block, block, c, h, w), (3, 1, 2)
    inside = strides_of(split)
    order = (0, at_c, 4, at_y, 5, at_x)  # (N, C, H, block, W, block)
    outside = strides_of((n, c, h, block, w, block))
    sizes = [split[k] for k in order]
    if node.op == "DepthToSpace":
        axes = [Axis(s, o, inside[k]) for s, o, k in zip(sizes, outside, order, strict=True)]
    else:  # in the order in which the result lies
        back = sorted(range(6), key=lambda i: order[i])
        axes = [Axis(sizes[i], inside[order[i]], outside[i]) for i in back]
    strided_copy(ctx, ctx.output(y), ctx.plain(x, node), axes, ctx.dtype(x), node)


@lowers("Trilu")
def trilu(ctx: Lowering, node: Node) -> None:
    """One triangle of every matrix; the diagonal is fixed or follows from shapes."""
    x, y = node.inputs[0], node.outputs[0]
    shape = ctx.shape(x)
    if len(shape) < 2:
        raise NoKernel(f"an array of rank {len(shape)} has no triangle")
    diagonal = 0
    if len(node.inputs) > 1 and node.inputs[1]:
        given = ctx.constant(node.inputs[1])
        if given is None or given.size != 1:
            raise NoKernel("its diagonal is computed")
        diagonal = max(-FAR, min(int(given.reshape(())), FAR))
    kernel = KeepTriangle(ctx.dtype(x).itemsize, bool(ctx.attributes(node)["upper"]))
    tasks, numbers = element_count(shape[:-1]), (*shape[-2:], diagonal)
    source = ctx.plain(x, node)
    ctx.step(kernel, (ctx.output(y),), (source,), tasks=tasks, numbers=numbers, node=node)
