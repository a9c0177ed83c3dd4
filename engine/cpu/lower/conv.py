"""Convolutions of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule, pack_depthwise
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels
from engine.cpu.kernels.schedule import schedule_conv, schedule_depthwise, winograd_of
from engine.cpu.kernels.winograd import Winograd, pack_winograd
from engine.cpu.lower.apart import fused_or_apart
from engine.cpu.lower.computed_weights import packed_filters, stand_in
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.conv_geometry import border_of, geometry, two
from engine.cpu.lower.conv_operands import (
    Convolution,
    add_step,
    finish_signal,
    input_pictures,
    read_bias,
    read_epilogue,
    read_operands,
    result_picture,
)
from engine.cpu.lower.epilogue import contraction_inputs
from engine.cpu.lower.half import rounded, takes_half
from engine.cpu.lower.rules import NoKernel, lowers
from engine.ir.graph import Node
from engine.ops.cores.windows import Window

__all__ = ["Part", "border_of", "conv", "lower_dense", "merged_groups"]


@lowers("Conv", domain="millrace")
def fused_conv(ctx: Lowering, node: Node) -> None:
    """The same with an epilogue."""
    fused_or_apart(ctx, node, conv)


@lowers("Conv")
def conv(ctx: Lowering, node: Node) -> None:
    """A convolution of pictures, or of signals as pictures one row high."""
    whole, window = _read(ctx, node)
    if whole.is_computed:
        _check_groups(ctx, whole)
    x, extras = input_pictures(ctx, whole)
    y = result_picture(ctx, whole)
    if whole.is_depthwise and not whole.is_computed:
        _lower_depthwise(ctx, whole, window, y, x, extras)
    elif whole.is_computed:
        _lower_computed(ctx, whole, window, y, x, extras)
    else:
        lower_dense(ctx, whole, Part(whole.weights, window), y, x, extras)
    finish_signal(ctx, whole, y)


def _read(ctx: Lowering, node: Node) -> tuple[Convolution, Window]:
    """Collect what the node says; `NoKernel` for what is not done."""
    name, key, *_ = contraction_inputs(ctx, node)
    is_computed = ctx.constant(key) is None
    x, weights = (name, stand_in(ctx, key)) if is_computed else read_operands(ctx, node)[::2]
    try:
        found = geometry(ctx.attributes(node), ctx.shape(x), weights)
    except ValueError as error:
        raise NoKernel(str(error)) from error
    bias_key, bias = read_bias(ctx, node, weights.shape[0])
    epilogue = read_epilogue(ctx, node, (weights.shape[0], *found.outputs[2 - found.rank :]))
    if found.rank == 1:
        weights = weights[:, :, None, :]
    whole = Convolution(
        node,
        x,
        key,
        weights,
        found.groups,
        bias,
        bias_key,
        epilogue,
        found.rank,
        found.outputs,
        found.border,
        is_computed,
    )
    return whole, found.window


# ---------------------------------------------------------------------- dense


@dataclass(frozen=True)
class Part:
    """A convolution that computes all pixels of a result, or some at regular distances.

    Attributes:
        weights: (filters, channels per group, rows, columns).
        window: Kernel, strides, dilations and padding.
        key: Tells these weights from others made of the same value.
        first: First pixel of the result that is computed.
        pixels: Rows and columns of such pixels; None for all.
        spacing: From one to the next.
    """

    weights: np.ndarray
    window: Window
    key: str = ""
    first: tuple[int, int] = (0, 0)
    pixels: tuple[int, int] | None = None
    spacing: tuple[int, int] = (1, 1)


def lower_dense(
    ctx: Lowering,
    whole: Convolution,
    part: Part,
    y: Buffer,
    x: Buffer,
    extras: list[Buffer | None],
    *,
    clears: bool = True,
) -> None:
    """Add the step of a convolution whose groups are few and wide, or made so."""
    weights, groups = merged_groups(part.weights, whole.groups, ctx.target.lanes)
    if groups == 1:  # a thin picture may have a channel of zeros
        missing = max(x.image.channels - weights.shape[1], 0)
        weights = np.pad(weights, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else weights
    kernel = _kernel(ctx, whole, part, y, x, extras, groups, clears=clears)
    half = takes_half(ctx, weights, x.image)
    wino = winograd_of(kernel, ctx.target, half=half) if ctx.winograd else None
    if wino is None and half:
        x = rounded(ctx, whole.node, x, ctx.shape(whole.x)[0])
        kernel = _kernel(ctx, whole, part, y, x, extras, groups, clears=clears)
    dtype = x.image.dtype
    panels = kernel.panels(ctx.target)

    def pack() -> np.ndarray:
        filters = weights.shape[0] // groups
        parts = weights.reshape(groups, filters, *weights.shape[1:])
        matrices = parts.transpose(0, 3, 4, 2, 1).reshape(groups, -1, filters)
        missing = panels.columns - filters
        matrices = np.pad(matrices, ((0, 0), (0, 0), (0, missing)))
        return np.concatenate([pack_panels(m, panels, dtype) for m in matrices])

    label = f"{weights.shape[0]}|{weights.shape[1]}|{groups}|{panels}"
    numbers = [
        ctx.weights(f"{name}|filters|{label}", partial(_in_groups, values, groups, panels), name)
        for name, values in whole.per_filter
    ]
    if wino is not None:
        _lower_winograd(ctx, whole, wino, y, x, extras, numbers)
        return
    packed = ctx.weights(f"{whole.key}|window{part.key}|{label}|{dtype}", pack, whole.key)
    moved = [e if e is None else _from_pixel(e, part.first) for e in extras]
    target = _from_pixel(y, part.first)
    add_step(ctx, whole, kernel, target, [x, packed], moved, numbers, kernel.tasks)


def _lower_computed(
    ctx: Lowering,
    whole: Convolution,
    window: Window,
    y: Buffer,
    x: Buffer,
    extras: list[Buffer | None],
) -> None:
    """Add the steps of a convolution whose weights are packed at run time."""
    part = Part(whole.weights, window)
    kernel = _kernel(ctx, whole, part, y, x, extras, whole.groups, clears=True)
    panels = kernel.panels(ctx.target)
    numbers = [
        ctx.weights(
            f"{name}|filters|{whole.groups}|{panels}",
            partial(_in_groups, values, whole.groups, panels),
            name,
        )
        for name, values in whole.per_filter
    ]
    packed = packed_filters(ctx, whole.node, whole.key, whole.groups, panels)
    add_step(ctx, whole, kernel, y, [x, packed], extras, numbers, kernel.tasks)


def _check_groups(ctx: Lowering, whole: Convolution) -> None:
    """Refuse groups that fixed weights would have been merged for."""
    each = whole.weights.shape[0] // whole.groups
    if whole.groups > 1 and each % ctx.target.lanes:
        raise NoKernel(f"the weights are computed, for groups of {each} filters")


def _in_groups(values: np.ndarray, groups: int, panels: Panels) -> np.ndarray:
    return np.concatenate([pack_columns(row, panels) for row in values.reshape(groups, -1)])


def _kernel(
    ctx: Lowering,
    whole: Convolution,
    part: Part,
    y: Buffer,
    x: Buffer,
    extras: list[Buffer | None],
    groups: int,
    *,
    clears: bool,
) -> ImageConv:
    """Return the kernel of a part for pictures that lie like these, scheduled."""
    window = part.window
    kernel = ImageConv(
        x.image,
        y.image,
        two(window.kernel),
        two(window.strides),
        two(window.dilations),
        two(window.begins),
        ConvSchedule(1, 1),
        groups,
        whole.epilogue.text,
        tuple(None if e is None else e.image for e in extras),
        part.pixels,
        part.spacing,
        clears,
    )
    return schedule_conv(kernel, ctx.target)


def _lower_winograd(
    ctx: Lowering,
    whole: Convolution,
    kernel: Winograd,
    y: Buffer,
    x: Buffer,
    extras: list[Buffer | None],
    numbers: list[Buffer],
) -> None:
    """Add the step of a 3 x 3 convolution after Winograd."""
    m, group, columns, dtype = kernel.m, kernel.schedule.group, kernel.y.held, kernel.dtype
    weights = ctx.weights(
        f"{whole.key}|winograd {m} {group}|{columns}|{ctx.target.isa}|{dtype}",
        lambda: pack_winograd(whole.weights, m, columns, group, ctx.target, dtype),
        whole.key,
    )
    add_step(ctx, whole, kernel, y, [x, weights], extras, numbers, kernel.tasks)


def _from_pixel(picture: Buffer, pixel: tuple[int, int]) -> Buffer:
    """Return a picture whose first pixel is another one of the same memory."""
    if pixel == (0, 0):
        return picture
    layout = picture.image
    offset = (pixel[0] * layout.row + pixel[1] * layout.pitch) * layout.dtype.itemsize
    size = picture.size_bytes - offset
    return replace(picture, size_bytes=size, parent=picture, offset=offset)


def merged_groups(weights: np.ndarray, groups: int, lanes: int) -> tuple[np.ndarray, int]:
    """Return weights whose groups have whole vectors of filters, or are one; and their number.

    Neighbouring groups become one whose weights are zero where a filter does not look.
    """
    filters, channels = weights.shape[0] // groups, weights.shape[1]
    join = next((m for m in range(1, groups) if groups % m == 0 and m * filters % lanes == 0), None)
    join = join or groups
    if join == 1:
        return weights, groups
    wide = np.zeros((weights.shape[0], join * channels, *weights.shape[2:]), weights.dtype)
    for group in range(groups):
        rows = slice(group * filters, (group + 1) * filters)
        first = group % join * channels
        wide[rows, first : first + channels] = weights[rows]
    return wide, groups // join


# ---------------------------------------------------------------------- depthwise


def _lower_depthwise(
    ctx: Lowering,
    whole: Convolution,
    window: Window,
    y: Buffer,
    x: Buffer,
    extras: list[Buffer | None],
) -> None:
    """Add the step of a convolution whose channels each have one filter."""
    lanes = ctx.target.lanes
    kernel = schedule_depthwise(
        DepthwiseConv(
            x.image,
            y.image,
            two(window.kernel),
            two(window.strides),
            two(window.dilations),
            two(window.begins),
            DepthwiseSchedule(1, 1),
            whole.epilogue.text,
            tuple(None if e is None else e.image for e in extras),
        ),
        ctx.target,
    )

    def per_channel(values: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.pad(values, (0, -values.size % lanes))

    numbers = [
        ctx.weights(f"{name}|{whole.weights.shape[0]}|channels|{lanes}", per_channel(values), name)
        for name, values in whole.per_filter
    ]
    weights = ctx.weights(
        f"{whole.key}|depthwise|{lanes}", lambda: pack_depthwise(whole.weights, lanes), whole.key
    )
    add_step(ctx, whole, kernel, y, [x, weights], extras, numbers, kernel.tasks)
