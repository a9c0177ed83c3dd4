"""Transposed convolutions: one convolution for each place of a pixel within the stride.

Pixel `o` of the result takes input pixel `i` by tap `k` where o + begin is stride * i + dilation *
k. Pixels with the same remainder take the same taps from neighbouring inputs: a plain convolution
with some of the taps, in reverse, whose results lie `stride` pixels apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.cpu.lower.apart import fused_or_apart
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.conv import Part, lower_dense
from engine.cpu.lower.conv_operands import (
    Convolution,
    finish_signal,
    input_pictures,
    read_bias,
    read_epilogue,
    read_operands,
    result_picture,
)
from engine.cpu.lower.rules import NoKernel, lowers
from engine.ir.graph import Node
from engine.ops.conv_transpose import transposed_axis
from engine.ops.cores.windows import Window

MOST_PARTS: Final = 64  # convolutions that one node may become
MOST_BORDER: Final = 64  # beyond that, a stated output shape asks for mere bias around the picture


@dataclass(frozen=True)
class Phase:
    """The results of one axis that have the same remainder.

    Attributes:
        first: The first of them.
        count: How many there are.
        taps: The taps that they take, in the order of the inputs.
        dilation: Inputs from one tap to the next.
        begin: How far before its own input the first tap of result `first` lies.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    begin: int

    def border(self, size: int) -> int:
        """Return how far the taps reach beyond an input of this size."""
        if not self.taps:
            return 0
        last = self.count - 1 - self.begin + (len(self.taps) - 1) * self.dilation
        return max(0, self.begin, last - (size - 1))


def phases(stride: int, dilation: int, kernel: int, begin: int, outputs: int) -> list[Phase]:
    """Return the phases of one axis."""
    found = []
    for first in range(min(stride, outputs)):
        taps = [k for k in reversed(range(kernel)) if (first + begin - k * dilation) % stride == 0]
        ahead = (first + begin - taps[0] * dilation) // stride if taps else 0
        count = -(-(outputs - first) // stride)
        step = dilation // math.gcd(stride, dilation)
        found.append(Phase(first, count, tuple(taps), step, -ahead))
    return found


@lowers("ConvTranspose", domain="millrace")
def fused_conv_transpose(ctx: Lowering, node: Node) -> None:
    """The same with an epilogue."""
    fused_or_apart(ctx, node, conv_transpose)


@lowers("ConvTranspose")
def conv_transpose(ctx: Lowering, node: Node) -> None:
    """A transposed convolution of pictures or signals."""
    whole, rows, columns = _read(ctx, node)
    x, extras = input_pictures(ctx, whole)
    y = result_picture(ctx, whole)
    clears = True
    for down in rows:
        for right in columns:
            lower_dense(
                ctx, whole, _part(whole, rows, columns, down, right), y, x, extras, clears=clears
            )
            clears = False
    finish_signal(ctx, whole, y)


def _part(
    whole: Convolution, rows: Sequence[Phase], columns: Sequence[Phase], down: Phase, right: Phase
) -> Part:
    """Return the convolution of one pair of phases."""
    taps = whole.weights[:, :, list(down.taps)][:, :, :, list(right.taps)]
    window = Window(
        kernel=(len(down.taps), len(right.taps)),
        strides=(1, 1),
        dilations=(down.dilation, right.dilation),
        begins=(down.begin, right.begin),
        ends=(0, 0),
    )
    return Part(
        taps,
        window,
        f"{down.taps}{right.taps}",
        (down.first, right.first),
        (down.count, right.count),
        (len(rows), len(columns)),
    )


def _read(ctx: Lowering, node: Node) -> tuple[Convolution, list[Phase], list[Phase]]:
    """Collect what the node says; `NoKernel` for what is not done."""
    x, key, weights = read_operands(ctx, node)
    shape, rank = ctx.shape(x), weights.ndim - 2
    if len(shape) != rank + 2 or not all(isinstance(d, int) and d > 0 for d in shape[1:]):
        raise NoKernel("the size of the pictures is known only at run time")
    attributes = ctx.attributes(node)
    groups = int(attributes["group"])
    if weights.shape[0] != shape[1] or weights.shape[0] % groups:
        raise NoKernel("channels do not fit the weights")
    sizes = [int(d) for d in shape[2:] if isinstance(d, int)]
    axes = [_axis(attributes, i, rank, sizes[i], weights.shape[2 + i]) for i in range(rank)]
    outputs = [n for n, _ in axes]
    border = max(
        phase.border(size) for size, (_, ps) in zip(sizes, axes, strict=True) for phase in ps
    )
    if border > MOST_BORDER or math.prod(len(ps) for _, ps in axes) > MOST_PARTS:
        raise NoKernel("its stride or its stated output shape is out of the ordinary")
    filters = weights.shape[1] * groups
    bias_key, bias = read_bias(ctx, node, filters)
    epilogue = read_epilogue(ctx, node, (filters, *outputs))
    if rank == 1:
        weights, outputs = weights[:, :, None, :], [1, *outputs]
        axes = [(1, phases(1, 1, 1, 0, 1)), *axes]
    per_group = weights.reshape(groups, -1, *weights.shape[1:])  # (g, channels, filters, kh, kw)
    turned = per_group.transpose(0, 2, 1, 3, 4).reshape(filters, -1, *weights.shape[2:])
    whole = Convolution(
        node,
        x,
        key,
        turned,
        groups,
        bias,
        bias_key,
        epilogue,
        rank,
        (outputs[0], outputs[1]),
        border,
    )
    return whole, axes[0][1], axes[1][1]


def _axis(
    attributes: Mapping[str, Any], axis: int, rank: int, size: int, kernel: int
) -> tuple[int, list[Phase]]:
    """Return the results along one axis, and their phases."""
    stride = (tuple(attributes["strides"]) or (1,) * rank)[axis]
    dilation = (tuple(attributes["dilations"]) or (1,) * rank)[axis]
    outputs, begin = transposed_axis(attributes, axis, rank, size, kernel)
    if not isinstance(outputs, int) or not isinstance(begin, int) or outputs < 1:
        raise NoKernel("the result is empty")
    if stride > MOST_PARTS:  # refused before its phases, one per step, are written down
        raise NoKernel(f"a stride of {stride} is out of the ordinary")
    return outputs, phases(stride, dilation, kernel, begin, outputs)
