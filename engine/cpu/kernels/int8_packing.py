"""Computed matrices of bytes, packed for the register tile while a product runs.

The left side becomes tiles of rows, quads of bytes of all rows side by side; the right side panels
of columns, as fixed weights are. Packing yields the sums of rows and of columns on the way, which
account for zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import (
    F32,
    I1,
    I8,
    I32,
    MEMORY,
    PTR,
    VOID,
    Builder,
    Number,
    Value,
    suffix,
    vector,
)
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.int8_products import COLUMN_BYTES, QUAD, terms_per_step
from engine.cpu.kernels.square import transposed
from engine.cpu.target import Target
from engine.dtypes import DType

LIFT: Final = 0x80808080 - (1 << 32)  # added to bytes without carry: signed to unsigned and back


def left_pitch(target: Target) -> int:
    """Return how many rows lie side by side in a packed tile: whole vectors of them."""
    return target.whole_vectors(target.tile_rows)


def right_quad_bytes(target: Target) -> int:
    """Return the bytes of one quad of rows of a packed panel."""
    return target.tile_columns * COLUMN_BYTES * QUAD // terms_per_step(target)


def _matrix(f: KernelBuilder, base: Value, matrix: Value) -> tuple[Value, Value]:
    """Return where a matrix begins, and the bytes from one of its lines to the next.

    Numbers 2 and on: size of the inner of two leading axes, the bytes from one entry to the next
    along the outer one, the inner one, and the lines, and those in front of the first.
    """
    inner, by_outer, by_inner, by_line, first = (f.number(i) for i in range(2, 7))
    outer, within = f.divmod(matrix, inner)
    at = f.add(f.mul(outer, by_outer), f.mul(within, by_inner), first)
    return f.at_bytes(base, at), by_line


@dataclass(frozen=True)
class _Lines:
    """Some lines of bytes, as many as a vector has lanes, that are turned quad by quad.

    Attributes:
        source: The first line.
        step: Bytes from one line to the next.
        count: Lines that exist, any number.
        terms: Bytes of a line.
        nothing: The byte that stands where none is.
    """

    source: Value
    step: Value
    count: Value
    terms: Value
    nothing: int

    def turn(self, f: Builder, finish: Callable[[Value, Value], Value]) -> Value:
        """Call `finish(number of the quad, that quad of every line)`; return the sum of what it
        gives.
        """
        wide = f.lanes * QUAD  # bytes of a line in one square
        whole = f.mul(f.div(self.terms, wide), wide)
        rest = f.sub(self.terms, whole)
        with f.loop(0, whole, wide, carry=(f.integers(0),), unroll=False) as k:
            k.next = [self._square(f, k.i, wide, k.values[0], finish)]
        with f.loop(whole, self.terms, wide, carry=k.result, unroll=False) as k:
            k.next = [self._square(f, k.i, rest, k.values[0], finish)]
        return k.result[0]

    def _square(
        self,
        f: Builder,
        first: Value,
        limit: Number,
        total: Value,
        finish: Callable[[Value, Value], Value],
    ) -> Value:
        """Turn one square, of which each line has `limit` bytes; return the sums so far."""
        wide, kind = f.lanes * QUAD, vector(I32, f.lanes)
        buffer, existing = f.stack(f.lanes * wide), f.least(f.greatest(self.count, 0), f.lanes)
        if not isinstance(limit, int):
            f.clear(buffer, f.lanes * wide, I8(self.nothing))
        with f.loop(0, existing, unroll=False) as r:
            at = f.at_bytes(self.source, f.add(f.mul(r.i, self.step), first))
            f.copy(f.at_bytes(buffer, f.mul(r.i, wide)), at, limit)
        with f.loop(existing, f.lanes, unroll=False) as r:
            f.clear(f.at_bytes(buffer, f.mul(r.i, wide)), wide, I8(self.nothing))
        lines = []
        for i in range(f.lanes):
            line = f.b.load(f.at_bytes(buffer, i * wide), typ=kind, align=wide)
            lines.append(f.b.bitcast(line, vector(F32, f.lanes)))
        turned = f.stack(f.lanes * f.lanes * QUAD)
        for i, column in enumerate(transposed(f, lines)):
            at = f.at_bytes(turned, i * f.lanes * QUAD)
            f.b.store(f.b.bitcast(column, kind), at, align=f.lanes * QUAD)
        quads = f.div(f.add(limit, QUAD - 1), QUAD)
        with f.loop(0, quads, carry=(total,), unroll=False) as q:
            at = f.at_bytes(turned, f.mul(q.i, f.lanes * QUAD))
            value = f.b.load(at, typ=kind, align=f.lanes * QUAD)
            part = finish(f.add(f.div(first, QUAD), q.i), value)
            q.next = [f.b.add(q.values[0], part)]
        return q.result[0]


@dataclass(frozen=True)
class PackLeft(Kernel):
    """operands: packed tiles, sums of rows (int32), matrices (count, M, K) of bytes.

    numbers: M, K, then where matrices lie (`_matrix`; the bytes of a row are neighbours). Tasks:
    matrices times tiles of rows. A tile is (quads, `left_pitch`, 4) bytes. Rows and terms that do
    not exist are zero.
    """

    signed: bool

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Squares of quads are turned in registers."""
        f = KernelBuilder(module, name, target)
        packed, sums, matrices = (f.operand(i) for i in range(3))
        height, terms = f.number(0), f.number(1)
        rows, pitch, lanes = target.tile_rows, left_pitch(target), f.lanes
        tiles = f.div(f.add(height, rows - 1), rows)
        quads = f.div(f.add(terms, QUAD - 1), QUAD)
        with f.loop(f.low, f.high) as task:
            matrix, tile = f.divmod(task.i, tiles)
            first = f.mul(tile, rows)
            base, step = _matrix(f, matrices, matrix)
            to = f.at_bytes(packed, f.mul(f.mul(task.i, quads), pitch * QUAD))
            count = f.least(f.sub(height, first), rows)
            for group in range(0, pitch, lanes):
                lines = _Lines(
                    f.at_bytes(base, f.mul(f.add(first, group), step)),
                    step,
                    f.sub(count, group),
                    terms,
                    -128 if self.signed else 0,
                )
                place = f.at_bytes(to, group * QUAD)
                total = lines.turn(f, partial(self._finish, f, place))
                at = f.at(sums, f.add(f.mul(task.i, pitch), group))
                f.b.store(total, at, align=4)
        f.ret()

    def _finish(self, f: Builder, to: Value, quad: Value, value: Value) -> Value:
        if self.signed:
            value = f.b.xor(value, f.integers(LIFT))
        at = f.at_bytes(to, f.mul(quad, left_pitch(f.target) * QUAD))
        f.b.store(value, at, align=4)
        return _sum_of_bytes(f, value)


