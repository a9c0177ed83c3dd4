"""Sine and cosine."""

from __future__ import annotations

import math
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, F64, I32, I64, Builder, Value, lanes_of, vector
from engine.cpu.vmath.libm import call_libm
from engine.cpu.vmath.parts import (
    bits_of,
    floats_of,
    magnitude,
    number,
    polynomial,
    whole,
)

# (sin(r) - r) / r^3 in powers of r^2 for |r| <= pi / 4: error of sin 1.6e-10, relative.
SIN: Final = (
    -0.1666666716337204,
    0.008333379402756691,
    -0.00019853068806696683,
    2.832629434124101e-06,
)
# (cos(r) - 1 + r^2 / 2) / r^4 in powers of r^2: error of cos 1.2e-10, relative.
COS: Final = (0.04166664555668831, -0.0013887309469282627, 2.4432336431345902e-05)
# pi / 2 in parts of 27 bits: whole numbers up to `FAR` times each are exact in float64.
HALF_PI: Final = (1.570796325802803, 9.920935739593517e-10, 5.721188726109832e-18)
ROUNDER: Final = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to a whole number
TINY: Final = 2.0**-13  # below, the sine is its argument
FAR: Final = 2.0**26  # from here on the C library reduces the argument


def sin(f: Builder, x: Value) -> Value:
    """Return the sine, within 2 ulp."""
    return _function(f, "sin", x, 0)


def cos(f: Builder, x: Value) -> Value:
    """Return the cosine, within 2 ulp."""
    return _function(f, "cos", x, 1)


def _function(f: Builder, name: str, x: Value, quarter: int) -> Value:
    """Return sin(x + quarter * pi / 2)."""
    y = _near(f, x, quarter)
    a = magnitude(f, x)
    far = f.b.fcmp_ordered(">=", a, number(f, x, FAR))
    far = f.b.and_(far, f.b.fcmp_ordered("<", a, number(f, x, math.inf)))
    lanes = lanes_of(x)
    any_far = far
    if lanes > 1:
        mask = f.b.bitcast(far, ir.IntType(lanes))
        any_far = f.b.icmp_unsigned("!=", mask, mask.type(0))
    before = f.b.block
    with f.if_(any_far, likely=False):
        exact = f.b.select(far, call_libm(f, name, x), y)
        inside = f.b.block
    result = f.b.phi(x.type)
    result.add_incoming(y, before)
    result.add_incoming(exact, inside)
    return result


def _near(f: Builder, x: Value, quarter: int) -> Value:
    """Reduce in float64, whose digits suffice for any float32 below `FAR`."""
    b, lanes = f.b, lanes_of(x)
    wide = b.fpext(x, vector(F64, lanes))
    rounder = number(f, wide, ROUNDER)
    shifted = f.fma(wide, number(f, wide, 2 / math.pi), rounder)
    n = b.fsub(shifted, rounder)
    r = wide
    for part in HALF_PI:
        r = f.fma(n, number(f, wide, -part), r)
    bits = b.trunc(b.bitcast(shifted, vector(I64, lanes)), vector(I32, lanes))
    quadrant = b.add(bits, whole(f, quarter, x)) if quarter else bits
    r = b.fptrunc(r, vector(F32, lanes))
    square = b.fmul(r, r)
    sine = f.fma(b.fmul(square, polynomial(f, square, SIN)), r, r)
    half = f.fma(square, number(f, x, -0.5), number(f, x, 1.0))
    cosine = f.fma(b.fmul(square, square), polynomial(f, square, COS), half)
    is_odd = b.icmp_unsigned("!=", b.and_(quadrant, whole(f, 1, x)), whole(f, 0, x))
    y = b.select(is_odd, cosine, sine)
    # Bit 1 of the quadrant becomes the sign bit.
    sign = b.shl(b.and_(quadrant, whole(f, 2, x)), whole(f, 30, x))
    y = floats_of(f, b.xor(bits_of(f, y), sign))
    if quarter:
        return y
    is_tiny = b.fcmp_ordered("<", magnitude(f, x), number(f, x, TINY))
    return b.select(is_tiny, x, y)  # zero keeps its sign
