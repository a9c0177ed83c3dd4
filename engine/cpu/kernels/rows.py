"""Walking along neighbouring elements in vectors, with a masked or scalar end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import (
    I1,
    I32,
    MEMORY,
    PTR,
    VOID,
    Builder,
    Number,
    Value,
    i64,
    suffix,
    vector,
)
from engine.dtypes import DType


@dataclass(frozen=True)
class Part:
    """Some neighbours: `lanes` of them, or only those lanes that `mask` names.

    Attributes:
        i: The first element.
        lanes: Numbers in a register.
        mask: Which lanes count; None for all.
    """

    i: Value
    lanes: int
    mask: Value | None = None

    def load(self, f: Builder, pointer: Value, dtype: DType) -> Value:
        """Return the elements behind a pointer to element 0; lanes that do not count are 0."""
        at = f.at(pointer, self.i, dtype)
        if self.mask is None:
            return f.load(at, dtype, self.lanes)
        kind = vector(_bits(dtype), self.lanes)
        read = f.intrinsic(
            f"llvm.masked.load.{suffix(kind)}.p0", kind, [PTR, I32, self.mask.type, kind]
        )
        empty = ir.Constant(kind, None)
        raw = f.b.call(read, [at, I32(dtype.itemsize), self.mask, empty])
        return f.widen(f.b.bitcast(raw, vector(MEMORY[dtype], self.lanes)), dtype)

    def store(self, f: Builder, value: Value, pointer: Value, dtype: DType) -> None:
        """Write the elements that count behind a pointer to element 0."""
        at = f.at(pointer, self.i, dtype)
        if self.mask is None:
            f.store(value, at, dtype)
            return
        if _is_lone(self.mask):
            store_first(f, value, at, dtype)
            return
        kind = vector(_bits(dtype), self.lanes)
        write = f.intrinsic(
            f"llvm.masked.store.{suffix(kind)}.p0", VOID, [kind, PTR, I32, self.mask.type]
        )
        raw = f.b.bitcast(f.narrow(value, dtype), kind)
        f.b.call(write, [raw, at, I32(dtype.itemsize), self.mask])


def _bits(dtype: DType) -> ir.Type:
    return ir.IntType(8 * dtype.itemsize)


def store_first(f: Builder, value: Value, pointer: Value, dtype: DType) -> None:
    """Write the first number of a register.

    As a masked store of a single fixed lane LLVM 22 would write four bytes of integers it narrowed.
    """
    narrow = f.narrow(value, dtype)
    f.b.store(f.b.extract_element(narrow, I32(0)), pointer, align=dtype.itemsize)


def _is_lone(mask: Value) -> bool:
    """Whether a mask, a constant, names just the first lane."""
    return isinstance(mask, ir.Constant) and [bool(lane.constant) for lane in mask.constant] == [
        lane == 0 for lane in range(len(mask.constant))
    ]


Body = Callable[[Part, list[Value]], list[Value]]


def each_part(f: Builder, count: Number, carry: Sequence[Value], body: Body) -> list[Value]:
    """Write code that goes through elements [0, count): whole vectors first, then the rest.

    `body` gets a part and what is carried, and returns what the next part shall get; with a scalar
    rest (where there are no masks) it must not carry vectors.
    """
    lanes = f.lanes
    if isinstance(count, int):
        whole: Number = count // lanes * lanes
    else:
        whole = f.sub(count, f.rem(count, lanes))
    values = list(carry)
    if not isinstance(whole, int) or whole:
        with f.loop(0, whole, lanes, values, unroll=False) as loop:
            loop.next = body(Part(loop.i, lanes), loop.values)
        values = loop.result
    if isinstance(count, int) and count == whole:
        return values
    if not has_masks(f):
        with f.loop(whole, count, 1, values, unroll=False) as rest:
            rest.next = body(Part(rest.i, 1), rest.values)
        return rest.result
    if isinstance(count, int):
        return body(Part(i64(whole), lanes, first_lanes(f, count - count // lanes * lanes)), values)
    return _masked_rest(f, count, whole, values, body)


def _masked_rest(
    f: Builder,
    count: Value,
    whole: Number,
    values: list[Value],
    body: Body,
) -> list[Value]:
    left = f.sub(count, whole)
    before = f.b.block
    rest, end = f.b.append_basic_block("rest"), f.b.append_basic_block("end")
    f.b.cbranch(f.less(0, left), rest, end)
    f.b.position_at_end(rest)
    after = body(Part(i64(whole), f.lanes, first_lanes(f, left)), values)
    last = f.b.block
    f.b.branch(end)
    f.b.position_at_end(end)
    merged = []
    for old, new in zip(values, after, strict=True):
        phi = f.b.phi(old.type)
        phi.add_incoming(old, before)
        phi.add_incoming(new, last)
        merged.append(phi)
    return merged


def has_masks(f: Builder) -> bool:
    """Whether the processor reads and writes some lanes of a register of any type."""
    return f.target.isa == "avx512"


def first_lanes(f: Builder, count: Number) -> Value:
    """Return the mask of the first `count` lanes."""
    lanes = f.lanes
    if isinstance(count, int):
        return ir.Constant(vector(I1, lanes), [int(k < count) for k in range(lanes)])
    numbers = ir.Constant(vector(I32, lanes), list(range(lanes)))
    return f.b.icmp_signed("<", numbers, f.splat(f.b.trunc(count, I32)))
