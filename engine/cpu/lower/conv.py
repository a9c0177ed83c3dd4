"""Convolutions of pictures with fixed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.cpu.buffers import Buffer, PlainLayout
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule, pack_depthwise
from engine.cpu.kernels.panels import pack_columns, pack_panels
from engine.cpu.kernels.schedule import schedule_conv, schedule_depthwise
from engine.cpu.lower.context import CONVERTERS, Lowering
from engine.cpu.lower.conv_geometry import Geometry, border_of, geometry
from engine.cpu.lower.epilogue import Epilogue, contraction_inputs, epilogue_of
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim

__all__ = ["border_of"]


@dataclass(frozen=True)
class Convolution:
    """A convolution node that can be lowered.

    Attributes:
        node: The node.
        x: Name of the input.
        key: Names the weights.
        weights: (filters, channels per group, rows, columns).
        bias: A number per filter.
        bias_key: Names the bias; "" when there is none.
        found: Its geometry.
        epilogue: What follows.
    """

    node: Node
    x: str
    key: str
    weights: np.ndarray
    bias: np.ndarray
    bias_key: str
    found: Geometry
    epilogue: Epilogue


@lowers("Conv")
@lowers("Conv", domain="millrace")
def conv(ctx: Lowering, node: Node) -> None:
    """A convolution of pictures, or of signals as pictures one row high."""
    whole = _read(ctx, node)
    build = _depthwise if _is_depthwise(whole) else _dense
    x, extras = _inputs(ctx, whole)
    y = _result(ctx, whole)
    build(ctx, whole, y, x, extras)
    if whole.found.rank == 1:
        shape = ctx.shape(node.outputs[0])
        out = ctx.output(node.outputs[0])
        CONVERTERS["to_plain"](ctx, _as_picture(out, shape), y, node)


def _read(ctx: Lowering, node: Node) -> Convolution:
    """Collect what the node says; `NoKernel` for what is not done."""
    x, key, *rest = contraction_inputs(ctx, node)
    weights = ctx.constant(key)
    if weights is None or weights.dtype != np.float32 or ctx.dtype(x) is not DType.FLOAT32:
        raise NoKernel("the weights are computed, or not float32")
    try:
        found = geometry(ctx.attributes(node), ctx.shape(x), weights)
    except ValueError as error:
        raise NoKernel(str(error)) from error
    bias_key = rest[0] if rest else ""
    bias = ctx.constant(bias_key) if bias_key else np.zeros(weights.shape[0], np.float32)
    if bias is None or bias.size != weights.shape[0] or bias.dtype != np.float32:
        raise NoKernel("the bias is computed")
    shape = ctx.shape(node.outputs[0])
    if tuple(shape[1:]) != (weights.shape[0], *found.outputs[2 - found.rank :]):
        raise NoKernel("the node's shape does not follow from its attributes")
    if weights.ndim == 3:
        weights = weights[:, :, None, :]
    epilogue = epilogue_of(ctx, node, -1 - found.rank)
    return Convolution(node, x, key, weights, bias.reshape(-1), bias_key, found, epilogue)


# ---------------------------------------------------------------------- operands


def _inputs(ctx: Lowering, whole: Convolution) -> tuple[Buffer, list[Buffer | None]]:
    """Return the input and the further operands as pictures; None for numbers per filter."""
    channels = whole.weights.shape[1] * whole.found.groups
    thin = whole.found.groups == 1 and channels * 2 <= ctx.target.lanes
    x = _picture(
        ctx,
        whole,
        whole.x,
        border=whole.found.border,
        thin=thin,
        whole_vectors=_is_depthwise(whole),
    )
    extras = [
        None if values is not None else _picture(ctx, whole, name, whole_vectors=True)
        for name, values in zip(whole.epilogue.extras, whole.epilogue.columns, strict=True)
    ]
    return x, extras


def _picture(
    ctx: Lowering,
    whole: Convolution,
    name: str,
    *,
    border: int = 0,
    thin: bool = False,
    whole_vectors: bool = False,
) -> Buffer:
    """Return a value as a picture of float32."""
    if whole.found.rank == 2:
        found = ctx.image(name, whole.node, thin=thin, border=border)
        if not whole_vectors or found.image.held % ctx.target.lanes == 0:
            return found
    shape = ctx.shape(name)
    channels, *sizes = (int(d) for d in shape[1:] if isinstance(d, int))
    height, width = (1, sizes[0]) if whole.found.rank == 1 else sizes
    held = channels if thin else ctx.target.whole_vectors(channels)
    layout = ImageLayout(height, width, channels, held, held, border)
    made = ctx.temporary_image(f"{name}.picture", shape[0], layout)
    source = _as_picture(ctx.plain(name, whole.node), shape)
    CONVERTERS["to_image"](ctx, made, source, whole.node)
    return made


def _as_picture(plain: Buffer, shape: tuple[object, ...]) -> Buffer:
    """Return the same plain memory with four dims."""
    if len(shape) == 4:
        return plain
    layout = plain.plain
    batch, channels, width = layout.shape
    seen = PlainLayout((batch, channels, 1, width), layout.dtype)
    return Buffer(plain.name, seen, plain.size_bytes, plain.place, plain, 0, plain.index)


def _result(ctx: Lowering, whole: Convolution) -> Buffer:
    name = whole.node.outputs[0]
    if whole.found.rank == 2:
        return ctx.output_image(name)
    channels = whole.weights.shape[0]
    held = ctx.target.whole_vectors(channels)
    layout = ImageLayout(*whole.found.outputs, channels, held, held)
    return ctx.temporary_image(f"{name}.picture", ctx.shape(name)[0], layout)


# ---------------------------------------------------------------------- steps


def _dense(
    ctx: Lowering, whole: Convolution, y: Buffer, x: Buffer, extras: list[Buffer | None]
) -> None:
    """Add the step of a convolution whose groups are few and wide, or made so."""
    weights, groups = merged_groups(whole.weights, whole.found.groups, ctx.target.lanes)
    window = whole.found.window
    kernel = schedule_conv(
        ImageConv(
            x.image,
            y.image,
            _two(window.kernel),
            _two(window.strides),
            _two(window.dilations),
            _two(window.begins),
            ConvSchedule(1, 1),
            groups,
            whole.epilogue.text,
            tuple(None if e is None else e.image for e in extras),
        ),
        ctx.target,
    )
    panels = kernel.panels(ctx.target)

    def pack() -> np.ndarray:
        filters = weights.shape[0] // groups
        parts = weights.reshape(groups, filters, *weights.shape[1:])
        matrices = parts.transpose(0, 3, 4, 2, 1).reshape(groups, -1, filters)
        missing = panels.columns - filters
        matrices = np.pad(matrices, ((0, 0), (0, 0), (0, missing)))
        return np.concatenate([pack_panels(m, panels) for m in matrices])

    def per_filter(values: np.ndarray) -> Callable[[], np.ndarray]:
        rows = values.reshape(groups, -1)
        return lambda: np.concatenate([pack_columns(row, panels) for row in rows])

    label = f"{weights.shape[0]}|{groups}|{panels}"
    numbers = [
        ctx.weights(f"{name}|filters|{label}", per_filter(values), name)
        for name, values in ((whole.bias_key, whole.bias), *_fixed(whole))
    ]
    operands = iter(numbers[1:])
    packed = ctx.weights(f"{whole.key}|window|{label}", pack, whole.key)
    others = [e if e is not None else next(operands) for e in extras]
    _step(ctx, whole, kernel, [y], [x, packed, numbers[0], *others], kernel.tasks)


def _is_depthwise(whole: Convolution) -> bool:
    filters, per_group = whole.weights.shape[:2]
    return whole.found.groups == int(filters) and int(per_group) == 1


def _depthwise(
    ctx: Lowering, whole: Convolution, y: Buffer, x: Buffer, extras: list[Buffer | None]
) -> None:
    """Add the step of a convolution whose channels each have one filter."""
    window, lanes = whole.found.window, ctx.target.lanes
    kernel = schedule_depthwise(
        DepthwiseConv(
            x.image,
            y.image,
            _two(window.kernel),
            _two(window.strides),
            _two(window.dilations),
            _two(window.begins),
            DepthwiseSchedule(1, 1),
            whole.epilogue.text,
            tuple(None if e is None else e.image for e in extras),
        ),
        ctx.target,
    )
    weights = ctx.weights(
        f"{whole.key}|depthwise|{lanes}", lambda: pack_depthwise(whole.weights, lanes), whole.key
    )

    def per_channel(values: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.pad(values, (0, -values.size % lanes))

    numbers = [
        ctx.weights(f"{name}|{whole.weights.shape[0]}|channels|{lanes}", per_channel(values), name)
        for name, values in ((whole.bias_key, whole.bias), *_fixed(whole))
    ]
    operands = iter(numbers[1:])
    others = [e if e is not None else next(operands) for e in extras]
    _step(ctx, whole, kernel, [y], [x, weights, numbers[0], *others], kernel.tasks)


def _two(pair: tuple[int, ...]) -> tuple[int, int]:
    first, second = pair
    return first, second


def _fixed(whole: Convolution) -> list[tuple[str, np.ndarray]]:
    pairs = zip(whole.epilogue.extras, whole.epilogue.columns, strict=True)
    return [(name, values) for name, values in pairs if values is not None]


def _step(
    ctx: Lowering,
    whole: Convolution,
    kernel: Kernel,
    writes: list[Buffer],
    reads: list[Buffer],
    tasks: Callable[[Dim, Target], Dim],
) -> None:
    pictures = ctx.shape(whole.x)[0]
    count = tasks(pictures, ctx.target)
    ctx.step(kernel, writes, reads, tasks=count, numbers=[pictures], node=whole.node)


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
