"""Elementwise operators: each is one expression (see `engine.ops.define`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from engine.dtypes import (
    ALL,
    BOOLS,
    FLOAT8S,
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED_INTEGERS,
    DType,
)
from engine.ir import expr as e
from engine.ir.expr import Expr, clip, maximum, minimum, select
from engine.ops.define import elementwise

SIGNED = FLOATS | SIGNED_INTEGERS
UnaryFunction = Callable[[Expr], Expr]

# ---------------------------------------------------------------------- one function of one input


def _function(name: str, since: int | tuple[int, ...], function: UnaryFunction) -> None:
    """Register an operator that is one function of floating-point numbers."""

    @elementwise(name, since, types=FLOATS)
    def unary(x: Expr) -> Expr:
        return function(x)


_function("Exp", (1, 6, 13), e.exp)
_function("Log", (1, 6, 13), e.log)
_function("Sqrt", (1, 6, 13), e.sqrt)
_function("Erf", (9, 13), e.erf)
_function("Sigmoid", (1, 6, 13), e.sigmoid)
_function("Sin", (7, 22), e.sin)
_function("Cos", (7, 22), e.cos)
_function("Tan", (7, 22), e.tan)
_function("Asin", (7, 22), e.asin)
_function("Acos", (7, 22), e.acos)
_function("Atan", (7, 22), e.atan)
_function("Sinh", (9, 22), e.sinh)
_function("Cosh", (9, 22), e.cosh)
_function("Tanh", (1, 6, 13), e.tanh)
_function("Asinh", (9, 22), e.asinh)
_function("Acosh", (9, 22), e.acosh)
_function("Atanh", (9, 22), e.atanh)
_function("Ceil", (1, 6, 13), e.ceil)
_function("Floor", (1, 6, 13), e.floor)
_function("Round", (11, 22), e.round_even)


@elementwise("Abs", since=(1, 6, 13), types=NUMBERS)
def absolute(x: Expr) -> Expr:
    """Magnitude."""
    return e.absolute(x)


@elementwise("Neg", since=(1, 6, 13), types=SIGNED)
def negative(x: Expr) -> Expr:
    """-x."""
    return -x


@elementwise("Sign", since=(9, 13), types=NUMBERS)
def sign(x: Expr) -> Expr:
    """-1, 0 or 1."""
    return e.sign(x)


@elementwise("Reciprocal", since=(1, 6, 13), types=FLOATS)
def reciprocal(x: Expr) -> Expr:
    """1 / x."""
    return 1 / x


@elementwise("IsNaN", since=(9, 13, 20), types=FLOATS | FLOAT8S)
def is_nan(x: Expr) -> Expr:
    """Whether x is NaN."""
    return e.is_nan(x)


@elementwise("IsInf", since=(10, 20), types=FLOATS | FLOAT8S)
def is_inf(x: Expr, *, detect_negative: int = 1, detect_positive: int = 1) -> Expr:
    """Whether x is an infinity of a sign that is asked for."""
    found = e.is_inf(x)
    if not detect_positive:
        found = e.logical_and(found, x < 0)
    return found if detect_negative else e.logical_and(found, x > 0)


@elementwise("Not", since=1, types=BOOLS)
def logical_not(x: Expr) -> Expr:
    """Whether x does not hold."""
    return e.logical_not(x)


@elementwise("BitwiseNot", since=18, types=INTEGERS)
def bitwise_not(x: Expr) -> Expr:
    """Every bit flipped."""
    return e.bit_not(x)


# ---------------------------------------------------------------------- activations


@elementwise("Relu", since=(1, 6, 13, 14), types=SIGNED)
def relu(x: Expr) -> Expr:
    """x, or 0 where it is negative."""
    return maximum(x, 0)


@elementwise("LeakyRelu", since=(1, 6, 16), types=FLOATS)
def leaky_relu(x: Expr, *, alpha: float = 0.01) -> Expr:
    """x, scaled by `alpha` where it is negative."""
    return select(x < 0, x * alpha, x)


@elementwise("PRelu", since=(1, 6, 7, 9, 16), types=NUMBERS, legacy_axis=1)
def prelu(x: Expr, slope: Expr) -> Expr:
    """x, scaled by `slope` where it is negative."""
    return select(x < 0, x * slope, x)


@elementwise("ThresholdedRelu", since=(10, 22), types=FLOATS)
def thresholded_relu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x where it is above `alpha`, else 0."""
    return select(x > alpha, x, 0)