def _sum_of_bytes(f: Builder, value: Value) -> Value:
    """Return the sum of the four bytes of every lane."""
    low = f.integers(0x00FF00FF)
    pairs = f.b.add(f.b.and_(value, low), f.b.and_(f.b.lshr(value, f.integers(8)), low))
    return f.b.add(f.b.and_(pairs, f.integers(0xFFFF)), f.b.lshr(pairs, f.integers(16)))


@dataclass(frozen=True)
class PackRight(Kernel):
    """operands: packed panels, sums of columns (int32), matrices (count, K, N) of bytes.

    numbers: K, N, then where matrices lie (`_matrix`). Tasks: matrices times panels. Bytes become
    signed ones, 128 lower where they are not; rows and columns that do not exist are zero.

    Attributes:
        signed: Whether the bytes are.
        turned: Whether the lines of a matrix, whose bytes are neighbours, are its columns.
    """

    signed: bool
    turned: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Four rows at a time are interleaved, or squares of quads turned in registers."""
        f = KernelBuilder(module, name, target)
        packed, sums, matrices = (f.operand(i) for i in range(3))
        terms, columns = f.number(0), f.number(1)
        width, lanes = target.tile_columns, f.lanes
        panels = f.div(f.add(columns, width - 1), width)
        quads = f.div(f.add(terms, QUAD - 1), QUAD)
        quad_bytes = right_quad_bytes(target)
        with f.loop(f.low, f.high) as task:
            matrix, panel = f.divmod(task.i, panels)
            source, step = _matrix(f, matrices, matrix)
            to = f.at_bytes(packed, f.mul(f.mul(task.i, quads), quad_bytes))
            for v in range(target.tile_vectors):
                column = f.add(f.mul(panel, width), v * lanes)
                place = f.at_bytes(to, v * lanes * COLUMN_BYTES)
                if self.turned:
                    lines = _Lines(
                        f.at_bytes(source, f.mul(column, step)),
                        step,
                        f.sub(columns, column),
                        terms,
                        0 if self.signed else -128,
                    )
                    total = lines.turn(f, partial(self._finish, f, place))
                else:
                    total = self._interleave(f, source, step, column, place)
                at = f.at(sums, f.add(f.mul(task.i, width), v * lanes))
                f.b.store(total, at, align=4)
        f.ret()

    def _interleave(
        self, f: KernelBuilder, source: Value, step: Value, column: Value, to: Value
    ) -> Value:
        """Write a vector of columns from rows; return their sums."""
        terms, columns = f.number(0), f.number(1)
        quads = f.div(f.add(terms, QUAD - 1), QUAD)
        exists = lanes_below(f, f.sub(columns, column))
        place = f.at_bytes(source, column)
        with f.loop(0, quads, carry=(f.integers(0),), unroll=False) as q:
            rows = [
                self._row(f, place, f.add(f.mul(q.i, QUAD), t), terms, step, exists)
                for t in range(QUAD)
            ]
            self._store(f, rows, f.at_bytes(to, f.mul(q.i, right_quad_bytes(f.target))))
            total = q.values[0]
            for row in rows:
                total = f.b.add(total, row)
            q.next = [total]
        return q.result[0]

    def _finish(self, f: Builder, to: Value, quad: Value, value: Value) -> Value:
        """Write one quad of every column, turned; return its sums."""
        lifted = f.b.xor(value, f.integers(LIFT))
        signed, unsigned = (value, lifted) if self.signed else (lifted, value)
        at = f.at_bytes(to, f.mul(quad, right_quad_bytes(f.target)))
        if terms_per_step(f.target) == QUAD:
            f.b.store(signed, at, align=4)
        else:
            parts = []
            for t in range(QUAD):
                raised = f.b.shl(signed, f.integers(24 - 8 * t))
                parts.append(f.b.ashr(raised, f.integers(24)))
            self._store(f, parts, at)
        return f.b.sub(_sum_of_bytes(f, unsigned), f.integers(QUAD * 128))

    def _row(
        self, f: Builder, place: Value, row: Value, terms: Value, step: Value, exists: Value
    ) -> Value:
        """Return one row of a vector of columns as signed 32-bit numbers."""
        inside = f.b.and_(exists, f.splat(f.less(row, terms)))
        kind = vector(I8, f.lanes)
        nothing = ir.Constant(kind, [0 if self.signed else -128] * f.lanes)
        raw = masked_load(f, f.at_bytes(place, f.mul(row, step)), DType.UINT8, inside, nothing)
        if not self.signed:
            raw = f.b.xor(raw, ir.Constant(kind, [-128] * f.lanes))
        return f.b.sext(raw, vector(I32, f.lanes))

    def _store(self, f: Builder, rows: Sequence[Value], at: Value) -> None:
        """Write four rows of a vector of columns."""
        group = terms_per_step(f.target)
        bits, step_bytes = 32 // group, f.target.tile_columns * COLUMN_BYTES
        low = f.integers((1 << bits) - 1)
        for step in range(QUAD // group):
            value = None
            for t in range(group):
                part = f.b.and_(rows[step * group + t], low)
                part = f.b.shl(part, f.integers(bits * t))
                value = part if value is None else f.b.or_(value, part)
            f.b.store(value, f.at_bytes(at, step * step_bytes), align=4)


def lanes_below(f: Builder, count: Number) -> Value:
    """Return which lanes have a number below `count`."""
    numbers = ir.Constant(vector(I32, f.lanes), list(range(f.lanes)))
    bounded = f.b.trunc(f.least(f.greatest(count, 0), f.lanes), I32)
    return f.b.icmp_signed("<", numbers, f.splat(bounded))


def masked_load(f: Builder, pointer: Value, dtype: DType, mask: Value, nothing: Value) -> Value:
    """Return neighbours as they lie in memory, `nothing` where the mask is not set."""
    kind = vector(MEMORY[dtype], f.lanes)
    name = f"llvm.masked.load.{suffix(kind)}.p0"
    load = f.intrinsic(name, kind, [PTR, I32, vector(I1, f.lanes), kind])
    return f.call(load, pointer, I32(dtype.itemsize), mask, nothing)


def masked_store(f: Builder, value: Value, pointer: Value, dtype: DType, mask: Value) -> None:
    """Write neighbours where the mask is set."""
    narrow = f.narrow(value, dtype)
    name = f"llvm.masked.store.{suffix(narrow.type)}.p0"
    store = f.intrinsic(name, VOID, [narrow.type, PTR, I32, vector(I1, f.lanes)])
    f.call(store, narrow, pointer, I32(dtype.itemsize), mask)
