"""The error function, and Gelu, which needs it."""

from __future__ import annotations

from typing import Final

from engine.cpu.builder import Builder, Value
from engine.cpu.vmath.exponential import exp
from engine.cpu.vmath.parts import (
    at_least,
    at_most,
    magnitude,
    number,
    polynomial,
    with_sign,
)
from engine.ir.array_functions import ERF_EDGE, ERF_P, ERF_Q

# erf(x) / x - 1 in powers of x^2 for |x| <= 1: error of erf 1.5e-9, relative.
NEAR: Final = (
    0.12837916612625122,
    -0.3761262595653534,
    0.11283578723669052,
    -0.026853347197175026,
    0.005187162198126316,
    -0.0007997853099368513,
    7.806903886375949e-05,
)
# -log(1 - erf(x)) for x in [1, 3.95]: error of erf 1.1e-9.
FAR: Final = (
    0.00034152233274653554,
    1.1270891427993774,
    0.6381450295448303,
    0.10310644656419754,
    -0.021837832406163216,
    0.0029475742485374212,
    -0.00018636738241184503,
)
HALF_ROOT: Final = 0.7071067811865476  # 1 / sqrt(2)
# erf(x / sqrt(2)) = x P(x^2) / Q(x^2): the engine's quotient for erf, in terms of Gelu's argument.
GELU_P: Final = tuple(c * HALF_ROOT * 0.5**i for i, c in enumerate(reversed(ERF_P)))
GELU_Q: Final = tuple(c * 0.5**i for i, c in enumerate(reversed(ERF_Q)))
GELU_EDGE: Final = ERF_EDGE / HALF_ROOT


def erf(f: Builder, x: Value) -> Value:
    """Return the error function, within 2 ulp."""
    a = magnitude(f, x)
    near = f.fma(x, polynomial(f, f.b.fmul(x, x), NEAR), x)
    clamped = at_most(f, 3.95, a)
    e = exp(f, f.b.fneg(polynomial(f, clamped, FAR)), bounded=(True, True), flush=True)
    far = with_sign(f, f.b.fsub(number(f, x, 1.0), e), x)
    return f.b.select(f.b.fcmp_ordered("<", a, number(f, x, 1.0)), near, far)


def gelu(f: Builder, x: Value) -> Value:
    """Return x / 2 * (1 + erf(x / sqrt(2))), as far off as float32 makes this formula."""
    clamped = at_most(f, GELU_EDGE, at_least(f, -GELU_EDGE, x))
    square = f.b.fmul(clamped, clamped)
    quotient = f.b.fdiv(polynomial(f, square, GELU_P), polynomial(f, square, GELU_Q))
    share = f.fma(clamped, quotient, number(f, x, 1.0))
    # Exactly nothing far below, where x is large.
    is_far = f.b.fcmp_ordered("<", x, number(f, x, -GELU_EDGE))
    share = f.b.select(is_far, number(f, x, 0.0), share)
    return f.b.fmul(f.b.fmul(x, number(f, x, 0.5)), share)
