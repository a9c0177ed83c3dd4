"""Shapes of float32 expressions that have a sequence of their own, as accurate and cheaper.

A pattern looks at one node of an expression and returns what it computes from and how it is
written, or None. Constants are compared with a tolerance: models hold them as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from engine.cpu import vmath
from engine.cpu.builder import Builder, Value
from engine.cpu.vmath.parts import number
from engine.dtypes import DType
from engine.ir.expr import Expr

Write = Callable[[Builder, Expr, Sequence[Value]], Value]
Found = tuple[tuple[Expr, ...], Write] | None
TOLERANCE: Final = 1e-6


def find_pattern(node: Expr) -> Found:
    """Return the operands and the code of a node that has a sequence of its own, or None."""
    if node.dtype is not DType.FLOAT32:
        return None
    for pattern in PATTERNS.get(node.op, ()):
        found = pattern(node)
        if found is not None:
            return found
    return None


def find_exact_pattern(node: Expr) -> Found:
    """Return the same for a node that must have the reference's bits."""
    if node.dtype is not DType.FLOAT32:
        return None
    return _held_integer(node) if node.op == "cast" else None


def find_coarse_pattern(node: Expr) -> Found:
    """Return the same for a node whose value is rounded to bfloat16: x * sigmoid(z)."""
    if node.dtype is not DType.FLOAT32 or node.op != "mul":
        return None
    for x, factor in (node.args, node.args[::-1]):
        z = _sigmoid_argument(factor)
        if z is not None:
            return (x, z), _times_coarse_sigmoid
    return None


def _times_coarse_sigmoid(f: Builder, _: Expr, values: Sequence[Value]) -> Value:
    return f.b.fmul(values[0], vmath.coarse_sigmoid(f, values[1]))


def _sigmoid(node: Expr) -> Found:
    """1 / (1 + exp(-x))."""
    x = _sigmoid_argument(node)
    return None if x is None else ((x,), lambda f, _, values: vmath.sigmoid(f, values[0]))


def _sigmoid_argument(node: Expr) -> Expr | None:
    if node.op != "div" or not _is(node.args[0], 1.0):
        return None
    inner = _beside(node.args[1], "add", 1.0)
    if inner is None or inner.op != "exp" or inner.args[0].op != "neg":
        return None
    return inner.args[0].args[0]


def _gelu(node: Expr) -> Found:
    """(x * 0.5) * (1 + erf(x / sqrt(2))), factors in either order."""
    for half, rest in (node.args, node.args[::-1]):
        x = _beside(half, "mul", 0.5)
        inner = _beside(rest, "add", 1.0)
        if x is None or inner is None:
            continue
        if inner.op == "erf" and _beside(inner.args[0], "mul", math.sqrt(0.5)) is x:
            return (x,), lambda f, _, values: vmath.gelu(f, values[0])
        if inner.op == "tanh":
            return (x, inner.args[0]), _gelu_by_tanh
    return None


