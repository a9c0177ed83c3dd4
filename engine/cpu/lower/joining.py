"""Rules that put tensors together and take them apart: Concat, Split, Slice, Expand, Tile, Pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.kernels.image_copy import ImageCopy
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.shape import part_of_image
from engine.cpu.lower.strided import Axis, is_whole, name_view, strided_copy, strides_of
from engine.dtypes import DType
from engine.ir.dim_bounds import is_not_negative
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, SymDim, dim_max, dim_min
from engine.ops.common import normalize_axis
from engine.ops.slicing import BOUNDS_AS_INPUT, FAR, python_slice


@lowers("Concat")
def concat(ctx: Lowering, node: Node) -> None:
    """Pictures along their channels stay pictures; plain arrays are copied side by side."""
    y = node.outputs[0]
    shape, names = ctx.shape(y), [n for n in node.inputs if n]
    stated = ctx.attributes(node)["axis"]
    axis = normalize_axis(1 if stated is None else int(stated), len(shape))
    _check_sides(ctx, node, names, axis)
    pictures = axis == 1 and ctx.dtype(y) is DType.FLOAT32
    pictures = pictures and all(map(ctx.can_be_image, (y, *names)))
    if pictures and any(ctx.is_image(n) for n in (y, *names)):
        _join_pictures(ctx, node, names)
        return
    target = ctx.output(y)
    start: Dim = 0
    outer = strides_of(shape)
    for name in names:
        source = ctx.strided(name, node)
        axes = [Axis(*each) for each in zip(source.shape, outer, source.strides, strict=True)]
        strided_copy(
            ctx,
            target,
            source.buffer,
            axes,
            ctx.dtype(y),
            node,
            first_to=start * outer[axis],
            first_from=source.first,
        )
        start = start + source.shape[axis]


def _check_sides(ctx: Lowering, node: Node, names: Sequence[str], axis: int) -> None:
    """The parts must agree on all other axes, or copies would leave their arrays."""
    shape = ctx.shape(node.outputs[0])
    total: Dim = 0
    for name in names:
        part = ctx.shape(name)
        if len(part) != len(shape):
            raise NoKernel(f"{name!r} has rank {len(part)}, the result {len(shape)}")
        for k, (mine, common) in enumerate(zip(part, shape, strict=True)):
            if k != axis:
                ctx.require_equal(mine, common, node, f"axis {k} differs between the parts")
        total = total + part[axis]
    ctx.require_equal(total, shape[axis], node, f"the parts do not add up along axis {axis}")


def _join_pictures(ctx: Lowering, node: Node, names: Sequence[str]) -> None:
    """Copy the parts that were not written in their place already."""
    y = node.outputs[0]
    whole = ctx.image(y, node) if ctx.is_image(y) else ctx.output_image(y)
    root, offset = whole.root
    wide, channel = whole.image, 0
    for k, name in enumerate(names):
        part = ctx.image(name, node)
        place = offset + channel * wide.dtype.itemsize
        count = part.image.channels
        if part.root != (root, place):
            held = wide.held - channel if k == len(names) - 1 else count
            layout = replace(wide, channels=count, held=held)
            to = Buffer(y, layout, whole.size_bytes, whole.place, root, place)
            copy_image(ctx, to, part, node)
        channel += count


def copy_image(ctx: Lowering, target: Buffer, source: Buffer, node: Node) -> None:
    """Add the step that copies a picture; both are of the result's batch."""
    batch = ctx.shape(node.outputs[0])[0]
    kernel = ImageCopy(target.image, source.image)
    ctx.step(kernel, (target,), (source,), tasks=batch * target.image.height, node=node)


@lowers("Split")
def split(ctx: Lowering, node: Node) -> None:
    """Views where the parts lie in one piece, copies elsewhere."""
    x, names = node.inputs[0], node.outputs
    shape = ctx.shape(x)
    axis = normalize_axis(int(ctx.attributes(node)["axis"]), len(shape))
    parts = [ctx.shape(name)[axis] if name else None for name in names]
    if any(p is None for p in parts):
        raise NoKernel("an output is left out")
    sizes = [p for p in parts if p is not None]
    total: Dim = 0
    for size in sizes:
        total = total + size
    ctx.require_equal(total, shape[axis], node, f"the parts do not make up axis {axis}")
    start: Dim = 0
    for name, size in zip(names, sizes, strict=True):
        take(ctx, node, x, name, {axis: (start, 1)})
        start = start + size


def take(ctx: Lowering, node: Node, x: str, y: str, ranges: dict[int, tuple[Dim, int]]) -> None:
    """Make `y` of the elements of `x` from a start in steps, along some axes."""
    result = ctx.shape(y)
    if ctx.is_image(x) and _channels_of_picture(ctx, node, x, y, ranges):
        return
    source = ctx.strided(x, node)
    strides: list[Dim] = []
    first = source.first
    for k, stride in enumerate(source.strides):
        start, step = ranges.get(k, (0, 1))
        strides.append(stride * step)
        first = first + stride * start
    name_view(ctx, y, StridedView(source.buffer, result, tuple(strides), first))


