"""Pooling over an array namespace: one axis at a time, because max and sum are separable.

How a window's elements are combined depends on the window alone, so that an answer never changes
with the batch it travelled in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from engine.ops.cores.windows import Array, Window, pad_spatial, tap_slices, window_view

# Elements per window and axis up to which they are combined one by one.
FEW_TAPS = 64


def max_pool(xp: Any, x: Array, window: Window, outputs: tuple[int, ...]) -> Array:
    """Largest value of every window of `x` (N, C, *S); padding never wins."""
    return _separable(xp, x, window, outputs, lowest(xp, x.dtype), xp.maximum)


def sum_pool(xp: Any, x: Array, window: Window, outputs: tuple[int, ...]) -> Array:
    """Sum of every window of `x` (N, C, *S), padding counted as zero."""
    return _separable(xp, x, window, outputs, 0, xp.add)


def lowest(xp: Any, dtype: Any) -> Any:
    """The value that never wins a maximum."""
    kind = xp.dtype(dtype).kind
    if kind == "f":
        return -math.inf
    return False if kind == "b" else xp.iinfo(dtype).min


def padded_for(xp: Any, x: Array, window: Window, outputs: tuple[int, ...], value: Any) -> Array:
    """`x` padded so that every window, also a last partial one, lies inside it."""
    ends = tuple(
        max((o - 1) * s + extent - size - begin, -size - begin)
        for o, s, extent, size, begin in zip(
            outputs, window.strides, window.extent, x.shape[2:], window.begins, strict=True
        )
    )
    return pad_spatial(xp, x, window.begins, tuple(max(e, 0) for e in ends), value)


def _separable(
    xp: Any,
    x: Array,
    window: Window,
    outputs: tuple[int, ...],
    neutral: Any,
    combine: Callable[..., Array],
) -> Array:
    if math.prod((*x.shape[:2], *outputs)) == 0:
        return xp.zeros((*x.shape[:2], *outputs), dtype=x.dtype)
    result = padded_for(xp, x, window, outputs, neutral)
    for axis in reversed(range(len(outputs))):
        result = _along(xp, result, window, outputs, axis, combine)
    return result


def _along(
    xp: Any,
    x: Array,
    window: Window,
    outputs: tuple[int, ...],
    axis: int,
    combine: Callable[..., Array],
) -> Array:
    """Combine the window elements of one spatial axis."""
    stride, dilation, count = window.strides[axis], window.dilations[axis], outputs[axis]
    lead = (slice(None),) * (2 + axis)

    def taken(source: Array, tap: int) -> Array:
        return source[(*lead, *tap_slices((tap * dilation,), (stride,), (count,)))]

    taps = window.kernel[axis]
    if taps > FEW_TAPS:
        return _doubling(xp, x, lead, taps, dilation, taken, combine)
    result = xp.array(taken(x, 0), copy=True)
    for tap in range(1, taps):
        combine(result, taken(x, tap), out=result)
    return result


def _doubling(
    xp: Any,
    x: Array,
    lead: tuple[slice, ...],
    taps: int,
    dilation: int,
    taken: Callable[[Array, int], Array],
    combine: Callable[..., Array],
) -> Array:
    """Combine many elements: windows of 2n elements are two of n, side by side.

    A window of any length is put together from those in its binary form, so the work grows with
    the logarithm of its length.
    """
    result: Array | None = None
    runs, size, done = x, 1, 0  # `runs` holds windows of `size` elements, `done` are combined
    while True:
        if taps & size:
            part = taken(runs, done)
            result = xp.array(part, copy=True) if result is None else combine(result, part)
            done += size
        if done == taps:
            return result
        step = size * dilation
        runs = combine(runs[(*lead, slice(None, -step))], runs[(*lead, slice(step, None))])
        size *= 2


def window_counts(
    xp: Any,
    sizes: tuple[int, ...],
    window: Window,
    outputs: tuple[int, ...],
    include_pad: bool,
    dtype: Any,
) -> Array:  # (*O)
    """How many elements each window averages over: real ones, and padding if `include_pad`."""
    result = xp.ones((1,) * len(outputs), dtype=dtype)
    for axis, size in enumerate(sizes):
        begin, end = window.begins[axis], window.ends[axis]
        low, high = (-begin, size + end) if include_pad else (0, size)
        starts = xp.arange(outputs[axis]) * window.strides[axis] - begin
        kernel, dilation = window.kernel[axis], window.dilations[axis]
        # Tap k lies at start + k * dilation; -(a // b) is -a / b rounded up.
        first = xp.clip(-((starts - low) // dilation), 0, kernel)
        behind = xp.clip(-((starts - high) // dilation), 0, kernel)
        counts = xp.maximum(behind - first, 0).astype(dtype)
        shape = [1] * len(outputs)
        shape[axis] = -1
        result = result * counts.reshape(shape)
    return xp.maximum(result, xp.asarray(1, dtype=dtype))


def max_pool_indices(
    xp: Any, x: Array, window: Window, outputs: tuple[int, ...], column_major: bool
) -> Array:  # (N, C, *O) int64
    """Flat index into `x` of each window's first largest element."""
    batch, channels = x.shape[:2]
    if math.prod((batch, channels, *outputs)) == 0:
        return xp.zeros((batch, channels, *outputs), dtype=xp.int64)
    padded = padded_for(xp, x, window, outputs, lowest(xp, x.dtype))
    view = window_view(xp, padded, window, outputs)
    winner = view.reshape(batch, channels, math.prod(window.kernel), *outputs).argmax(axis=2)
    sizes = x.shape[2:]
    pitches = [
        math.prod(sizes[:axis] if column_major else sizes[axis + 1 :]) for axis in range(len(sizes))
    ]
    flat = xp.zeros(winner.shape, dtype=xp.int64)
    for axis, tap in enumerate(xp.unravel_index(winner, window.kernel)):
        shape = [1] * winner.ndim
        shape[2 + axis] = -1
        starts = (xp.arange(outputs[axis]) * window.strides[axis] - window.begins[axis]).reshape(
            shape
        )
        flat += (starts + tap * window.dilations[axis]) * pitches[axis]
    planes = xp.arange(batch * channels).reshape(batch, channels, *(1,) * len(outputs))
    return flat + planes * math.prod(sizes)
