"""Casts between element types, in registers."""

from __future__ import annotations

import llvmlite.ir as ir

from engine.cpu.builder import F32, F64, I32, I64, REGISTER, Builder, Value, lanes_of, vector
from engine.dtypes import DType


def emit_cast(f: Builder, x: Value, source: DType, target: DType) -> Value:
    """Return x in another type: the meaning is that of `engine.ir.expr`."""
    if source is target:
        return x
    if target is DType.BOOL:
        return is_not_zero(f, x, source)
    if source.is_float:
        return _to_float(f, x, source, target) if target.is_float else _to_integer(f, x, target)
    kind = vector(REGISTER[target], lanes_of(x))
    signed = source.is_signed and source is not DType.BOOL
    if target.is_float:
        y = f.b.sitofp(x, kind) if signed else f.b.uitofp(x, kind)
        return _rounded(f, y, target)
    return _resized(f, x, kind, signed)


def is_not_zero(f: Builder, x: Value, dtype: DType) -> Value:
    """Return whether x is not zero; NaN is not."""
    zero = ir.Constant(x.type, None)
    if dtype.is_float:
        return f.b.fcmp_unordered("!=", x, zero)
    return x if dtype is DType.BOOL else f.b.icmp_unsigned("!=", x, zero)


def _to_float(f: Builder, x: Value, source: DType, target: DType) -> Value:
    lanes = lanes_of(x)
    if target is DType.FLOAT64:
        return f.b.fpext(x, vector(F64, lanes))
    if source is not DType.FLOAT64:
        return _rounded(f, x, target)
    if target is DType.FLOAT32:
        return f.b.fptrunc(x, vector(F32, lanes))
    return _rounded(f, _to_odd(f, x), target)


def _rounded(f: Builder, x: Value, target: DType) -> Value:
    """Return float32 with no more digits than a narrow type has."""
    return f.widen(f.narrow(x, target), target) if target.is_narrow_float else x


def _to_odd(f: Builder, x: Value) -> Value:
    """Return float64 as float32, the last digit odd where any was lost.

    Rounding that again, to a narrower type, gives what rounding once would have
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    b, lanes = f.b, lanes_of(x)
    near = b.fptrunc(x, vector(F32, lanes))
    back = b.fpext(near, x.type)
    bits = b.bitcast(near, vector(I32, lanes))
    one = f.integers(1, lanes)
    too_large = b.fcmp_ordered(">", f.call_intrinsic("fabs", back), f.call_intrinsic("fabs", x))
    odd = b.or_(b.select(too_large, b.sub(bits, one), bits), one)
    inexact = b.fcmp_ordered("!=", back, x)
    return b.bitcast(b.select(inexact, odd, bits), near.type)


def _to_integer(f: Builder, x: Value, target: DType) -> Value:
    """Truncate toward zero; small types wrap, as numpy's do, for they go through wider ones."""
    lanes = lanes_of(x)
    if target is DType.UINT64:
        return f.b.fptoui(x, vector(I64, lanes))
    wide = I64 if target.bits > 32 or target is DType.UINT32 else I32
    y = f.b.fptosi(x, vector(wide, lanes))
    return _resized(f, y, vector(REGISTER[target], lanes), True)


def _resized(f: Builder, x: Value, kind: ir.Type, signed: bool) -> Value:
    before = x.type.element.width if isinstance(x.type, ir.VectorType) else x.type.width
    after = kind.element.width if isinstance(kind, ir.VectorType) else kind.width
    if before == after:
        return x
    if before > after:
        return f.b.trunc(x, kind)
    return f.b.sext(x, kind) if signed else f.b.zext(x, kind)