@elementwise("Elu", since=(1, 6, 22), types=FLOATS)
def elu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x, or alpha * (exp(x) - 1) where it is negative."""
    return select(x < 0, e.expm1(x) * alpha, x)


@elementwise("Celu", since=12, types=FLOATS)
def celu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return maximum(x, 0) + minimum(e.expm1(x / alpha) * alpha, 0)


@elementwise("Selu", since=1, until=6, types=FLOATS)
def selu_1(x: Expr, *, alpha: float = 1.6732, gamma: float = 1.0507) -> Expr:
    """Self-normalising unit with the shorter constants of opset 1."""
    return selu(x, alpha=alpha, gamma=gamma)


@elementwise("Selu", since=(6, 22), types=FLOATS)
def selu(
    x: Expr, *, alpha: float = 1.67326319217681884, gamma: float = 1.05070102214813232
) -> Expr:
    """gamma * x, or gamma * alpha * (exp(x) - 1) where x is not positive."""
    return select(x > 0, x, e.expm1(x) * alpha) * gamma


@elementwise("Gelu", since=20, types=FLOATS)
def gelu(x: Expr, *, approximate: str = "none") -> Expr:
    """x * P(X <= x) for a standard normal X, exactly or by its tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * 0.7978845608028654  # sqrt(2 / pi)
        return x * 0.5 * (1 + e.tanh(inner))
    return x * 0.5 * (1 + e.erf(x * 0.7071067811865476))


@elementwise("Mish", since=(18, 22), types=FLOATS)
def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x))."""
    return x * e.tanh(softplus(x))


@elementwise("Swish", since=24, types=FLOATS)
def swish(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x * sigmoid(alpha * x)."""
    return x * e.sigmoid(x * alpha)


@elementwise("HardSigmoid", since=(1, 6, 22), types=FLOATS)
def hard_sigmoid(x: Expr, *, alpha: float = 0.2, beta: float = 0.5) -> Expr:
    """alpha * x + beta, within [0, 1]."""
    return clip(x * alpha + beta, 0, 1)


@elementwise("HardSwish", since=(14, 22), types=FLOATS)
def hard_swish(x: Expr) -> Expr:
    """x * (x / 6 + 1/2, within [0, 1])."""
    return x * clip(x / 6 + 0.5, 0, 1)


