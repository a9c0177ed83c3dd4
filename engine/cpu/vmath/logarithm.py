"""Natural logarithms."""

from __future__ import annotations

import math
from typing import Final

from engine.cpu.builder import F32, Builder, Value, lanes_of, vector
from engine.cpu.vmath.exponential import LN2_HIGH, LN2_LOW
from engine.cpu.vmath.parts import (
    bits_of,
    floats_of,
    magnitude,
    number,
    polynomial,
    power_of_two,
    whole,
)

# (log1p(f) - f + f^2 / 2) / f^3 for 1 + f in [1/sqrt(2), sqrt(2)]: error of log1p 5.9e-9, relative.
LOG1P: Final = (
    0.3333333134651184,
    -0.2500081956386566,
    0.20001237094402313,
    -0.16623398661613464,
    0.14201720058918,
    -0.1315993219614029,
    0.12761190533638,
    -0.07634010165929794,
)
ROOT_HALF_BITS: Final = 0x3F3504F3
LEAST_NORMAL: Final = 2.0**-126


def log(f: Builder, x: Value) -> Value:
    """Return the natural logarithm, within 1 ulp; -infinity at 0, NaN below."""
    b = f.b
    is_tiny = b.fcmp_ordered("<", x, number(f, x, LEAST_NORMAL))
    scaled = b.select(is_tiny, b.fmul(x, number(f, x, 2.0**23)), x)
    m, exponent = _split(f, scaled)
    e = b.sitofp(exponent, vector(F32, lanes_of(x)))
    e = b.fsub(e, b.select(is_tiny, number(f, x, 23.0), number(f, x, 0.0)))
    y = _sum(f, b.fsub(m, number(f, x, 1.0)), e)
    return _special(f, x, x, y)


def log1p(f: Builder, x: Value) -> Value:
    """Return log(1 + x), within 2 ulp."""
    b, one = f.b, number(f, x, 1.0)
    u = b.fadd(one, x)
    # What rounding took from 1 + x (Knuth's two-sum), to be added to the mantissa.
    back = b.fsub(u, one)
    lost = b.fadd(b.fsub(one, b.fsub(u, back)), b.fsub(x, back))
    m, exponent = _split(f, u)
    most = whole(f, 126, x)
    capped = b.select(b.icmp_signed("<", exponent, most), exponent, most)
    scale = power_of_two(f, b.sub(whole(f, 0, x), capped))
    fraction = f.fma(lost, scale, b.fsub(m, one))
    y = _special(f, u, x, _sum(f, fraction, b.sitofp(exponent, vector(F32, lanes_of(x)))))
    is_tiny = b.fcmp_ordered("<", magnitude(f, x), number(f, x, 2.0**-25))
    return b.select(is_tiny, x, y)


def _split(f: Builder, x: Value) -> tuple[Value, Value]:
    """Return m in [1/sqrt(2), sqrt(2)) and integers e such that x = m 2 ** e, for normal x > 0."""
    bits = bits_of(f, x)
    shift = whole(f, 23, x)
    exponent = f.b.ashr(f.b.sub(bits, whole(f, ROOT_HALF_BITS, x)), shift)
    return floats_of(f, f.b.sub(bits, f.b.shl(exponent, shift))), exponent


def _sum(f: Builder, fraction: Value, e: Value) -> Value:
    """Return log1p(fraction) + e ln 2, the small terms first."""
    square = f.b.fmul(fraction, fraction)
    y = f.b.fmul(f.b.fmul(fraction, square), polynomial(f, fraction, LOG1P))
    y = f.fma(e, number(f, e, LN2_LOW), y)
    y = f.fma(square, number(f, e, -0.5), y)
    return f.fma(e, number(f, e, LN2_HIGH), f.b.fadd(fraction, y))


def _special(f: Builder, x: Value, infinite: Value, y: Value) -> Value:
    """Return y, or what the logarithm of x is where x is not a positive finite number."""
    b, zero = f.b, number(f, x, 0.0)
    y = b.select(b.fcmp_ordered("<", x, number(f, x, math.inf)), y, infinite)
    pole = b.select(b.fcmp_ordered("==", x, zero), number(f, x, -math.inf), number(f, x, math.nan))
    return b.select(b.fcmp_ordered("<=", x, zero), pole, y)
