"""Sums, products and extremes: of a row of neighbours, and of the lanes of a register."""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir

from engine.cpu.builder import I32, REGISTER, Builder, Number, Value, lanes_of, vector
from engine.cpu.expression_operations import OPERATIONS
from engine.cpu.kernels.rows import Part, first_lanes, has_masks
from engine.dtypes import DType

UNROLLED = 4  # partial results side by side: additions need not wait for each other
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


def fold_lanes(f: Builder, how: str, dtype: DType, value: Value) -> Value:
    """Return all lanes as one number, halves onto halves."""
    lanes = lanes_of(value)
    while lanes > 1:
        lanes //= 2
        halves = []
        for first in (0, lanes):
            picks = ir.Constant(vector_of_picks(lanes), list(range(first, first + lanes)))
            halves.append(f.b.shuffle_vector(value, value, picks))
        value = combine(f, how, dtype, halves[0], halves[1])
    if isinstance(value.type, ir.VectorType):
        value = f.b.extract_element(value, I32(0))
    return value


def vector_of_picks(lanes: int) -> ir.Type:
    """Return the type of a shuffle's picks; one lane stays a vector there."""
    return ir.VectorType(I32, lanes)


def fold_row(f: Builder, count: Number, how: str, dtype: DType, term: Term) -> Value:
    """Return the terms of elements [0, count) as one number, in an order of their own.

    `term` gives the register of a part, in this type; each part is asked for once.
    """
    lanes, empty = f.lanes, start(f, how, dtype, f.lanes)
    many = _whole(f, count, UNROLLED * lanes)
    whole = _whole(f, count, lanes)
    with f.loop(0, many, UNROLLED * lanes, [empty] * UNROLLED, unroll=False) as loop:
        loop.next = [
            combine(f, how, dtype, value, term(Part(f.add(loop.i, k * lanes), lanes)))
            for k, value in enumerate(loop.values)
        ]
    while len(loop.result) > 1:
        pairs = zip(loop.result[::2], loop.result[1::2], strict=True)
        loop.result = [combine(f, how, dtype, x, y) for x, y in pairs]
    with f.loop(many, whole, lanes, loop.result, unroll=False) as last:
        last.next = [combine(f, how, dtype, last.values[0], term(Part(last.i, lanes)))]
    total = last.result[0]
    if isinstance(count, int) and count == whole:
        return fold_lanes(f, how, dtype, total)
    if has_masks(f):
        mask = first_lanes(f, f.sub(count, whole))
        rest = term(Part(f.add(whole), lanes, mask))
        rest = f.b.select(mask, rest, empty)
        return fold_lanes(f, how, dtype, combine(f, how, dtype, total, rest))
    scalar = start(f, how, dtype, 1)
    with f.loop(whole, count, 1, [scalar], unroll=False) as single:
        single.next = [combine(f, how, dtype, single.values[0], term(Part(single.i, 1)))]
    return combine(f, how, dtype, fold_lanes(f, how, dtype, total), single.result[0])


def _whole(f: Builder, count: Number, step: int) -> Number:
    if isinstance(count, int):
        return count // step * step
    return f.sub(count, f.rem(count, step))
