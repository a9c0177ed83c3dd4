"""Convolutions of bytes with fixed weights: ConvInteger, alone or with what scales its sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule
from engine.cpu.kernels.depthwise import DepthwiseSchedule
from engine.cpu.kernels.int8_conv import IntegerConv, quads
from engine.cpu.kernels.int8_depthwise import IntegerDepthwise, pack_integer_depthwise
from engine.cpu.kernels.int8_dynamic import SumsTimesZero
from engine.cpu.kernels.int8_pictures import BytesToImage
from engine.cpu.kernels.int8_products import pack_integer_panels
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.schedule import schedule_depthwise
from engine.cpu.lower.context import BYTES, CONVERTERS, Lowering
from engine.cpu.lower.conv import merged_groups
from engine.cpu.lower.conv_geometry import Geometry, geometry
from engine.cpu.lower.int8_operands import Operands, Sides, operands_of, sides_of
from engine.cpu.lower.int8_schedule import integer_conv_schedule
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Graph, Node

INTEGER_CONV = "ConvInteger"


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """A convolution node that can be lowered.

    Attributes:
        node: The node.
        sides: Input and weights, (filters, channels per group, rows, columns).
        found: Its geometry.
        operands: What follows.
        y_dtype: Type of the result.
    """

    node: Node
    sides: Sides
    found: Geometry
    operands: Operands
    y_dtype: DType


@lowers("ConvInteger")
@lowers("ConvInteger", domain="millrace")
def integer_conv(ctx: Lowering, node: Node) -> None:
    """A convolution of pictures of bytes."""
    whole = _read(ctx, node)
    lower = _depthwise if _is_depthwise(whole) else _dense
    lower(ctx, whole)


def fill_of(graph: Graph, node: Node) -> dict[str, int]:
    """Return the byte that means zero in a picture that a node's windows read, by name."""
    if node.op != INTEGER_CONV:
        return {}
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    fused = int(node.attributes.get("operands", len(node.inputs)))  # type: ignore[arg-type]
    if zero is None or zero.size != 1 or fused < 3:
        return {node.inputs[0]: 0}
    return {node.inputs[0]: int(zero.reshape(())) & 0xFF}


def _read(ctx: Lowering, node: Node) -> IntegerConvolution:
    sides = sides_of(ctx, node, 0)
    try:
        found = geometry(ctx.attributes(node), ctx.shape(sides.x), sides.weights)
    except ValueError as error:
        raise NoKernel(str(error)) from error
    shape = ctx.shape(node.outputs[0])
    if found.rank != 2 or not ctx.can_be_image(sides.x):
        raise NoKernel("convolutions of bytes work on pictures of known size")
    if tuple(shape[1:]) != (sides.weights.shape[0], *found.outputs):
        raise NoKernel("the node's shape does not follow from its attributes")
    operands = operands_of(ctx, node, -3)
    for name, kind in zip(operands.names, _moving(operands), strict=True):
        if kind == "value" and ctx.dtype(name) not in (*BYTES, DType.FLOAT32):
            raise NoKernel(f"the epilogue reads pictures of {ctx.dtype(name)}")
    y_dtype = ctx.dtype(node.outputs[0])
    if y_dtype not in (*BYTES, DType.FLOAT32, DType.INT32) or y_dtype is not operands.dtype:
        raise NoKernel(f"the result holds {y_dtype}")
    return IntegerConvolution(node, sides, found, operands, y_dtype)


def _moving(operands: Operands) -> list[str]:
    return [kind for kind in operands.kinds if kind != "scalar"]


# ---------------------------------------------------------------------- pictures


def source_picture(ctx: Lowering, whole: IntegerConvolution, *, thin: bool = False) -> Buffer:
    """Return the input as a picture with its zero point around it."""
    sides, border = whole.sides, whole.found.border
    if sides.zero is None:
        layout = ctx.image_layout(sides.x, border=border, thin=thin, dtype=ctx.dtype(sides.x))
        own = ctx.temporary_image(f"{sides.x}.framed", ctx.shape(sides.x)[0], layout)
        operands = [ctx.plain(sides.x, whole.node), ctx.plain(sides.zero_name, whole.node)]
        tasks = ctx.shape(sides.x)[0] * layout.height
        ctx.step(BytesToImage(layout, True), [own], operands, tasks=tasks, node=whole.node)
        return own
    x = ctx.image(sides.x, whole.node, thin=thin, border=border, dtype=ctx.dtype(sides.x))
    byte = sides.zero & 0xFF
    if border and ctx.fill(sides.x) != byte:
        # Another reader wants other numbers around it: a copy of its own.
        own = ctx.temporary_image(f"{sides.x}.framed", ctx.shape(sides.x)[0], x.image)
        CONVERTERS["widen_border"](ctx, own, x, whole.node)
        ctx.program.steps[-1] = replace(ctx.program.steps[-1], numbers=(byte,))
        return own
    return x


