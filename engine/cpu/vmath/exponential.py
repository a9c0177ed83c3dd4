"""exp and what is made of it: expm1, the logistic function, tanh."""

from __future__ import annotations

from typing import Final

from engine.cpu.builder import I16, I32, Builder, Value, lanes_of
from engine.cpu.vmath.parts import (
    at_least,
    at_most,
    bits_of,
    magnitude,
    number,
    polynomial,
    power_of_two,
    whole,
    with_sign,
)

LOG2_E: Final = 1.4426950408889634
# ln 2 in two parts; whole numbers up to 2**13 times the first are exact, without FMA as well.
LN2_HIGH, LN2_LOW = 0.693359375, -2.1219444005469057e-4
# exp(r) for |r| <= ln 2 / 2: error 3.1e-9, relative.
EXP: Final = (
    1.0,
    1.0,
    0.4999999403953552,
    0.1666652113199234,
    0.04166826233267784,
    0.008368671871721745,
    0.0013820999301970005,
)
# exp(r) for |r| <= ln 2 / 2, for what is rounded to bfloat16 next: error 7.5e-5, relative.
COARSE_EXP: Final = (0.9999279379844666, 1.00016450881958, 0.5049682259559631, 0.16566742956638336)
# (expm1(r) - r) / r^2 for |r| <= ln 2 / 2: error of expm1 1.4e-8, relative.
EXPM1: Final = (
    0.4999999701976776,
    0.1666654646396637,
    0.04166743904352188,
    0.008366256020963192,
    0.0013870319817215204,
)
# (tanh(x) - x) / x^3 in powers of x^2 for |x| <= 0.625: error of tanh 4.5e-9, relative.
TANH: Final = (
    -0.3333328068256378,
    0.1333140879869461,
    -0.053737059235572815,
    0.020630862563848495,
    -0.005696253385394812,
)
TANH_EDGE: Final = 0.625
LEAST, LARGEST = -104.0, 89.0  # beyond, exp is 0 and infinity
LEAST_NORMAL: Final = -87.33654
ROUNDER: Final = 12582912.0  # 1.5 * 2**23: adding it rounds to a whole number, in the low bits


def exp(
    f: Builder, x: Value, *, bounded: tuple[bool, bool] = (False, False), flush: bool = False
) -> Value:
    """Return e ** x, within 1 ulp.

    Args:
        f: The function under construction.
        x: float32.
        bounded: Whether x is known to be not below -104 (-87 with `flush`), and not above 89.
        flush: Whether results below the normal numbers may be anything that small.
    """
    if not bounded[0]:
        x = at_least(f, LEAST_NORMAL if flush else LEAST, x)
    if not bounded[1]:
        x = at_most(f, LARGEST, x)
    shifted, n, r = _reduced(f, x)
    return _scaled(f, polynomial(f, r, EXP), shifted, n, flush)


def _reduced(f: Builder, x: Value) -> tuple[Value, Value, Value]:
    """Return n + `ROUNDER`, n and r such that x = n ln 2 + r."""
    rounder = number(f, x, ROUNDER)
    shifted = f.fma(x, number(f, x, LOG2_E), rounder)
    n = f.b.fsub(shifted, rounder)
    r = f.fma(n, number(f, x, -LN2_HIGH), x)
    return shifted, n, f.fma(n, number(f, x, -LN2_LOW), r)


def _exponent(f: Builder, shifted: Value) -> Value:
    """Return n as integers."""
    return f.b.sub(bits_of(f, shifted), whole(f, 0x4B400000, shifted))


def _scaled(f: Builder, p: Value, shifted: Value, n: Value, flush: bool) -> Value:
    """Return p * 2 ** n, rounded once where that is below the normal numbers."""
    if f.target.isa == "avx512" and lanes_of(p) == 16:
        scale = f.intrinsic(
            "llvm.x86.avx512.mask.scalef.ps.512", p.type, [p.type, p.type, p.type, I16, I32]
        )
        return f.b.call(scale, [p, n, p, I16(-1), I32(4)])  # all lanes, rounding as it is set
    exponent = _exponent(f, shifted)
    # In two steps, for 2 ** 128 and 2 ** -150 are no float32; the first is exact.
    half = f.b.ashr(exponent, whole(f, 1, exponent))
    first = f.b.fmul(p, power_of_two(f, half))
    return f.b.fmul(first, power_of_two(f, f.b.sub(exponent, half)))


def expm1(f: Builder, x: Value) -> Value:
    """Return e ** x - 1, within 2 ulp."""
    clamped = at_most(f, LARGEST, at_least(f, -20.0, x))
    shifted, _, r = _reduced(f, clamped)
    p = f.fma(f.b.fmul(r, r), polynomial(f, r, EXPM1), r)  # expm1(r)
    half = power_of_two(f, _exponent(f, shifted), 126)  # of 2 ** n, which may be 2 ** 128
    y = f.fma(p, half, f.b.fsub(half, number(f, x, 0.5)))
    is_tiny = f.b.fcmp_ordered("<", magnitude(f, x), number(f, x, 2.0**-25))
    return f.b.select(is_tiny, x, f.b.fadd(y, y))


def sigmoid(f: Builder, x: Value) -> Value:
    """Return 1 / (1 + e ** -x), within 2.5 ulp, denormal results too."""
    e = exp(f, f.b.fneg(magnitude(f, x)), bounded=(False, True))
    one = number(f, x, 1.0)
    is_negative = f.b.fcmp_ordered("<", x, number(f, x, 0.0))
    return f.b.fdiv(f.b.select(is_negative, e, one), f.b.fadd(one, e))


def coarse_sigmoid(f: Builder, x: Value) -> Value:
    """Return 1 / (1 + e ** -x) within 1.5e-4 of itself, or 1e-37; as `sigmoid` where there is no
    instruction for that.
    """
    if f.target.isa != "avx512" or lanes_of(x) != 16:
        return sigmoid(f, x)
    # Above 89 e ** -x is infinite, and its inverse 0: a large negative x times that is 0, too.
    y = at_most(f, 90.0, at_least(f, -90.0, f.b.fneg(x)))
    rounder = number(f, x, ROUNDER)
    shifted = f.fma(y, number(f, x, LOG2_E), rounder)
    n = f.b.fsub(shifted, rounder)
    r = f.fma(n, number(f, x, -(LN2_HIGH + LN2_LOW)), y)
    e = _scaled(f, polynomial(f, r, COARSE_EXP), shifted, n, True)
    inverse = f.intrinsic("llvm.x86.avx512.rcp14.ps.512", x.type, [x.type, x.type, I16])
    total = f.b.fadd(number(f, x, 1.0), e)
    return f.b.call(inverse, [total, total, I16(-1)])


def tanh(f: Builder, x: Value) -> Value:
    """Return the hyperbolic tangent, within 2 ulp."""
    a, one = magnitude(f, x), number(f, x, 1.0)
    square = f.b.fmul(x, x)
    small = f.fma(f.b.fmul(square, polynomial(f, square, TANH)), x, x)
    e = exp(f, f.b.fmul(a, number(f, x, -2.0)), bounded=(False, True), flush=True)
    large = f.b.fdiv(f.b.fsub(one, e), f.b.fadd(one, e))
    is_small = f.b.fcmp_ordered("<", a, number(f, x, TANH_EDGE))
    return with_sign(f, f.b.select(is_small, small, large), x)  # of zero, too
