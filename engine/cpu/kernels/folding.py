"""Sums, products and extremes: of a row of neighbours, and of the lanes of a register."""

from __future__ import annotations

import math
from collections.abc import Callable

import llvmlite.ir as ir

from engine.cpu.builder import I1, I32, REGISTER, Builder, Number, Value, lanes_of, vector
from engine.cpu.expression_operations import OPERATIONS
from engine.cpu.kernels.rows import Part, first_lanes, has_masks
from engine.dtypes import DType

UNROLLED = 4  # vectors of partial results side by side: additions need not wait for each other
PARTIALS = 64  # partial sums at the least: the error of a sum shrinks with their number
Term = Callable[[Part], Value]


def identity(how: str, dtype: DType) -> float | int:
    """Return what combining nothing gives: of "add", "mul", "max" or "min"."""
    if how in ("add", "mul"):
        return int(how == "mul")
    if dtype.is_float:
        return float("-inf") if how == "max" else float("inf")
    if dtype is DType.BOOL:
        return int(how == "min")
    low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    return low if how == "max" else low + (1 << dtype.bits) - 1


def start(f: Builder, how: str, dtype: DType, lanes: int) -> Value:
    """Return a register full of what combining nothing gives."""
    value = identity(how, dtype)
    number: float | int = float(value) if dtype.is_float else value
    kind = vector(REGISTER[dtype], lanes)
    return ir.Constant(kind, number if lanes == 1 else [number] * lanes)


def combine(f: Builder, how: str, dtype: DType, x: Value, y: Value) -> Value:
    """Return two partial results as one."""
    return OPERATIONS[how](f, dtype, x, y)


def is_extreme(how: str, dtype: DType) -> bool:
    """Whether what is no number needs care: comparisons pass over it."""
    return dtype.is_float and how in ("max", "min")


def passing(f: Builder, how: str, dtype: DType, total: Value, x: Value) -> Value:
    """Return a partial result with one term more; extremes pass over what is no number.

    One instruction, where remembering it in the total itself would be a chain of several.
    """
    if not is_extreme(how, dtype):
        return combine(f, how, dtype, total, x)
    wins = f.b.fcmp_ordered(">" if how == "max" else "<", x, total)
    return f.b.select(wins, x, total)


def noted(f: Builder, flag: Value, x: Value) -> Value:
    """Return a flag per lane, set where a term is no number."""
    return f.b.or_(flag, f.b.fcmp_unordered("uno", x, x))


def flagged(f: Builder, flag: Value, total: Value) -> Value:
    """Return the total, NaN where the flag is set."""
    lanes = lanes_of(total)
    nan = ir.Constant(total.type, math.nan if lanes == 1 else [math.nan] * lanes)
    return f.b.select(flag, nan, total)


def no_flag(lanes: int) -> Value:
    """Return a flag per lane, none of them set."""
    return ir.Constant(vector(I1, lanes), None)


def _any_lane(f: Builder, flag: Value) -> Value:
    lanes = lanes_of(flag)
    if lanes == 1:
        return flag
    bits = f.b.bitcast(flag, ir.IntType(lanes))
    return f.b.icmp_unsigned("!=", bits, bits.type(0))


def fold_row(
    f: Builder,
    count: Number,
    how: str,
    dtype: DType,
    term: Term,
    *,
    skips_nan: bool = False,
    many_partials: bool = False,
) -> Value:
    """Return the terms of elements [0, count) as one number, in an order of their own.

    `term` gives the register of a part, in this type; each part is asked for once. With
    `skips_nan`, extremes pass over what is no number; else it is the result. `many_partials`: as
    many partial results with short vectors as with long ones, at the price of more code.
    """
    notes = is_extreme(how, dtype) and not skips_nan
    lanes, empty = f.lanes, start(f, how, dtype, f.lanes)
    beside = max(UNROLLED, PARTIALS // lanes) if many_partials else UNROLLED
    many, whole = _whole(f, count, beside * lanes), _whole(f, count, lanes)

    def added(carried: list[Value], parts: list[Part]) -> list[Value]:
        terms = [term(part) for part in parts]
        result = [passing(f, how, dtype, x, y) for x, y in zip(carried, terms, strict=False)]
        if notes:
            flag = carried[-1]
            for each in terms:
                flag = noted(f, flag, each)
            result.append(flag)
        return result

    flags = [no_flag(lanes)] if notes else []
    with f.loop(0, many, beside * lanes, [empty] * beside + flags, unroll=False) as loop:
        parts = [Part(f.add(loop.i, k * lanes), lanes) for k in range(beside)]
        loop.next = added(loop.values, parts)
    totals = loop.result[:beside]
    while len(totals) > 1:
        pairs = zip(totals[::2], totals[1::2], strict=True)
        totals = [passing(f, how, dtype, x, y) for x, y in pairs]
    with f.loop(many, whole, lanes, totals + loop.result[beside:], unroll=False) as last:
        last.next = added(last.values, [Part(last.i, lanes)])
    total, *flags = last.result
    if isinstance(count, int) and count == whole:
        single = _over_lanes(f, how, dtype, total)
    elif has_masks(f):
        mask = first_lanes(f, f.sub(count, whole))
        rest = f.b.select(mask, term(Part(f.add(whole), lanes, mask)), empty)
        flags = [noted(f, flag, rest) for flag in flags]
        single = _over_lanes(f, how, dtype, passing(f, how, dtype, total, rest))
    else:
        carry = [start(f, how, dtype, 1), *([no_flag(1)] if notes else [])]
        with f.loop(whole, count, 1, carry, unroll=False) as each:
            each.next = added(each.values, [Part(each.i, 1)])
        single = passing(f, how, dtype, _over_lanes(f, how, dtype, total), each.result[0])
        flags = [f.b.or_(_any_lane(f, flag), each.result[1]) for flag in flags]
    return flagged(f, _any_lane(f, flags[0]), single) if flags else single


def _over_lanes(f: Builder, how: str, dtype: DType, value: Value) -> Value:
    """Return all lanes as one number, halves onto halves."""
    lanes = lanes_of(value)
    while lanes > 1:
        lanes //= 2
        halves = []
        for first in (0, lanes):
            picks = ir.Constant(ir.VectorType(I32, lanes), list(range(first, first + lanes)))
            halves.append(f.b.shuffle_vector(value, value, picks))
        value = passing(f, how, dtype, halves[0], halves[1])
    if isinstance(value.type, ir.VectorType):
        value = f.b.extract_element(value, I32(0))
    return value


def _whole(f: Builder, count: Number, step: int) -> Number:
    if isinstance(count, int):
        return count // step * step
    return f.sub(count, f.rem(count, step))