def _channels_of_picture(
    ctx: Lowering, node: Node, x: str, y: str, ranges: dict[int, tuple[Dim, int]]
) -> bool:
    """Let `y` be a part of the picture `x` if only channels in a row are taken."""
    shape, result = ctx.shape(x), ctx.shape(y)
    start, step = ranges.get(1, (0, 1))
    same = all(a == b for k, (a, b) in enumerate(zip(shape, result, strict=True)) if k != 1)
    moved = any(r != (0, 1) for k, r in ranges.items() if k != 1)
    channels = result[1]
    if not same or moved or step != 1 or not isinstance(start, int):
        return False
    return isinstance(channels, int) and part_of_image(ctx, y, ctx.image(x, node), start, channels)


@lowers("Slice")
def slice_(ctx: Lowering, node: Node) -> None:
    """Bounds that are fixed, or that follow from shapes."""
    x, y = node.inputs[0], node.outputs[0]
    shape, result = ctx.shape(x), ctx.shape(y)
    starts, ends, axes, steps = _bounds(ctx, node, len(shape))
    ranges: dict[int, tuple[Dim, int]] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if not isinstance(step, int) or step == 0:
            raise NoKernel(f"the step {step} is not known")
        ranges[normalize_axis(axis, len(shape))] = (_start(shape, axis, start, end, step), step)
    if len(result) != len(shape):
        raise NoKernel("its result has another rank")
    take(ctx, node, x, y, ranges)


def _bounds(
    ctx: Lowering, node: Node, rank: int
) -> tuple[list[Dim], list[Dim], list[int], list[Dim]]:
    attributes = ctx.attributes(node)
    given = [*node.inputs[1:], "", "", "", ""]
    if node.version < BOUNDS_AS_INPUT:
        starts: Any = attributes["starts"]
        ends: Any = attributes["ends"]
        axes: Any = attributes["axes"]
        steps: Any = None
    else:
        starts, ends = known_numbers(ctx, given[0]), known_numbers(ctx, given[1])
        axes = known_numbers(ctx, given[2]) if given[2] else None
        steps = known_numbers(ctx, given[3]) if given[3] else None
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) <= rank:
        raise NoKernel("its bounds have different lengths")
    if not all(isinstance(a, int) for a in axes):
        raise NoKernel("its axes are not known")
    return list(starts), list(ends), list(axes), list(steps)


def known_numbers(ctx: Lowering, name: str) -> list[Dim]:
    """Return a value as numbers and dims; `NoKernel` when only running can tell."""
    value = ctx.constant(name)
    if value is not None:
        return [int(v) for v in value.reshape(-1)]
    symbolic = ctx.symbolic(name)
    if symbolic is None:
        raise NoKernel(f"{name!r} is known only at run time")
    return [v if isinstance(v, SymDim) else int(v) for v in symbolic.reshape(-1)]


def _start(shape: Shape, axis: int, start: Dim, end: Dim, step: int) -> Dim:
    """Return the first place of a range; where the range is empty it may lie outside."""
    size = shape[axis]
    if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
        return python_slice(start, end, step, size).indices(size)[0]
    if step < 0:
        if start == -1 and isinstance(end, int) and end <= -FAR:
            return size - 1
        raise NoKernel("it runs backwards from a place that is not known")
    if isinstance(start, int):
        # Far beyond the end (as some exporters write): not even the address may be computed.
        near = start if start < 1 << 31 else dim_min(start, size)
        return near if start >= 0 else dim_max(size + start, 0)
    if is_not_negative(start):
        return dim_min(start, size)
    raise NoKernel(f"it begins at {start}, which may be negative")


@lowers("Expand")
def expand(ctx: Lowering, node: Node) -> None:
    """Axes of size 1 are read again and again."""
    x, y = node.inputs[0], node.outputs[0]
    result = ctx.shape(y)
    lead = len(result) - len(ctx.shape(x))
    shape = (*(1,) * lead, *ctx.shape(x))
    axes = []
    for k, (inner, outer) in enumerate(zip(strides_of(shape), strides_of(result), strict=True)):
        mine, wanted = shape[k], result[k]
        if mine == 1:
            axes.append(Axis(wanted, outer, 0))
            continue
        if mine != wanted:  # it may turn out to be 1
            wrong = (mine - 1) * (mine - wanted)
            ctx.require_equal(wrong, 0, node, f"axis {k} does not broadcast")
            inner = inner * dim_min(mine - 1, 1)
        axes.append(Axis(wanted, outer, inner))
    source = ctx.plain(x, node)
    if is_whole(axes):
        ctx.alias(y, source)
        return
    strided_copy(ctx, ctx.output(y), source, axes, ctx.dtype(x), node)


@lowers("Tile")
def tile(ctx: Lowering, node: Node) -> None:
    """Every axis is read as often as it is repeated."""
    x, y = node.inputs[0], node.outputs[0]
    shape = ctx.shape(x)
    if node.version < 6:
        raise NoKernel("the first version of Tile")
    repeats = known_numbers(ctx, node.inputs[1])
    if len(repeats) != len(shape):
        raise NoKernel(f"{len(repeats)} repeats for {len(shape)} axes")
    axes = []
    inner, outer = strides_of(shape), strides_of(ctx.shape(y))
    for k, (size, count) in enumerate(zip(shape, repeats, strict=True)):
        axes += [Axis(count, outer[k] * size, 0), Axis(size, outer[k], inner[k])]
    source = ctx.plain(x, node)
    if is_whole(axes):
        ctx.alias(y, source)
        return
    strided_copy(ctx, ctx.output(y), source, axes, ctx.dtype(x), node)
