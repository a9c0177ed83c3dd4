"""Convolution of any rank over an array namespace, one image after the other.

Each image is multiplied on its own: how a sum is split must not depend on how many images came
together, or an answer would change with the batch it travelled in.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from engine.ops.cores.windows import Array, Window, pad_spatial, tap_slices, window_view

# Elements per block of channels: input, product and sum stay in a core's second-level cache.
DEPTHWISE_BLOCK = 32 * 1024
# Elements per filter up to which they are multiplied one by one.
DEPTHWISE_TAPS = 1024
# A flattened image computes padding columns too; beyond this share a copy per window is cheaper.
FLATTEN_WASTE = 1.35
# Elements of the unfolded image held at once.
UNFOLD_BLOCK = 8 * 1024 * 1024


def convolve(xp: Any, x: Array, w: Array, window: Window, group: int = 1) -> Array:
    """Cross-correlate `x` (N, C, *S) with `w` (M, C/group, *K); floats, in the arrays' own type."""
    outputs = window.output_sizes(x.shape[2:])
    shape = (x.shape[0], w.shape[0], *outputs)
    if math.prod(shape) == 0 or w.shape[1] == 0:
        return xp.zeros(shape, dtype=x.dtype)
    if window.is_pointwise and not any(window.begins) and not any(window.ends):
        return _pointwise(xp, x, w, window, outputs, group)
    padded = pad_spatial(xp, x, window.begins, window.ends)
    if w.shape[1] == 1 and group > 1 and math.prod(window.kernel) <= DEPTHWISE_TAPS:
        return _depthwise(xp, padded, w, window, outputs)
    out = xp.empty(shape, dtype=x.dtype)
    unfold = _flattened if _flattens(padded, window, outputs) else _unfolded
    for image, result in zip(padded, out, strict=True):
        unfold(xp, image, w, window, outputs, group, result)
    return out


