"""Elementwise operators on pictures: where an operand lies as a picture, the result does, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.image_elementwise import ImageElementwise, ImageOperand
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.half import result_type
from engine.dtypes import DType
from engine.ir.expr import Expr
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node

TYPES: Final = (DType.FLOAT32, DType.BFLOAT16)  # of the elements of pictures


@dataclass(frozen=True)
class _Operand:
    """How a value takes part: as a picture, per item and channel, per channel, or as one number."""

    name: str
    kind: str


def lower_on_images(
    ctx: Lowering, node: Node, expr: Expr, names: Sequence[str], output: str
) -> bool:
    """Add the step on pictures, if an operand is one and all others fit; whether it did."""
    if not names or not ctx.can_be_image(output):
        return False
    if any(ctx.dtype(n) is not DType.FLOAT32 for n in (*names, output)):
        return False
    operands = [_operand(ctx, name, output) for name in names]
    if not any(o is not None and o.kind == "picture" and ctx.is_image(o.name) for o in operands):
        return False
    held = ctx.image_layout(output).held
    arguments: list[ImageOperand] = []
    reads: list[Buffer] = []
    for operand in operands:
        if operand is None or not _fits(ctx, operand, node, held):
            return False
    for operand in operands:
        assert operand is not None
        argument, buffer = _read(ctx, operand, node, held)
        arguments.append(argument)
        reads.append(buffer)
    layouts = [a.layout for a in arguments if a.layout]
    narrow = all(layout.dtype is DType.BFLOAT16 for layout in layouts)
    dtype = DType.BFLOAT16 if narrow else result_type(ctx, output)
    target = ctx.output_image(output, dtype=dtype)
    kernel = ImageElementwise(write_expr(expr), target.image, tuple(arguments))
    tasks = ctx.shape(output)[0] * kernel.parts
    in_place = all(_is_aligned(layout, target.image) for layout in layouts)
    ctx.step(kernel, (target,), reads, tasks=tasks, node=node, in_place=in_place)
    return True


def _operand(ctx: Lowering, name: str, output: str) -> _Operand | None:
    shape, whole = ctx.shape(name), ctx.shape(output)
    fixed = ctx.constant(name)
    if fixed is not None:
        if fixed.size == 1:
            return _Operand(name, "single")
        per_channel = fixed.ndim >= 3 and fixed.size == whole[1] == fixed.shape[-3]
        return _Operand(name, "channels") if per_channel else None
    if shape == whole:
        return _Operand(name, "picture")
    if all(d == 1 for d in shape):
        return _Operand(name, "single")
    if len(shape) == 4 and shape[:2] == whole[:2] and shape[2:] == (1, 1):
        return _Operand(name, "item")
    return None


def _fits(ctx: Lowering, operand: _Operand, node: Node, held: int) -> bool:
    """Whether a picture holds as many channels as are to be written."""
    if operand.kind not in ("picture", "item"):
        return True
    if not ctx.is_image(operand.name):
        return True  # it is made so
    layout = ctx.image(operand.name, node).image
    return layout.held >= held and layout.dtype in TYPES


def _read(ctx: Lowering, operand: _Operand, node: Node, held: int) -> tuple[ImageOperand, Buffer]:
    name = operand.name
    if operand.kind == "single":
        return ImageOperand(is_single=True), ctx.plain(name, node)
    if operand.kind == "channels":
        fixed = ctx.constant(name)
        assert fixed is not None
        values = fixed.reshape(-1)

        def pack() -> np.ndarray:
            return np.concatenate([values, np.zeros(held - values.size, np.float32)])

        return ImageOperand(), ctx.weights(f"{name}: {held} channels", pack, name)
    buffer = ctx.image(name, node)
    return ImageOperand(buffer.image), buffer


def _is_aligned(layout: ImageLayout, target: ImageLayout) -> bool:
    """Whether results lie where operands do, if the operand's memory could be taken at all."""
    return layout == target or layout.picture_bytes != target.picture_bytes
