"""Sliding-window geometry shared by convolution and pooling.

The arithmetic works on integers and on symbolic dimensions alike, so shape rules and computation
cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from engine.ir.types import Dim, ceildiv, dim_min, floordiv

Array = Any


@dataclass(frozen=True)
class Window:
    """A resolved window: one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How many input positions one window spans, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads exactly one input position."""
        return math.prod(self.kernel) == 1

    def padded_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Input sizes with their padding."""
        return tuple(s + b + e for s, b, e in zip(sizes, self.begins, self.ends, strict=True))

    def output_sizes(self, sizes: Sequence[int], ceil_mode: bool = False) -> tuple[int, ...]:
        """Output positions per axis; negative when a window does not fit."""
        axes = zip(sizes, self.extent, self.strides, self.begins, self.ends, strict=True)
        return tuple(
            cast(int, output_size(size, extent, stride, begin, end, ceil_mode))
            for size, extent, stride, begin, end in axes
        )

    def transposed_sizes(self, sizes: Sequence[int], outputs: Sequence[int]) -> tuple[int, ...]:
        """What spreading windows over every input position covers, the outputs included."""
        axes = zip(sizes, self.strides, self.extent, self.begins, outputs, strict=True)
        return tuple(
            max((size - 1) * stride + extent, begin + output)
            for size, stride, extent, begin, output in axes
        )


def output_size(
    size: Dim, extent: int, stride: int, begin: Dim = 0, end: Dim = 0, ceil_mode: bool = False
) -> Dim:
    """Positions of a window of `extent` along one padded axis.

    With `ceil_mode` the last window may be partial, but it must start inside the input or the
    leading padding, never in the trailing padding.
    """
    span = size + begin + end - extent
    if not ceil_mode:
        return floordiv(span, stride) + 1
    return dim_min(ceildiv(span, stride) + 1, ceildiv(size + begin, stride))


def same_padding(size: int, extent: int, stride: int, upper: bool) -> tuple[int, int]:
    """Padding that makes the output `ceil(size / stride)`, the odd one at the end if `upper`."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def resolve_window(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
) -> Window:
    """Fill in defaults and resolve `auto_pad` for an input of spatial `sizes`."""
    rank = len(kernel)
    strides, dilations = tuple(strides) or (1,) * rank, tuple(dilations) or (1,) * rank
    # Views of windows are made without bounds checks: nothing may point outside of the input.
    if min((*kernel, *strides, *dilations), default=1) < 1:
        raise ValueError(
            f"kernel {list(kernel)}, strides {list(strides)} and dilations {list(dilations)} "
            "must be 1 or more"
        )
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pairs = [
            same_padding(size, (k - 1) * d + 1, s, auto_pad == "SAME_UPPER")
            for size, k, d, s in zip(sizes, kernel, dilations, strides, strict=True)
        ]
        begins, ends = tuple(b for b, _ in pairs), tuple(e for _, e in pairs)
    elif auto_pad == "VALID" or not pads:
        begins = ends = (0,) * rank
    else:
        begins, ends = tuple(pads[:rank]), tuple(pads[rank:])
    return Window(tuple(kernel), strides, dilations, begins, ends)


def pad_spatial(
    xp: Any, x: Array, begins: Sequence[int], ends: Sequence[int], value: Any = 0
) -> Array:
    """Pad the trailing `len(begins)` axes with `value`; negative padding crops."""
    if not any(begins) and not any(ends):
        return x
    lead = x.ndim - len(begins)
    sizes = x.shape[lead:]
    shape = tuple(max(s + b + e, 0) for s, b, e in zip(sizes, begins, ends, strict=True))
    padded = xp.full(x.shape[:lead] + shape, value, dtype=x.dtype)
    target = tuple(
        slice(max(b, 0), max(max(b, 0) + s + min(b, 0) + min(e, 0), 0))
        for s, b, e in zip(sizes, begins, ends, strict=True)
    )
    source = tuple(
        slice(max(-b, 0), max(s - max(-e, 0), 0))
        for s, b, e in zip(sizes, begins, ends, strict=True)
    )
    padded[(..., *target)] = x[(..., *source)]
    return padded


def tap_slices(
    offsets: Sequence[int], strides: Sequence[int], outputs: Sequence[int]
) -> tuple[slice, ...]:
    """The input positions that one window element reads, for every output position."""
    return tuple(
        slice(offset, offset + stride * (count - 1) + 1 if count else offset, stride)
        for offset, stride, count in zip(offsets, strides, outputs, strict=True)
    )


def window_view(
    xp: Any, x: Array, window: Window, outputs: Sequence[int]
) -> Array:  # (..., *K, *O), no copy; x is already padded
    """A view of every window of `x`: leading axes, then window elements, then output positions."""
    rank = len(window.kernel)
    lead, steps = x.strides[:-rank], x.strides[-rank:]
    shape = x.shape[:-rank] + window.kernel + tuple(outputs)
    inner = tuple(step * d for step, d in zip(steps, window.dilations, strict=True))
    outer = tuple(step * s for step, s in zip(steps, window.strides, strict=True))
    return xp.lib.stride_tricks.as_strided(x, shape=shape, strides=lead + inner + outer)