def operand_buffers(
    ctx: Lowering, whole: IntegerConvolution, per_filter: dict[str, Buffer]
) -> tuple[list[Buffer], tuple[ImageLayout | None, ...]]:
    """Return the operands of the epilogue that are no scalars, and their layouts."""
    buffers: list[Buffer] = []
    layouts: list[ImageLayout | None] = []
    for name, kind in zip(whole.operands.names, _moving(whole.operands), strict=True):
        if kind != "value":
            fixed = kind in ("column", "counts")
            buffers.append(per_filter[name] if fixed else ctx.plain(name, whole.node))
            layouts.append(None)
            continue
        picture = ctx.image(name, whole.node, dtype=ctx.dtype(name))
        if picture.image.held % ctx.target.lanes:
            raise NoKernel("the epilogue reads a thin picture")
        buffers.append(picture)
        layouts.append(picture.image)
    return buffers, tuple(layouts)


def scalars_of(ctx: Lowering, whole_operands: Operands) -> Buffer:
    """Return the block of fixed numbers."""
    values = np.array([*whole_operands.scalars, 0.0], np.float32)
    return ctx.weights(f"scalars|{values.tobytes().hex()}", lambda: values)


def started_at(
    ctx: Lowering,
    whole: IntegerConvolution,
    lift: int,
    label: str,
    padded: int,
    sums: Callable[[int], np.ndarray],
) -> Buffer:
    """Return what the sums of each filter begin at: minus the zero point times its weights."""
    sides, node = whole.sides, whole.node
    if sides.zero is not None:
        factor = -(sides.zero + lift)
        return ctx.weights(f"{sides.key}|begin {factor}|{label}", partial(sums, factor), sides.key)
    ones = ctx.weights(f"{sides.key}|sums|{label}", partial(sums, 1), sides.key)
    begin = ctx.temporary(f"{node.outputs[0]}.begin", 4 * padded)
    zero = ctx.plain(sides.zero_name, node)
    kernel = SumsTimesZero(sides.signed, lift)
    ctx.step(kernel, [begin], [ones, zero], tasks=1, numbers=[padded], node=node)
    return begin


# ---------------------------------------------------------------------- dense


