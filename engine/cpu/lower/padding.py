"""Rules of padding: with a number, or with what is inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.cpu.kernels.image_pad import ImagePad
from engine.cpu.kernels.resize import Resize
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.joining import known_numbers
from engine.cpu.lower.resize import fixed_table
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.shape import filled
from engine.cpu.lower.strided import Axis, strided_copy, strides_of
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, dim_max
from engine.ops.common import normalize_axis

INSIDE = ("edge", "reflect", "wrap")


@lowers("Pad")
def pad(ctx: Lowering, node: Node) -> None:
    """Pictures stay pictures where zeros, or pixels of their own, are put around them."""
    x = node.inputs[0]
    mode = ctx.attributes(node)["mode"]
    begins, ends = _pads(ctx, node, len(ctx.shape(x)))
    if mode in INSIDE:
        _pad_from_inside(ctx, node, begins, ends, mode)
        return
    if mode != "constant":
        raise NoKernel(f"mode {mode!r}")
    value = _value(ctx, node)
    around = _around_pictures(ctx, node, begins, ends) and min((*begins, *ends)) >= 0
    if around and ctx.is_image(x) and value.tobytes() == bytes(value.nbytes):
        source = ctx.image(x, node)
        target = ctx.output_image(node.outputs[0])
        kernel = ImagePad(target.image, source.image, begins[2], begins[3])
        tasks = ctx.shape(x)[0] * target.image.height
        ctx.step(kernel, (target,), (source,), tasks=tasks, node=node)
        return
    _pad_plain(ctx, node, begins, ends, value)


def _value(ctx: Lowering, node: Node) -> np.ndarray:
    value = np.asarray(ctx.attributes(node)["value"])
    if len(node.inputs) > 2 and node.inputs[2]:
        given = ctx.constant(node.inputs[2])
        if given is None:
            raise NoKernel("its value is computed")
        value = given
    if value.size != 1:
        raise NoKernel(f"its value is {value.size} numbers")
    return value.reshape(1).astype(ctx.dtype(node.inputs[0]).numpy)


def _pad_plain(
    ctx: Lowering, node: Node, begins: Sequence[int], ends: Sequence[int], value: np.ndarray
) -> None:
    """The number everywhere, then the input in its place; negative pads cut."""
    x, y = node.inputs[0], node.outputs[0]
    source, outer = ctx.strided(x, node), strides_of(ctx.shape(y))
    axes: list[Axis] = []
    to: Dim = 0
    first: Dim = source.first
    for k, size in enumerate(source.shape):
        kept = dim_max(size + min(begins[k], 0) + min(ends[k], 0), 0)
        axes.append(Axis(kept, outer[k], source.strides[k]))
        to = to + outer[k] * max(begins[k], 0)
        first = first + source.strides[k] * max(-begins[k], 0)
    target = ctx.output(y)
    if max((*begins, *ends), default=0) > 0:
        filled(ctx, target, value, node)
    dtype = ctx.dtype(x)
    strided_copy(ctx, target, source.buffer, axes, dtype, node, first_to=to, first_from=first)


def _around_pictures(ctx: Lowering, node: Node, begins: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether only height and width of float32 pictures change."""
    x, y = node.inputs[0], node.outputs[0]
    pictures = ctx.dtype(x) is DType.FLOAT32 and ctx.can_be_image(x) and ctx.can_be_image(y)
    return pictures and not any((*begins[:2], *ends[:2]))


def _pad_from_inside(
    ctx: Lowering, node: Node, begins: Sequence[int], ends: Sequence[int], mode: str
) -> None:
    """Every row and column of the result is one of the input's: numpy says which."""
    if not _around_pictures(ctx, node, begins, ends):
        raise NoKernel(f"mode {mode!r} of what is no picture")
    x, y = node.inputs[0], node.outputs[0]
    sizes = [d for d in ctx.shape(x)[2:] if isinstance(d, int)]
    tables = []
    for k, size in enumerate(sizes, start=2):
        kept = np.arange(size)[max(-begins[k], 0) : size - max(-ends[k], 0)]
        if not kept.size:
            raise NoKernel("nothing is left to repeat")
        width = (max(begins[k], 0), max(ends[k], 0))
        tables.append(np.pad(kept, width, mode=mode).astype(np.int64))  # type: ignore[call-overload]
    source = ctx.image(x, node)
    target = ctx.output_image(y)
    reads = [source]
    for table, step in zip(tables, (source.image.row, source.image.pitch), strict=True):
        ones = np.ones(table.size, np.float32)
        reads += [fixed_table(ctx, table * step), fixed_table(ctx, ones)]
    kernel = Resize(target.image, source.image, 1, 1)
    tasks = ctx.shape(y)[0] * target.image.height
    ctx.step(kernel, (target,), reads, tasks=tasks, node=node)


def _pads(ctx: Lowering, node: Node, rank: int) -> tuple[list[int], list[int]]:
    """Return what is added (or, negative, cut) in front of and behind every axis."""
    attributes = ctx.attributes(node)
    stated = attributes["paddings"] if attributes["pads"] is None else attributes["pads"]
    flat = known_numbers(ctx, node.inputs[1]) if stated is None else list(stated)
    named: Sequence[Dim] = range(rank)
    if len(node.inputs) > 3 and node.inputs[3]:
        named = known_numbers(ctx, node.inputs[3])
    if len(flat) != 2 * len(named) or not all(isinstance(n, int) for n in (*flat, *named)):
        raise NoKernel("its pads are not known")
    begins, ends = [0] * rank, [0] * rank
    for k, axis in enumerate(named):
        place = normalize_axis(int(str(axis)), rank)
        begins[place], ends[place] = int(str(flat[k])), int(str(flat[k + len(named)]))
    return begins, ends
