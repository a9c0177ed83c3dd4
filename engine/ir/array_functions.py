"""Array forms of primitives that array libraries lack, over any namespace like numpy's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes

Array = Any

BLOCK = 16_384  # elements handled at once: float64 temporaries stay in a core's second-level cache
ERF_EDGE = 3.925  # from here on erf is 1 in float32
# erf(x) = x * P(x*x) / Q(x*x) on [-3.925, 3.925], minimax in relative error: 1.9e-9.
ERF_P = (
    -1.282916462041469e-08,
    4.614693540077109e-06,
    0.0003769651186626268,
    0.0038394721317981583,
    0.05424943051350932,
    0.18514171509800514,
    1.1283791691618865,
)
ERF_Q = (
    6.245045602894692e-05,
    0.0013019725396333677,
    0.015432479212405984,
    0.11388048302993746,
    0.4974109797348261,
    1.0,
)


def erf(xp: Any, x: Array) -> Array:
    """Return the error function: correctly rounded in float32 but for rare ties."""
    if x.dtype == xp.float64:
        return _erf_exact(xp, x)
    return _in_blocks(xp, x, lambda wide: _erf_rational(xp, wide))


def rounded_once(xp: Any, function: Callable[[Array], Array], x: Array) -> Array:
    """Return a function of float32 numbers, computed in float64 and rounded once.

    So it is correctly rounded but for rare ties, and does not hang on the version of a library.
    """
    return _in_blocks(xp, x, function)


def _in_blocks(xp: Any, x: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function of float64 to neighbours; the result has the type of `x`."""
    result = xp.empty(x.shape, x.dtype)
    flat, out = xp.ascontiguousarray(x).reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = slice(start, start + BLOCK)
        out[block] = function(flat[block].astype(xp.float64))
    return result


def _erf_rational(xp: Any, x: Array) -> Array:
    xp.clip(x, -ERF_EDGE, ERF_EDGE, out=x)
    square = x * x
    x *= _horner(square, ERF_P)
    x /= _horner(square, ERF_Q)
    return xp.clip(x, -1.0, 1.0, out=x)


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    first, second, *rest = coefficients
    result = x * first
    result += second
    for each in rest:
        result *= x
        result += each
    return result


def _erf_exact(xp: Any, x: Array) -> Array:
    values = list(map(math.erf, x.reshape(-1).tolist()))
    return xp.asarray(values, dtype=x.dtype).reshape(x.shape)


def integer_divide(xp: Any, a: Array, b: Array) -> Array:
    """Return a / b truncated toward zero, unlike floor division where the signs differ."""
    quotient = xp.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    inexact = (quotient * b != a) & ((a < 0) != (b < 0))
    return quotient + inexact.astype(a.dtype)


def saturating_cast(xp: Any, x: Array, dtype: Any) -> Array:
    """Return floats in a narrower type, what is too large as the largest finite value."""
    facts: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]  # the library has no types
    smallest, largest = float(facts.min), float(facts.max)
    return xp.clip(x.astype(xp.float32), smallest, largest).astype(dtype)
