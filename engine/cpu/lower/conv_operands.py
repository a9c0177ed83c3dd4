"""What convolutions of every kind share when they are lowered: reading a node, pictures, steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.cpu.buffers import Buffer, PlainLayout
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.lower.context import CONVERTERS, Lowering
from engine.cpu.lower.epilogue import Epilogue, contraction_inputs, epilogue_of
from engine.cpu.lower.half import result_type, takes_pairs, thin_pairs
from engine.cpu.lower.rules import NoKernel
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim


@dataclass(frozen=True)
class Convolution:
    """A convolution that can be lowered; one of signals is that of pictures one row high.

    Attributes:
        node: The node.
        x: Name of the input.
        key: Names the weights.
        weights: (filters, channels per group, rows, columns).
        groups: Groups of channels.
        bias: A number per filter.
        bias_key: Names the bias; "" when there is none.
        epilogue: What follows.
        rank: Spatial axes that the node has, one or two.
        outputs: Height and width of the result.
        border: Rows and columns of zeros that the windows need around the input.
        is_computed: Whether the weights are known only by their shape.
    """

    node: Node
    x: str
    key: str
    weights: np.ndarray
    groups: int
    bias: np.ndarray
    bias_key: str
    epilogue: Epilogue
    rank: int
    outputs: tuple[int, int]
    border: int
    is_computed: bool = False

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has one filter of its own."""
        filters, per_group = self.weights.shape[:2]
        # One channel alone may lie without neighbours, which whole vectors would read.
        return self.groups == int(filters) > 1 and int(per_group) == 1

    @property
    def per_filter(self) -> list[tuple[str, np.ndarray]]:
        """Numbers per filter by name: the bias, then operands of the epilogue."""
        pairs = zip(self.epilogue.extras, self.epilogue.columns, strict=True)
        fixed = [(name, values) for name, values in pairs if values is not None]
        return [(self.bias_key, self.bias), *fixed]


def read_operands(ctx: Lowering, node: Node) -> tuple[str, str, np.ndarray]:
    """Return the names of input and weights, and the weights.

    `NoKernel` for weights or a bias that are computed, and for other types than float32.
    """
    x, key, *_ = contraction_inputs(ctx, node)
    weights = ctx.constant(key)
    if weights is None or weights.dtype != np.float32 or ctx.dtype(x) is not DType.FLOAT32:
        raise NoKernel("the weights are computed, or not float32")
    if weights.ndim not in (3, 4) or 0 in weights.shape:
        raise NoKernel(f"weights of shape {list(weights.shape)} have no kernel")
    return x, key, weights


def read_bias(ctx: Lowering, node: Node, filters: int) -> tuple[str, np.ndarray]:
    """Return the name of the bias, or "", and the numbers."""
    names = contraction_inputs(ctx, node)
    name = names[2] if len(names) > 2 else ""
    bias = ctx.constant(name) if name else np.zeros(filters, np.float32)
    if bias is None or bias.size != filters or bias.dtype != np.float32:
        raise NoKernel("the bias is computed")
    return name, bias.reshape(-1)


def read_epilogue(ctx: Lowering, node: Node, shape: tuple[int, ...]) -> Epilogue:
    """Return the epilogue of a node whose result has the shape (filters, *sizes) per picture."""
    if tuple(ctx.shape(node.outputs[0])[1:]) != shape:
        raise NoKernel("the node's shape does not follow from its attributes")
    return epilogue_of(ctx, node, -len(shape))


# ---------------------------------------------------------------------- pictures


def input_pictures(ctx: Lowering, whole: Convolution) -> tuple[Buffer, list[Buffer | None]]:
    """Return the input and the further operands as pictures; None for numbers per filter."""
    channels = whole.weights.shape[1] * whole.groups
    thin = whole.groups == 1 and channels * 2 <= ctx.target.lanes
    if thin and takes_pairs(ctx, whole.x, channels) and whole.rank == 2:
        x = thin_pairs(ctx, whole.node, whole.x, whole.border)
    else:
        x = _picture(
            ctx, whole, whole.x, border=whole.border, thin=thin, whole_vectors=whole.is_depthwise
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
    """Return a value as a picture."""
    if whole.rank == 2:
        found = ctx.image(name, whole.node, thin=thin, border=border)
        if not whole_vectors or found.image.held % ctx.target.lanes == 0:
            return found
    shape = ctx.shape(name)
    channels, *sizes = (int(d) for d in shape[1:] if isinstance(d, int))
    height, width = (1, sizes[0]) if whole.rank == 1 else sizes
    held = channels if thin else ctx.target.whole_vectors(channels)
    layout = ImageLayout(height, width, channels, held, held, border)
    made = ctx.temporary_image(f"{name}.picture", shape[0], layout)
    CONVERTERS["to_image"](ctx, made, _as_picture(ctx.plain(name, whole.node)), whole.node)
    return made


def _as_picture(plain: Buffer) -> Buffer:
    """Return the same plain memory with four dims."""
    layout = plain.plain
    if len(layout.shape) == 4:
        return plain
    batch, channels, width = layout.shape
    seen = PlainLayout((batch, channels, 1, width), layout.dtype)
    return Buffer(plain.name, seen, plain.size_bytes, plain.place, plain, 0, plain.index)


def result_picture(ctx: Lowering, whole: Convolution) -> Buffer:
    """Return the picture that the convolution writes."""
    name = whole.node.outputs[0]
    if whole.rank == 2:
        return ctx.output_image(name, dtype=result_type(ctx, name))
    channels = whole.weights.shape[0]
    held = ctx.target.whole_vectors(channels)
    layout = ImageLayout(*whole.outputs, channels, held, held)
    return ctx.temporary_image(f"{name}.picture", ctx.shape(name)[0], layout)


def finish_signal(ctx: Lowering, whole: Convolution, y: Buffer) -> None:
    """Make the plain result of a convolution of signals from its picture."""
    if whole.rank == 1:
        plain = ctx.output(whole.node.outputs[0])
        CONVERTERS["to_plain"](ctx, _as_picture(plain), y, whole.node)


# ---------------------------------------------------------------------- steps


def add_step(
    ctx: Lowering,
    whole: Convolution,
    kernel: Kernel,
    y: Buffer,
    reads: list[Buffer],
    extras: list[Buffer | None],
    numbers: list[Buffer],
    tasks: Callable[[Dim, Target], Dim],
) -> None:
    """Add a kernel that takes y, `reads`, the bias, and the further operands in order.

    `numbers`: packed numbers per filter, the bias first; they stand where `extras` has None.
    """
    bias, *rest = numbers
    fixed = iter(rest)
    others = [e if e is not None else next(fixed) for e in extras]
    pictures = ctx.shape(whole.x)[0]
    ctx.step(
        kernel,
        [y],
        [*reads, bias, *others],
        tasks=tasks(pictures, ctx.target),
        numbers=[pictures],
        node=whole.node,
    )
