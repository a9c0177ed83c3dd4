"""Linear quantization over an array namespace, exact to the rounding that ONNX states."""

from __future__ import annotations

import math
from typing import Any

from engine.dtypes import DType
from engine.ops.cores.windows import Array

# Elements per step: scaling, rounding, shifting and narrowing pass over data that stays in cache.
BLOCK = 32 * 1024
# Products of integers are summed exactly in float32 up to this magnitude.
EXACT_FLOAT32 = 1 << 24


def integer_range(dtype: Any) -> tuple[int, int]:
    """Smallest and largest value of an integer type, the packed ones of 4 and 2 bits included."""
    kind = DType.from_numpy(dtype)
    if kind.is_signed:
        return -(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1
    return 0, (1 << kind.bits) - 1


def quantize(xp: Any, x: Array, scale: Array, zero_point: Array) -> Array:
    """`saturate(round_half_even(x / scale) + zero_point)`; float operands, all broadcast."""
    out = xp.empty(x.shape, dtype=zero_point.dtype)
    if scale.size == zero_point.size == 1 and x.flags.c_contiguous:
        flat, target = x.reshape(-1), out.reshape(-1)
        divisor, shift = scale.reshape(()), zero_point.reshape(())
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            target[part] = _quantized(xp, flat[part], divisor, shift)
        return out
    out[...] = _quantized(xp, x, scale, zero_point)
    return out


def _quantized(xp: Any, x: Array, scale: Array, zero_point: Array) -> Array:
    low, high = integer_range(zero_point.dtype)
    value = x / scale
    return saturate(xp, xp.rint(value, out=value), zero_point, low, high)


def saturate(xp: Any, value: Array, zero_point: Array, low: int, high: int) -> Array:
    """Shift whole floats by the zero point and clip them, in place; the zero point's type."""
    value += zero_point.astype(value.dtype)
    # fmax, not maximum: a NaN becomes `low` instead of whatever the conversion makes of it.
    xp.fmax(value, value.dtype.type(low), out=value)
    xp.minimum(value, value.dtype.type(high), out=value)
    return value.astype(zero_point.dtype)


def dequantize(xp: Any, x: Array, scale: Array, zero_point: Array | None) -> Array:
    """`(x - zero_point) * scale` in the scale's type, which must be a wide float."""
    single = scale.size == 1 and (zero_point is None or zero_point.size == 1)
    if not single or not x.flags.c_contiguous:
        return _dequantized(x, scale, zero_point)
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, dtype=scale.dtype)
    factor = scale.reshape(())
    shift = None if zero_point is None else zero_point.reshape(())
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        out[part] = _dequantized(flat[part], factor, shift)
    return out.reshape(x.shape)


def _dequantized(x: Array, scale: Array, zero_point: Array | None) -> Array:
    # Differences of 32-bit integers do not fit float32; all narrower ones do.
    wide = scale.dtype if x.dtype.itemsize < 4 else "float64"
    value = x.astype(wide)
    if zero_point is not None:
        value = value - zero_point.astype(wide)
    return (value * scale).astype(scale.dtype)


def exact_type(xp: Any, terms: int, a: Array, b: Array) -> Any:
    """The narrowest float that sums `terms` products of these integer types without rounding."""
    # Without its zero point a factor is as large as its type's whole range at most.
    largest = math.prod(
        high - low for low, high in (integer_range(a.dtype), integer_range(b.dtype))
    )
    return xp.float32 if terms * largest <= EXACT_FLOAT32 else xp.float64


def centred(x: Array, zero_point: Array | None, dtype: Any) -> Array:
    """`x - zero_point` as floats."""
    value = x.astype(dtype)
    return value if zero_point is None else value - zero_point.astype(dtype)