def _gelu_by_tanh(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
    """x / 2 * (1 + tanh(z)) is x * sigmoid(2 z)."""
    x, z = values
    return f.b.fmul(x, vmath.sigmoid(f, f.b.fadd(z, z)))


def _scaled_shift(node: Expr) -> Found:
    """x / c + d within bounds, the heart of HardSwish: one multiplication and addition.

    Only under a bound, where a last digit decides nothing: `floor(x / 49)` needs the division.
    """
    bound, inner = node.args[1], node.args[0]
    if bound.op != "const" or inner.op != "add" or inner.args[1].op != "const":
        return None
    quotient = inner.args[0]
    if quotient.op != "div" or quotient.args[1].op != "const" or not quotient.args[1].payload:
        return None
    factor, summand = 1.0 / float(quotient.args[1].payload), float(inner.args[1].payload or 0.0)

    def write(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
        x, limit = values
        y = f.fma(x, number(f, x, factor), number(f, x, summand))
        return (vmath.maximum if node.op == "max" else vmath.minimum)(f, y, limit)

    return (quotient.args[0], bound), write


def _tanh_of_softplus(node: Expr) -> Found:
    """tanh(log(1 + exp(x))), the heart of Mish: n / (n + 2) with n = e (e + 2) and e = exp(x)."""
    total = node.args[0]
    if total.op != "add" or total.args[0].op != "max" or total.args[1].op != "log1p":
        return None
    x, bound = total.args[0].args
    small = total.args[1].args[0]
    if not (bound.op == "const" and bound.payload == 0 and small.op == "exp"):
        return None
    negative = small.args[0]
    if negative.op != "neg" or negative.args[0].op != "abs" or negative.args[0].args[0] is not x:
        return None
    return (x,), _write_tanh_of_softplus


def _write_tanh_of_softplus(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
    (x,) = values
    # Above 20 the quotient is 1, and squares would overflow.
    exponential = vmath.exp(f, vmath.minimum(f, x, number(f, x, 20.0)), bounded=(False, True))
    two = number(f, x, 2.0)
    product = f.b.fmul(exponential, f.b.fadd(exponential, two))
    return f.b.fdiv(product, f.b.fadd(product, two))


def _root(node: Expr) -> Found:
    """x ** 0.5 for all but what the square root itself has differently: -0 and -infinity."""
    if not _is(node.args[1], 0.5):
        return None
    return (node.args[0],), _write_root


def _write_root(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
    (x,) = values
    root = f.call_intrinsic("sqrt", f.b.fadd(x, number(f, x, 0.0)))
    is_lowest = f.b.fcmp_ordered("==", x, number(f, x, -math.inf))
    return f.b.select(is_lowest, number(f, x, math.inf), root)


def _inverse(node: Expr) -> Found:
    """x ** -1."""
    if not _is(node.args[1], -1.0):
        return None
    return (node.args[0],), lambda f, _, v: f.b.fdiv(number(f, v[0], 1.0), v[0])


def _held_integer(node: Expr) -> Found:
    """A float held to an integer type's range, cast to that type and back: its whole part.

    What quantizes a value and goes on with it writes so; `select`, unlike `clip`, leaves no NaN.
    """
    inner = node.args[0]
    if inner.op != "cast" or inner.dtype.is_float or not 8 <= inner.dtype.bits <= 16:
        return None
    held = inner.args[0]
    low, high = _bounds(held)
    least = -(1 << (inner.dtype.bits - 1)) if inner.dtype.is_signed else 0
    if low is None or high is None or low < least or high >= least + (1 << inner.dtype.bits):
        return None
    return (held,), lambda f, _, values: f.call_intrinsic("trunc", values[0])


def _bounds(held: Expr) -> tuple[float | None, float | None]:
    """Return the bounds that two selections hold a float32 to, the upper one outermost."""
    if held.dtype is not DType.FLOAT32 or held.op != "select":
        return None, None
    below, x, high = held.args
    if below.op != "lt" or below.args != (x, high) or high.op != "const" or x.op != "select":
        return None, None
    above, y, low = x.args
    if above.op != "lt" or above.args != (low, y) or low.op != "const":
        return None, None
    return float(low.payload or 0), float(high.payload or 0)


PATTERNS: Final[dict[str, tuple[Callable[[Expr], Found], ...]]] = {
    "cast": (_held_integer,),
    "div": (_sigmoid,),
    "mul": (_gelu,),
    "max": (_scaled_shift,),
    "tanh": (_tanh_of_softplus,),
    "pow": (_root, _inverse),
}


def _is(node: Expr, value: float) -> bool:
    if node.op != "const" or node.payload is None:
        return False
    return math.isclose(float(node.payload), value, rel_tol=TOLERANCE)


def _beside(node: Expr, op: str, value: float) -> Expr | None:
    """Return the other operand of a sum or product with a number."""
    if node.op != op:
        return None
    x, y = node.args
    if _is(y, value):
        return x
    return y if _is(x, value) else None