def _dense(ctx: Lowering, whole: IntegerConvolution) -> None:
    """Add the step of a convolution whose groups are few and wide, or made so."""
    sides, target, window = whole.sides, ctx.target, whole.found.window
    merged = [merged_groups(part, whole.found.groups, target.lanes) for part in sides.parts]
    weights, groups = [part for part, _ in merged], merged[0][1]
    filters, channels = weights[0].shape[:2]
    if groups > 1 and channels % 4:
        raise NoKernel("groups of channels are no whole quads")
    if whole.y_dtype is DType.INT32:
        raise NoKernel("sums that nothing scales have no pictures")
    panels = Panels.of(
        target.whole_vectors(filters) if groups == 1 else filters // groups,
        target,
    )
    label = f"{filters}|{groups}|{panels}"

    def matrices_of(part: np.ndarray) -> np.ndarray:
        padded = np.pad(part, ((0, 0), (0, quads(channels) - channels), (0, 0), (0, 0)))
        by_group = padded.reshape(groups, -1, *padded.shape[1:])
        found = by_group.transpose(0, 3, 4, 2, 1).reshape(groups, -1, filters // groups)
        return np.pad(found, ((0, 0), (0, 0), (0, panels.columns - filters // groups)))

    def pack() -> np.ndarray:
        matrices = np.concatenate([matrices_of(part) for part in weights], axis=1)
        return np.concatenate([pack_integer_panels(m, panels, target) for m in matrices])

    def columns(values: np.ndarray) -> np.ndarray:
        rows = values.reshape(groups, -1)
        return np.pad(rows, ((0, 0), (0, panels.padded - rows.shape[1]))).reshape(-1)

    def sums(factor: int) -> np.ndarray:
        total = sides.weights.sum(axis=(1, 2, 3), dtype=np.int32)
        return columns(total * np.int32(factor))

    per_filter = {
        name: ctx.weights(f"{name}|filters|{label}", partial(columns, values), name)
        for name, values in whole.operands.columns.items()
    }
    thin = whole.found.groups == 1 and channels <= 4
    x = source_picture(ctx, whole, thin=thin)
    extras, layouts = operand_buffers(ctx, whole, per_filter)
    y = ctx.output_image(whole.node.outputs[0], dtype=whole.y_dtype)
    kinds = tuple("picture" if k == "value" else k for k in whole.operands.kinds)
    kernel = IntegerConv(
        x.image,
        y.image,
        (window.kernel[0], window.kernel[1]),
        (window.strides[0], window.strides[1]),
        (window.dilations[0], window.dilations[1]),
        (window.begins[0], window.begins[1]),
        ConvSchedule(1, 1),
        groups,
        whole.operands.text,
        layouts,
        operands=kinds,
        signed=sides.signed,
        parts=len(weights),
    )
    kernel = replace(kernel, schedule=integer_conv_schedule(kernel, target))
    packed = ctx.weights(f"{sides.key}|integer window|{label}", pack, sides.key)
    started = started_at(ctx, whole, kernel.lift(target), label, groups * panels.padded, sums)
    pictures = ctx.shape(sides.x)[0]
    ctx.step(
        kernel,
        [y],
        [x, packed, started, *extras, scalars_of(ctx, whole.operands)],
        tasks=kernel.tasks(pictures, target),
        numbers=[pictures, ctx.fill(whole.node.outputs[0])],
        node=whole.node,
    )


def _is_depthwise(whole: IntegerConvolution) -> bool:
    filters, per_group = whole.sides.weights.shape[:2]
    return whole.found.groups == int(filters) and int(per_group) == 1


def _depthwise(ctx: Lowering, whole: IntegerConvolution) -> None:
    """Add the step of a convolution whose channels each have one filter."""
    sides, lanes, window = whole.sides, ctx.target.lanes, whole.found.window
    if whole.y_dtype is DType.INT32:
        raise NoKernel("sums that nothing scales have no pictures")
    label = f"{sides.weights.shape[0]}|{lanes}"

    def channels(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, -values.size % lanes))

    def sums(factor: int) -> np.ndarray:
        total = sides.weights.sum(axis=(1, 2, 3), dtype=np.int32)
        return channels(total * np.int32(factor))

    per_filter = {
        name: ctx.weights(f"{name}|channels|{label}", partial(channels, values), name)
        for name, values in whole.operands.columns.items()
    }
    x = source_picture(ctx, whole)
    if x.image.held % lanes:
        raise NoKernel("the picture is thin")
    extras, layouts = operand_buffers(ctx, whole, per_filter)
    y = ctx.output_image(whole.node.outputs[0], dtype=whole.y_dtype)
    kinds = tuple("picture" if k == "value" else k for k in whole.operands.kinds)
    kernel = IntegerDepthwise(
        x.image,
        y.image,
        (window.kernel[0], window.kernel[1]),
        (window.strides[0], window.strides[1]),
        (window.dilations[0], window.dilations[1]),
        (window.begins[0], window.begins[1]),
        DepthwiseSchedule(1, 1),
        whole.operands.text,
        layouts,
        operands=kinds,
    )
    kernel = replace(kernel, schedule=schedule_depthwise(kernel, ctx.target).schedule)
    packed = ctx.weights(
        f"{sides.key}|integer depthwise|{lanes}",
        lambda: pack_integer_depthwise(sides.weights, lanes),
        sides.key,
    )
    padded = ctx.target.whole_vectors(sides.weights.shape[0])
    started = started_at(ctx, whole, 0, label, padded, sums)
    pictures = ctx.shape(sides.x)[0]
    ctx.step(
        kernel,
        [y],
        [x, packed, started, *extras, scalars_of(ctx, whole.operands)],
        tasks=kernel.tasks(pictures, ctx.target),
        numbers=[pictures, ctx.fill(whole.node.outputs[0])],
        node=whole.node,
    )
