"""The primitives of expressions, one function each: (builder, type of the operands, registers)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import Builder, Value, lanes_of
from engine.cpu.vmath.parts import magnitude, number
from engine.dtypes import DType

Operation = Callable[..., Value]
OPERATIONS: Final[dict[str, Operation]] = {}


def _operation(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register


# ---------------------------------------------------------------------- functions of floats


def _vector_function(name: str, function: Callable[[Builder, Value], Value]) -> None:
    """float32 has a vector form; float64 goes through the C library."""

    @_operation(name)
    def apply(f: Builder, dtype: DType, x: Value) -> Value:
        return function(f, x) if dtype is DType.FLOAT32 else vmath.call_libm(f, name, x)


for _name, _function in {
    "exp": vmath.exp,
    "expm1": vmath.expm1,
    "log": vmath.log,
    "log1p": vmath.log1p,
    "erf": vmath.erf,
    "tanh": vmath.tanh,
    "sin": vmath.sin,
    "cos": vmath.cos,
}.items():
    _vector_function(_name, _function)


def _libm_function(name: str) -> None:
    @_operation(name)
    def apply(f: Builder, dtype: DType, x: Value) -> Value:
        return vmath.call_libm(f, name, x)


for _name in ("tan", "asin", "acos", "atan", "sinh", "cosh"):
    _libm_function(_name)
for _name in ("asinh", "acosh", "atanh"):
    _libm_function(_name)


def _intrinsic(name: str, intrinsic: str) -> None:
    @_operation(name)
    def apply(f: Builder, dtype: DType, x: Value) -> Value:
        return f.call_intrinsic(intrinsic, x)


for _name, _llvm in {
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "roundeven",
}.items():
    _intrinsic(_name, _llvm)


@_operation("isnan")
def _isnan(f: Builder, dtype: DType, x: Value) -> Value:
    return f.b.fcmp_unordered("uno", x, x)


@_operation("isinf")
def _isinf(f: Builder, dtype: DType, x: Value) -> Value:
    return f.b.fcmp_ordered("==", magnitude(f, x), number(f, x, math.inf))


# ---------------------------------------------------------------------- sign and size


@_operation("neg")
def _neg(f: Builder, dtype: DType, x: Value) -> Value:
    return f.b.fneg(x) if dtype.is_float else f.b.neg(x)


@_operation("abs")
def _abs(f: Builder, dtype: DType, x: Value) -> Value:
    if dtype.is_float:
        return magnitude(f, x)
    if not dtype.is_signed:
        return x
    return f.b.select(f.b.icmp_signed("<", x, _zero(x)), f.b.neg(x), x)


@_operation("sign")
def _sign(f: Builder, dtype: DType, x: Value) -> Value:
    b, zero = f.b, _zero(x)
    if dtype.is_float:
        signed = vmath.parts.with_sign(f, number(f, x, 1.0), x)
        is_other = b.fcmp_unordered("ueq", x, zero)  # zeros of either sign, and NaN
        return b.select(is_other, b.fadd(x, zero), signed)
    above = b.zext(b.icmp_unsigned("!=", x, zero), x.type)
    if not dtype.is_signed:
        return above
    return b.select(b.icmp_signed("<", x, zero), _ones(x), above)


@_operation("min")
def _min(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return vmath.minimum(f, x, y)
    return (
        f.b.and_(x, y) if dtype is DType.BOOL else f.b.select(_compare(f, "<", dtype, x, y), x, y)
    )


@_operation("max")
def _max(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return vmath.maximum(f, x, y)
    return f.b.or_(x, y) if dtype is DType.BOOL else f.b.select(_compare(f, ">", dtype, x, y), x, y)


# ---------------------------------------------------------------------- arithmetic


def _arithmetic(name: str) -> None:
    @_operation(name)
    def apply(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
        found: Any = getattr(f.b, f"f{name}" if dtype.is_float else name)
        return found(x, y)


for _name in ("add", "sub", "mul"):
    _arithmetic(_name)


@_operation("div")
def _div(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return f.b.fdiv(x, y)
    if not dtype.is_signed:
        by_zero = f.b.icmp_unsigned("==", y, _zero(y))
        quotient = f.b.udiv(x, f.b.select(by_zero, _one(y), y))
        return f.b.select(by_zero, _zero(x), quotient)
    quotient, by_zero = _signed_quotient(f, x, y)
    # What the reference gives for a division by zero: 0, and 1 for negative dividends.
    nothing = f.b.zext(f.b.icmp_signed("<", x, _zero(x)), x.type)
    return f.b.select(by_zero, nothing, quotient)


def _signed_quotient(f: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """Return x / y without traps (by -1 the most negative number wraps), and whether y is 0."""
    b = f.b
    by_zero = b.icmp_signed("==", y, _zero(y))
    by_minus_one = b.icmp_signed("==", y, _ones(y))
    safe = b.select(b.or_(by_zero, by_minus_one), _one(y), y)
    quotient = b.sdiv(x, safe)
    return b.select(by_minus_one, b.neg(x), quotient), by_zero


@_operation("fmod")
def _fmod(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return vmath.call_libm(f, "fmod", x, y)
    if dtype.is_signed:
        quotient, by_zero = _signed_quotient(f, x, y)
    else:
        by_zero = f.b.icmp_unsigned("==", y, _zero(y))
        quotient = f.b.udiv(x, f.b.select(by_zero, _one(y), y))
    rest = f.b.sub(x, f.b.mul(quotient, y))
    return f.b.select(by_zero, _zero(x), rest)


@_operation("remainder")
def _remainder(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    b, rest, zero = f.b, _fmod(f, dtype, x, y), _zero(x)
    if dtype.is_float:
        is_zero = b.fcmp_ordered("==", rest, zero)
        differ = b.xor(b.fcmp_ordered("<", rest, zero), b.fcmp_ordered("<", y, zero))
        moved = b.select(differ, b.fadd(rest, y), rest)
        return b.select(is_zero, vmath.parts.with_sign(f, zero, y), moved)
    if not dtype.is_signed:
        return rest
    differ = b.icmp_signed("<", b.xor(rest, y), zero)
    moves = b.and_(differ, b.icmp_signed("!=", rest, zero))
    return b.select(moves, b.add(rest, y), rest)


@_operation("pow")
def _pow(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return vmath.call_libm(f, "pow", x, y)
    return _integer_power(f, x, y)


def _integer_power(f: Builder, x: Value, y: Value) -> Value:
    """Return x ** y by squaring; exponents are taken as unsigned."""
    b = f.b
    width = y.type.element.width if lanes_of(y) > 1 else y.type.width
    with f.loop(0, width, carry=(_one(x), x, y), unroll=False) as turn:
        result, base, left = turn.values
        is_odd = b.icmp_unsigned("!=", b.and_(left, _one(left)), _zero(left))
        turn.next = [
            b.select(is_odd, b.mul(result, base), result),
            b.mul(base, base),
            b.lshr(left, _one(left)),
        ]
    return turn.result[0]


# ---------------------------------------------------------------------- comparisons, logic, bits


def _compare(f: Builder, how: str, dtype: DType, x: Value, y: Value) -> Value:
    if dtype.is_float:
        return (f.b.fcmp_unordered if how == "!=" else f.b.fcmp_ordered)(how, x, y)
    signed = dtype.is_signed and dtype is not DType.BOOL
    return (f.b.icmp_signed if signed else f.b.icmp_unsigned)(how, x, y)


def _comparison(name: str, how: str) -> None:
    @_operation(name)
    def apply(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
        return _compare(f, how, dtype, x, y)


for _name, _how in {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}.items():
    _comparison(_name, _how)


@_operation("and", "bitand")
def _and(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    return f.b.and_(x, y)


@_operation("or", "bitor")
def _or(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    return f.b.or_(x, y)


@_operation("xor", "bitxor")
def _xor(f: Builder, dtype: DType, x: Value, y: Value) -> Value:
    return f.b.xor(x, y)


@_operation("not", "bitnot")
def _not(f: Builder, dtype: DType, x: Value) -> Value:
    return f.b.xor(x, _ones(x))


@_operation("shl")
def _shl(f: Builder, dtype: DType, x: Value, bits: Value) -> Value:
    outside = f.b.icmp_unsigned(">=", bits, _filled(bits, dtype.bits))
    shifted = f.b.shl(x, f.b.select(outside, _zero(bits), bits))
    return f.b.select(outside, _zero(x), shifted)


@_operation("shr")
def _shr(f: Builder, dtype: DType, x: Value, bits: Value) -> Value:
    last = _filled(bits, dtype.bits - 1)
    outside = f.b.icmp_unsigned(">", bits, last)
    capped = f.b.select(outside, last, bits)
    if dtype.is_signed:
        return f.b.ashr(x, capped)
    return f.b.select(outside, _zero(x), f.b.lshr(x, capped))


@_operation("select")
def _select(f: Builder, dtype: DType, condition: Value, x: Value, y: Value) -> Value:
    return f.b.select(condition, x, y)


# ---------------------------------------------------------------------- numbers of any type


def _zero(like: Value) -> Value:
    return ir.Constant(like.type, None)


def _one(like: Value) -> Value:
    return _filled(like, 1)


def _ones(like: Value) -> Value:
    """All bits set: -1, or true."""
    return _filled(like, -1)


def _filled(like: Value, value: int) -> Value:
    lanes = lanes_of(like)
    return ir.Constant(like.type, value if lanes == 1 else [value] * lanes)
