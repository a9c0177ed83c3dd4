"""Linear quantization over an array namespace, exact to the rounding that ONNX states."""

from __future__ import annotations

import math
from typing import Any

from engine.ops.cores.windows import Array

# Elements per step: scaling, rounding, shifting and narrowing pass over data that stays in cache.
BLOCK = 64 * 1024
# Integer products are summed exactly in floats up to these magnitudes.
EXACT_FLOAT32 = 1 << 24


def quantize(xp: Any, x: Array, scale: Array, zero_point: Array, low: int, high: int) -> Array:
    """`saturate(round_half_even(x / scale) + zero_point)`; all operands broadcast."""
    out = xp.empty(x.shape, dtype=zero_point.dtype)
    if scale.size == 1 and x.flags.c_contiguous:
        flat, target = x.reshape(-1), out.reshape(-1)
        divisor, shift = scale.reshape(()), zero_point.reshape(())
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            _quantize_into(xp, flat[part], divisor, shift, low, high, target[part])
        return out
    _quantize_into(xp, x, scale, zero_point, low, high, out)
    return out


def _quantize_into(
    xp: Any, x: Array, scale: Array, zero_point: Array, low: int, high: int, out: Array
) -> None:
    value = xp.rint(x / scale)
    value += zero_point.astype(value.dtype)
    # fmax, not maximum: a NaN becomes `low` instead of whatever the conversion makes of it.
    xp.fmax(value, low, out=value)
    xp.minimum(value, high, out=value)
    out[...] = value.astype(out.dtype)


def dequantize(xp: Any, x: Array, scale: Array, zero_point: Array | None) -> Array:
    """`(x - zero_point) * scale` in the scale's type; operands broadcast."""
    wide = xp.float32 if x.dtype.itemsize < 4 else xp.float64
    value = x.astype(wide)
    if zero_point is not None:
        value -= zero_point.astype(wide)
    return (value * scale.astype(wide)).astype(scale.dtype)


def exact_type(xp: Any, terms: int, *operands: Array) -> Any:
    """The narrowest float that sums `terms` products of these integer types without rounding."""
    largest = math.prod(1 << (8 * operand.dtype.itemsize) for operand in operands)
    return xp.float32 if terms * largest <= EXACT_FLOAT32 else xp.float64


def centred(xp: Any, x: Array, zero_point: Array | None, dtype: Any) -> Array:
    """`x - zero_point` as floats."""
    value = x.astype(dtype)
    return value if zero_point is None else value - zero_point.astype(dtype)