def _pointwise(
    xp: Any, x: Array, w: Array, window: Window, outputs: tuple[int, ...], group: int
) -> Array:
    """A 1x1 window is a matrix product per image."""
    if any(s != 1 for s in window.strides):
        x = x[(slice(None), slice(None), *tap_slices((0,) * len(outputs), window.strides, outputs))]
    images = x.reshape(x.shape[0], group, x.shape[1] // group, -1)  # (N, g, C/g, P)
    weights = w.reshape(group, w.shape[0] // group, -1)  # (g, M/g, C/g)
    return xp.matmul(weights, images).reshape(x.shape[0], w.shape[0], *outputs)


def _depthwise(
    xp: Any, x: Array, w: Array, window: Window, outputs: tuple[int, ...]
) -> Array:  # (N, C * multiplier, *O)
    """One filter per channel: sum shifted slices, a cache-sized block of channels at a time."""
    batch, channels = x.shape[:2]
    multiplier = w.shape[0] // channels
    taps = list(itertools.product(*(range(k) for k in window.kernel)))
    slices = [
        tap_slices(
            [t * d for t, d in zip(tap, window.dilations, strict=True)], window.strides, outputs
        )
        for tap in taps
    ]
    weights = w.reshape(channels, multiplier, len(taps), *(1,) * len(outputs))
    out = xp.empty((batch, channels, multiplier, *outputs), dtype=x.dtype)
    step = max(1, DEPTHWISE_BLOCK // (math.prod(outputs) * multiplier))
    product = xp.empty((min(step, channels), multiplier, *outputs), dtype=x.dtype)
    for n, start in itertools.product(range(batch), range(0, channels, step)):
        block = slice(start, min(start + step, channels))
        total, image, scratch = out[n, block], x[n, block], product[: block.stop - start]
        for index, positions in enumerate(slices):
            source = image[(slice(None), None, *(positions))]
            xp.multiply(source, weights[block, :, index], out=scratch if index else total)
            if index:
                total += scratch
    return out.reshape(batch, channels * multiplier, *outputs)


def _flattens(padded: Array, window: Window, outputs: tuple[int, ...]) -> bool:
    """Whether to treat each image as one long line: unit strides and little padding to waste."""
    if any(s != 1 for s in window.strides):
        return False
    length = _line_length(padded, outputs)
    unfolded = padded.shape[1] * math.prod(window.kernel) * length
    return length <= FLATTEN_WASTE * math.prod(outputs) and unfolded <= UNFOLD_BLOCK


def _pitches(padded: Array) -> tuple[int, ...]:
    """Elements from one position to the next, per spatial axis of a contiguous image."""
    sizes = padded.shape[2:]
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _line_length(padded: Array, outputs: tuple[int, ...]) -> int:
    """Line positions from the first output to the last."""
    return 1 + sum((o - 1) * p for o, p in zip(outputs, _pitches(padded), strict=True))


def _flattened(
    xp: Any,
    image: Array,
    w: Array,
    window: Window,
    outputs: tuple[int, ...],
    group: int,
    result: Array,
) -> None:
    """Unit strides: a window element is the image's line shifted, so unfolding copies long runs."""
    image = xp.ascontiguousarray(image)
    pitches = _pitches(image[None])
    length = _line_length(image[None], outputs)
    item = image.itemsize
    inner = tuple(p * d * item for p, d in zip(pitches, window.dilations, strict=True))
    lines = xp.lib.stride_tricks.as_strided(
        image,
        shape=(image.shape[0], *window.kernel, length),
        strides=(image.strides[0], *inner, item),
    )
    columns = lines.reshape(group, -1, length)  # (g, C/g * K, L), a copy
    sums = xp.matmul(w.reshape(group, w.shape[0] // group, -1), columns)  # (g, M/g, L)
    result[...] = xp.lib.stride_tricks.as_strided(
        sums, shape=result.shape, strides=(length * item, *(p * item for p in pitches))
    )


def _unfolded(
    xp: Any,
    image: Array,
    w: Array,
    window: Window,
    outputs: tuple[int, ...],
    group: int,
    result: Array,
) -> None:
    """Any strides: copy every window, a few lines of the first spatial axis at a time."""
    view = window_view(xp, image, window, outputs)  # (C, *K, *O)
    lead = 1 + len(window.kernel)
    weights = w.reshape(group, w.shape[0] // group, -1)
    per_line = math.prod(view.shape) // outputs[0]
    step = max(1, UNFOLD_BLOCK // per_line)
    for start in range(0, outputs[0], step):
        part = view[(slice(None),) * lead + (slice(start, start + step),)]
        columns = part.reshape(group, weights.shape[2], -1)
        sums = xp.matmul(weights, columns)
        target = result[:, start : start + step]
        target[...] = sums.reshape(target.shape)


def convolve_transposed(
    xp: Any,
    x: Array,
    w: Array,
    window: Window,
    outputs: tuple[int, ...],
    group: int = 1,
) -> Array:
    """Scatter `x` (N, C, *S) through `w` (C, M/group, *K) into an output of sizes `outputs`.

    `window` gives strides, dilations and what is cropped at either end of the full result.
    """
    full = window.transposed_sizes(x.shape[2:], outputs)
    canvas = xp.zeros((x.shape[0], group * w.shape[1], *full), dtype=x.dtype)
    if math.prod(x.shape) and math.prod(w.shape):
        few_positions = math.prod(x.shape[2:]) < math.prod(window.kernel)
        (_spread_positions if few_positions else _spread_taps)(xp, x, w, window, group, canvas)
    crop = tuple(slice(b, b + o) for b, o in zip(window.begins, outputs, strict=True))
    return xp.ascontiguousarray(canvas[(..., *crop)])


def _spread_taps(xp: Any, x: Array, w: Array, window: Window, group: int, canvas: Array) -> None:
    """Add every element of the filter, times the whole image, to the canvas."""
    sizes, per_group = x.shape[2:], w.shape[0] // group
    images = x.reshape(x.shape[0], group, per_group, -1)  # (N, g, C/g, P)
    taps = w.reshape(group, per_group, w.shape[1], -1)  # (g, C/g, M/g, K)
    for index, tap in enumerate(itertools.product(*(range(k) for k in window.kernel))):
        offsets = [t * d for t, d in zip(tap, window.dilations, strict=True)]
        product = xp.matmul(taps[..., index].swapaxes(1, 2), images)  # (N, g, M/g, P)
        target = canvas[(..., *tap_slices(offsets, window.strides, sizes))]
        target += product.reshape(target.shape)


def _spread_positions(
    xp: Any, x: Array, w: Array, window: Window, group: int, canvas: Array
) -> None:
    """Add the whole filter, times every position of the image, to the canvas."""
    per_group = w.shape[0] // group
    images = x.reshape(x.shape[0], group, per_group, -1)  # (N, g, C/g, P)
    filters = w.reshape(group, per_group, -1).swapaxes(1, 2)  # (g, M/g * K, C/g)
    for index, place in enumerate(itertools.product(*(range(s) for s in x.shape[2:]))):
        offsets = [p * s for p, s in zip(place, window.strides, strict=True)]
        product = xp.matmul(filters, images[..., index, None])  # (N, g, M/g * K, 1)
        target = canvas[(..., *tap_slices(offsets, window.dilations, window.kernel))]
        target += product.reshape(target.shape)
