"""What the vector functions are put together from."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from engine.cpu.builder import F32, I32, Builder, Value, lanes_of, vector


def number(f: Builder, like: Value, value: float) -> Value:
    """Return a number in every lane of a register like this one."""
    element = like.type.element if isinstance(like.type, ir.VectorType) else like.type
    return f.floats(value, lanes_of(like), element)


def polynomial(f: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """Return c0 + c1 x + c2 x^2 + ..., by Horner's rule."""
    *rest, last = coefficients
    total = number(f, x, last)
    for each in reversed(rest):
        total = f.fma(total, x, number(f, x, each))
    return total


def at_least(f: Builder, bound: float, x: Value) -> Value:
    """Return the larger of a number and x; NaN stays NaN (x86's maximum, bound first)."""
    low = number(f, x, bound)
    return f.b.select(f.b.fcmp_ordered(">", low, x), low, x)


def at_most(f: Builder, bound: float, x: Value) -> Value:
    """Return the smaller of a number and x; NaN stays NaN."""
    high = number(f, x, bound)
    return f.b.select(f.b.fcmp_ordered("<", high, x), high, x)


def maximum(f: Builder, x: Value, y: Value) -> Value:
    """Return the larger of two floats, NaN when either is."""
    return _extreme(f, ">", x, y)


def minimum(f: Builder, x: Value, y: Value) -> Value:
    """Return the smaller of two floats, NaN when either is."""
    return _extreme(f, "<", x, y)


def _extreme(f: Builder, wins: str, x: Value, y: Value) -> Value:
    if _is_number(y):
        x, y = y, x
    chosen = f.b.select(f.b.fcmp_ordered(wins, x, y), x, y)  # y where either is NaN
    if _is_number(x):
        return chosen
    return f.b.select(f.b.fcmp_unordered("uno", x, x), x, chosen)


def _is_number(value: Value) -> bool:
    """Whether this is a constant, not NaN, in every lane."""
    if not isinstance(value, ir.Constant):
        return False
    each = value.constant if isinstance(value.type, ir.VectorType) else [value]
    numbers = [getattr(v, "constant", v) for v in each]
    return all(isinstance(v, float) and v == v for v in numbers)


def magnitude(f: Builder, x: Value) -> Value:
    """Return |x|."""
    return f.call_intrinsic("fabs", x)


def with_sign(f: Builder, x: Value, sign: Value) -> Value:
    """Return |x| with the sign of another register."""
    return f.call_intrinsic("copysign", x, sign)


def bits_of(f: Builder, x: Value) -> Value:
    """Return float32 as the integers that their bits are."""
    return f.b.bitcast(x, vector(I32, lanes_of(x)))


def floats_of(f: Builder, bits: Value) -> Value:
    """Return the float32 of these bits."""
    return f.b.bitcast(bits, vector(F32, lanes_of(bits)))


def whole(f: Builder, value: int, like: Value) -> Value:
    """Return a whole number in as many lanes as another register has."""
    return f.integers(value, lanes_of(like))


def power_of_two(f: Builder, exponent: Value, bias: int = 127) -> Value:
    """Return 2 ** (exponent + bias - 127) for integers that a float32 has room for."""
    shifted = f.b.add(exponent, whole(f, bias, exponent))
    return floats_of(f, f.b.shl(shifted, whole(f, 23, exponent)))
