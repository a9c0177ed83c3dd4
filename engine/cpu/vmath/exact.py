"""Functions of float32 computed in float64 and rounded once, to the bits of the reference.

For what is rounded to whole numbers next: there the last digit of a float decides now and then
which way a value goes, and a deep quantized network spreads that. Both sides are correctly rounded
but for rare ties (`engine.ir.array_functions`), so that they agree, on every processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.cpu.builder import F32, F64, I64, Builder, Value, lanes_of, vector
from engine.cpu.vmath.libm import call_libm
from engine.cpu.vmath.parts import (
    at_least,
    at_most,
    magnitude,
    number,
    polynomial,
    with_sign,
)
from engine.ir.array_functions import ERF_EDGE, ERF_P, ERF_Q

LOG2_E: Final = 1.4426950408889634
# ln 2 in two parts; whole numbers up to 2**20 times the first are exact, without FMA as well.
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
# exp(r) for |r| <= ln 2 / 2, minimax: error 7.8e-13, relative.
EXP: Final = (
    0.9999999999997623,
    0.9999999999806229,
    0.5000000000618229,
    0.1666666688544806,
    0.04166666422004397,
    0.00833326703181204,
    0.001388917864520215,
    0.00019915422082354226,
    2.4727215910276947e-05,
)
# tanh(x) / x in powers of x^2, its series for |x| <= 2^-6: error 1e-16, relative.
TANH: Final = (1.0, -1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0)
TANH_EDGE: Final = 0.015625
ROUNDER: Final = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to a whole number
FLOAT32_EDGE: Final = 110.0  # beyond, exp is 0 or infinity in float32


def widened(f: Builder, x: Value) -> Value:
    """Return float32 as float64."""
    return f.b.fpext(x, vector(F64, lanes_of(x)))


def rounded(f: Builder, x: Value) -> Value:
    """Return float64 as the nearest float32."""
    return f.b.fptrunc(x, vector(F32, lanes_of(x)))


def wide_exp(f: Builder, x: Value) -> Value:
    """Return e ** x of float64 in [-700, 700], within 1e-12 of itself; NaN stays NaN."""
    rounder = number(f, x, ROUNDER)
    shifted = f.fma(x, number(f, x, LOG2_E), rounder)
    n = f.b.fsub(shifted, rounder)
    r = f.fma(n, number(f, x, -LN2_HIGH), x)
    r = f.fma(n, number(f, x, -LN2_LOW), r)
    return f.b.fmul(polynomial(f, r, EXP), _power_of_two(f, shifted))


def _power_of_two(f: Builder, shifted: Value) -> Value:
    """Return 2 ** n for n + `ROUNDER`, whose low bits are n's."""
    kind = vector(I64, lanes_of(shifted))
    bits = f.b.bitcast(shifted, kind)
    biased = f.b.add(bits, f.integers(1023, lanes_of(shifted), I64))
    return f.b.bitcast(f.b.shl(biased, f.integers(52, lanes_of(shifted), I64)), shifted.type)


def exp(f: Builder, x: Value) -> Value:
    """Return e ** x."""
    held = at_most(f, FLOAT32_EDGE, at_least(f, -FLOAT32_EDGE, x))
    return rounded(f, wide_exp(f, widened(f, held)))


def tanh(f: Builder, x: Value) -> Value:
    """Return the hyperbolic tangent, within 6e-11 of itself before it is rounded."""
    wide = widened(f, x)
    a, one = magnitude(f, wide), number(f, wide, 1.0)
    square = f.b.fmul(wide, wide)
    small = f.b.fmul(wide, polynomial(f, square, TANH))
    e = wide_exp(f, f.b.fmul(at_most(f, FLOAT32_EDGE, a), number(f, wide, -2.0)))
    large = f.b.fdiv(f.b.fsub(one, e), f.b.fadd(one, e))
    is_small = f.b.fcmp_ordered("<", a, number(f, wide, TANH_EDGE))
    return rounded(f, with_sign(f, f.b.select(is_small, small, large), wide))


def erf(f: Builder, x: Value) -> Value:
    """Return the error function, by the engine's quotient of polynomials."""
    wide = widened(f, x)
    held = at_most(f, ERF_EDGE, at_least(f, -ERF_EDGE, wide))
    square = f.b.fmul(held, held)
    above = f.b.fmul(held, polynomial(f, square, ERF_P[::-1]))
    quotient = f.b.fdiv(above, polynomial(f, square, ERF_Q[::-1]))
    return rounded(f, at_most(f, 1.0, at_least(f, -1.0, quotient)))


def _by_library(name: str) -> Callable[[Builder, Value], Value]:
    def apply(f: Builder, x: Value) -> Value:
        return rounded(f, call_libm(f, name, widened(f, x)))

    return apply


EXACT: Final[dict[str, Callable[[Builder, Value], Value]]] = {
    "exp": exp,
    "tanh": tanh,
    "erf": erf,
    "expm1": _by_library("expm1"),
    "log": _by_library("log"),
    "log1p": _by_library("log1p"),
}