@elementwise("Softplus", since=(1, 22), types=FLOATS)
def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), written so that exp cannot overflow."""
    return maximum(x, 0) + e.log1p(e.exp(-e.absolute(x)))


@elementwise("Softsign", since=(1, 22), types=FLOATS)
def softsign(x: Expr) -> Expr:
    """x / (1 + |x|)."""
    return x / (1 + e.absolute(x))


@elementwise("Shrink", since=9, types=NUMBERS)
def shrink(x: Expr, *, lambd: float = 0.5, bias: float = 0.0) -> Expr:
    """x moved toward 0 by `bias` where it is beyond `lambd` on either side, else 0."""
    y = x if x.dtype.is_float else e.cast(x, DType.FLOAT64)
    moved = select(y < -lambd, y + bias, select(y > lambd, y - bias, 0))
    return e.cast(moved, x.dtype)


@elementwise("Clip", since=(1, 6), until=11, types=FLOATS)
def clip_6(
    x: Expr, *, min: float = -3.4028234663852886e38, max: float = 3.4028234663852886e38
) -> Expr:
    """x within bounds stated as attributes."""
    return clip(x, min, max)


@elementwise("Clip", since=(11, 12, 13), types=NUMBERS)
def clip_11(x: Expr, min: Expr | None = None, max: Expr | None = None) -> Expr:
    """x within [min, max]; an absent bound is open, and `max` wins over `min`."""
    return clip(x, min, max)


# ---------------------------------------------------------------------- arithmetic


@elementwise("Add", since=(1, 6, 7, 13, 14), types=NUMBERS)
def add(a: Expr, b: Expr) -> Expr:
    """a + b."""
    return a + b


@elementwise("Sub", since=(1, 6, 7, 13, 14), types=NUMBERS)
def subtract(a: Expr, b: Expr) -> Expr:
    """a - b."""
    return a - b


@elementwise("Mul", since=(1, 6, 7, 13, 14), types=NUMBERS)
def multiply(a: Expr, b: Expr) -> Expr:
    """a * b."""
    return a * b


@elementwise("Div", since=(1, 6, 7, 13, 14), types=NUMBERS)
def divide(a: Expr, b: Expr) -> Expr:
    """a / b; integers truncate toward zero."""
    return a / b


@elementwise("Mod", since=(10, 13), types=NUMBERS)
def modulo(a: Expr, b: Expr, *, fmod: int = 0) -> Expr:
    """Remainder with the sign of b, or with the sign of a when `fmod` is set."""
    return e.fmod(a, b) if fmod else e.remainder(a, b)


@elementwise("Pow", since=(1, 7, 12, 13, 15), types=NUMBERS, inputs={"y": NUMBERS})
def power(x: Expr, y: Expr) -> Expr:
    """x to the power of y, in the type of x. Integers wrap; fractions truncate."""
    if x.dtype.is_float:
        return _simple_power(x, e.cast(y, x.dtype))
    real = e.cast(e.power(e.cast(x, DType.FLOAT64), e.cast(y, DType.FLOAT64)), x.dtype)
    if not y.dtype.is_integer:
        return real
    exponent = e.cast(y, DType.INT64)
    whole = e.cast(e.power(e.cast(x, DType.INT64), maximum(exponent, 0)), x.dtype)
    return select(exponent < 0, real, whole)


def _simple_power(x: Expr, y: Expr) -> Expr:
    """Write the powers that models use most without a general power function."""
    exponent = y.args[0].payload if y.op == "cast" and y.args[0].op == "const" else y.payload
    if "const" in (y.op, *(a.op for a in y.args)):
        if exponent == 2:
            return x * x
        if exponent == 3:
            return x * x * x
        if exponent == 1:
            return x
    return e.power(x, y)


@elementwise("Max", since=(1, 6, 8, 12, 13), types=NUMBERS)
def maximum_of(*xs: Expr) -> Expr:
    """The largest of any number of inputs."""
    return reduce(maximum, xs)


@elementwise("Min", since=(1, 6, 8, 12, 13), types=NUMBERS)
def minimum_of(*xs: Expr) -> Expr:
    """The smallest of any number of inputs."""
    return reduce(minimum, xs)


@elementwise("Sum", since=(1, 6, 8, 13), types=FLOATS)
def sum_of(*xs: Expr) -> Expr:
    """The sum of any number of inputs."""
    return reduce(Expr.__add__, xs)


@elementwise("Mean", since=(1, 6, 8, 13), types=FLOATS)
def mean_of(*xs: Expr) -> Expr:
    """The mean of any number of inputs."""
    return reduce(Expr.__add__, xs) / len(xs)


# ---------------------------------------------------------------------- comparisons and logic


@elementwise("Equal", since=(1, 7, 11, 13, 19), types=ALL)
def equal(a: Expr, b: Expr) -> Expr:
    """Whether a equals b."""
    return e.equal(a, b)


@elementwise("Greater", since=(1, 7, 9, 13), types=NUMBERS)
def greater(a: Expr, b: Expr) -> Expr:
    """Whether a > b."""
    return a > b


@elementwise("GreaterOrEqual", since=(12, 16), types=NUMBERS)
def greater_or_equal(a: Expr, b: Expr) -> Expr:
    """Whether a >= b."""
    return a >= b


@elementwise("Less", since=(1, 7, 9, 13), types=NUMBERS)
def less(a: Expr, b: Expr) -> Expr:
    """Whether a < b."""
    return a < b


@elementwise("LessOrEqual", since=(12, 16), types=NUMBERS)
def less_or_equal(a: Expr, b: Expr) -> Expr:
    """Whether a <= b."""
    return a <= b


@elementwise("And", since=(1, 7), types=BOOLS)
def logical_and(a: Expr, b: Expr) -> Expr:
    """Whether both hold."""
    return e.logical_and(a, b)


@elementwise("Or", since=(1, 7), types=BOOLS)
def logical_or(a: Expr, b: Expr) -> Expr:
    """Whether at least one holds."""
    return e.logical_or(a, b)


@elementwise("Xor", since=(1, 7), types=BOOLS)
def logical_xor(a: Expr, b: Expr) -> Expr:
    """Whether exactly one holds."""
    return e.logical_xor(a, b)


@elementwise("BitwiseAnd", since=18, types=INTEGERS)
def bitwise_and(a: Expr, b: Expr) -> Expr:
    """Bitwise and."""
    return e.bit_and(a, b)


@elementwise("BitwiseOr", since=18, types=INTEGERS)
def bitwise_or(a: Expr, b: Expr) -> Expr:
    """Bitwise or."""
    return e.bit_or(a, b)


@elementwise("BitwiseXor", since=18, types=INTEGERS)
def bitwise_xor(a: Expr, b: Expr) -> Expr:
    """Bitwise exclusive or."""
    return e.bit_xor(a, b)


# Signed types came with opset 28; earlier files cannot have meant anything else by them.
@elementwise("BitShift", since=(11, 28), types=INTEGERS)
def bit_shift(x: Expr, y: Expr, *, direction: str) -> Expr:
    """x with its bits moved by y to the "LEFT" or the "RIGHT", where the sign fills in."""
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction is {direction!r}, expected 'LEFT' or 'RIGHT'")
    return e.shift_left(x, y) if direction == "LEFT" else e.shift_right(x, y)


@elementwise("Where", since=(9, 16), types=ALL, inputs={"condition": BOOLS})
def where(condition: Expr, x: Expr, y: Expr) -> Expr:
    """x where the condition holds, else y."""
    return select(condition, x, y)
