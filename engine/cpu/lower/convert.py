"""Conversions that lowering adds by itself: between layouts, and into an output's own array."""

from __future__ import annotations

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.copy import PIECE, Copy
from engine.cpu.kernels.image_converters import ToImage, ToPlain
from engine.cpu.kernels.image_copy import ImageCopy
from engine.cpu.kernels.int8_pictures import BytesToImage, BytesToPlain
from engine.cpu.lower.context import BYTES, CONVERTERS, Lowering
from engine.cpu.lower.rules import NoKernel
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv


def to_image(ctx: Lowering, target: Buffer, source: Buffer, node: Node) -> None:
    """Add the step that makes a picture of a plain (N, C, H, W) array."""
    plain = source.plain
    if target.image.dtype in BYTES:
        bytes_ = BytesToImage(target.image)
        tasks, fill = plain.shape[0] * target.image.height, ctx.fill(target.name)
        ctx.step(bytes_, (target,), (source,), tasks=tasks, node=node, numbers=(fill,))
        return
    if plain.dtype is not DType.FLOAT32:
        raise NoKernel(f"{source.name!r} holds {plain.dtype}; pictures are made of float32")
    kernel = ToImage(target.image)
    tasks = plain.shape[0] * kernel.parts(ctx.target)
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node)


def to_plain(ctx: Lowering, target: Buffer, source: Buffer, node: Node) -> None:
    """Add the step that makes a plain (N, C, H, W) array of a picture."""
    if source.image.dtype in BYTES:
        tasks = target.plain.shape[0] * source.image.height
        ctx.step(BytesToPlain(source.image), (target,), (source,), tasks=tasks, node=node)
        return
    kernel = ToPlain(source.image)
    tasks = target.plain.shape[0] * kernel.parts(ctx.target)
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node)


def copy(ctx: Lowering, target: Buffer, source: Buffer, node: Node) -> None:
    """Add the step that copies a plain array."""
    size = target.plain.size_bytes
    ctx.step(Copy(), (target,), (source,), tasks=ceildiv(size, PIECE), node=node, numbers=(size,))


def widen_border(ctx: Lowering, target: Buffer, source: Buffer, node: Node) -> None:
    """Add the step that copies a picture into one with more border."""
    kernel = ImageCopy(target.image, source.image)
    batch = ctx.shape(source.name)[0]
    tasks, fill = batch * target.image.height, ctx.fill(target.name)
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node, numbers=(fill,))


CONVERTERS.update(to_image=to_image, to_plain=to_plain, copy=copy, widen_border=widen_border)
