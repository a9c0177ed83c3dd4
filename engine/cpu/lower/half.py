"""Which pictures are held as bfloat16 when precision is "bf16".

Dense convolutions round their input to bfloat16 anyway; where only such ones (and depthwise ones,
which read either type) read the result of a convolution or of an elementwise operator, it is
rounded as it is written. What else reads pictures gets float32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.rounding import RoundImage
from engine.cpu.kernels.thin_pairs import ToThinPairs
from engine.cpu.lower.context import MAX_PICTURE_BYTES, Lowering
from engine.cpu.lower.conv_geometry import CONVOLUTIONS, geometry
from engine.cpu.lower.rules import NoKernel
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, TensorType


def result_type(ctx: Lowering, name: str) -> DType:
    """Return the type in which a convolution, or what computes on pictures, writes its result."""
    if not is_on(ctx) or ctx.is_wanted(name):
        return DType.FLOAT32
    readers = ctx.graph.consumers.get(name, ())
    halves = bool(readers) and all(_reads_half(ctx, node, name) for node in readers)
    return DType.BFLOAT16 if halves else DType.FLOAT32


def _reads_half(ctx: Lowering, node: Node, name: str) -> bool:
    """Whether a node is a convolution that takes this input as bfloat16."""
    if (node.domain, node.op) not in CONVOLUTIONS or list(node.inputs).count(name) != 1:
        return False
    weights = ctx.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kind = ctx.graph.types.get(name)
    if weights is None or not isinstance(kind, TensorType) or node.inputs[0] != name:
        return False
    if weights.ndim != 4 or weights.dtype != np.float32 or kind.dtype is not DType.FLOAT32:
        return False
    try:
        found = geometry(ctx.attributes(node), kind.shape, weights)
    except (NoKernel, ValueError):
        return False
    if found.groups == weights.shape[0] and weights.shape[1] == 1:
        return found.groups * 2 > ctx.target.lanes
    return found.groups == 1 and _comes_in_pairs(ctx, weights)


def takes_half(ctx: Lowering, weights: np.ndarray, x: ImageLayout) -> bool:
    """Whether a convolution of this picture, dense within groups, multiplies bfloat16."""
    return is_on(ctx) and _comes_in_pairs(ctx, weights) and x.held % ctx.target.lanes == 0


def is_on(ctx: Lowering) -> bool:
    """Whether convolutions may multiply numbers of bfloat16."""
    return ctx.precision == "bf16" and ctx.target.has_bf16_dot


def _comes_in_pairs(ctx: Lowering, weights: np.ndarray) -> bool:
    """Whether the channels are even, and not just a few."""
    channels = int(weights.shape[1])
    return channels % 2 == 0 and channels * 2 > ctx.target.lanes


def takes_pairs(ctx: Lowering, name: str, channels: int) -> bool:
    """Whether a value of few channels is yet to become a picture, and pairs are worth it."""
    return is_on(ctx) and channels > 1 and not ctx.is_image(name) and ctx.can_be_image(name)


def thin_pairs(ctx: Lowering, node: Node, name: str, border: int) -> Buffer:
    """Return a picture of a few channels as bfloat16, with a zero behind an odd number of them."""
    source = ctx.plain(name, node)
    batch, channels, height, width = ctx.shape(name)
    assert isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)
    even = channels + channels % 2
    layout = ImageLayout(height, width, even, even, even, border, DType.BFLOAT16)
    if layout.picture_bytes > MAX_PICTURE_BYTES:
        raise NoKernel(f"a picture of {name!r} takes {layout.picture_bytes} bytes with border")
    made = ctx.temporary_image(f"{name}.pairs", batch, layout)
    kernel = ToThinPairs(layout, channels)
    ctx.step(kernel, [made], [source], tasks=batch * height, node=node)
    return made


def rounded(ctx: Lowering, node: Node, picture: Buffer, batch: Dim) -> Buffer:
    """Return a picture as bfloat16, rounded once however many convolutions read it."""
    layout = picture.image
    if layout.dtype is DType.BFLOAT16:
        return picture
    known = ctx.rounded.get(picture)
    if known is None:
        held = ctx.target.whole_vectors(layout.channels)
        half = replace(layout, held=held, pitch=held, dtype=DType.BFLOAT16)
        known = ctx.temporary_image(f"{picture.name}.rounded", batch, half)
        kernel = RoundImage(layout, half)
        tasks = kernel.tasks(batch, ctx.target)
        ctx.step(kernel, [known], [picture], tasks=tasks, node=node)
        ctx.rounded[picture] = known
    return known
