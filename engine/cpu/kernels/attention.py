"""Attention: products of queries and keys, an expression, softmax, products with values.

One task is a block of queries of one head. Scores are computed with keys as rows and queries as
columns: numbers of keys are broadcast and the block's queries lie transposed in scratch memory, so
neither keys nor values are ever packed, and the softmax runs down the columns, all queries of a
vector at once. Keys are taken in blocks; largest score and sum are carried from block to block and
earlier results rescaled (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018;
Dao et al., "FlashAttention", 2022), so the memory does not grow with the length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, Number, Value
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.attention_few import FewQueries
from engine.cpu.kernels.attention_parts import (
    KEYS,
    Heads,
    Operand,
    Scratch,
    has_weights,
    rows_of,
    vector_parts,
    width_of,
)
from engine.cpu.kernels.square import transposed
from engine.cpu.kernels.tile import load_lanes, store_lanes
from engine.cpu.target import Target
from engine.cpu.vmath import exp
from engine.ir.expr_text import read_expr

FEW: Final = 2  # queries up to which each is taken by itself


@dataclass(frozen=True)
class Attention(Kernel):
    """operands: y, q, k, v, operands of the scores. numbers: queries, keys, the sizes of the
    leading axes, then their strides for every operand, in elements; for operands of kind "both"
    the elements from query to query behind them. Tasks: heads times blocks of queries.

    Attributes:
        heads: How the operands lie.
        scores: Expression of the product (x0) and the operands of the scores.
        operands: Those of the scores.
        zeros: Which queries give zeros, not NaN: "" for none, "blind" for those that may look
            nowhere, "none" for those too whose scores are NaN.
    """

    heads: Heads
    scores: str
    operands: tuple[Operand, ...]
    zeros: str

    def scratch_bytes(self, target: Target) -> int:
        """Queries, scores, results and what is carried between blocks of keys."""
        return self._scratch(target).size_bytes

    def _scratch(self, target: Target) -> Scratch:
        return Scratch(self.heads, self.operands, width_of(target), target.lanes)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A few queries go row by row; others in blocks as wide as the register tile."""
        f = KernelBuilder(module, name, target)
        width = width_of(target)
        queries, keys = f.number(0), f.number(1)
        blocks = f.div(f.add(queries, width - 1), width)
        with f.loop(f.low, f.high, unroll=False) as task:
            head, block = f.divmod(task.i, blocks)
            places = self._places(f, head)
            steps = self._steps(f)
            with f.if_else(f.less(FEW, queries)) as (many, few):
                with many:
                    _Block(
                        self, f, places, steps, self._scratch(target), queries, keys, block
                    ).run()
                with few:
                    FewQueries(
                        f, self.heads, self.scores, self.operands, self.zeros, places, steps
                    ).run(queries, keys)
        f.ret()

    def _places(self, f: KernelBuilder, head: Value) -> list[Value]:
        """Return where each operand's part for one head begins."""
        rank, count = self.heads.rank, 4 + len(self.operands)
        sizes = [f.number(2 + k) for k in range(rank)]
        offsets: list[Number] = [0] * count
        rest = head
        for axis in reversed(range(rank)):
            rest, i = f.divmod(rest, sizes[axis])
            for k in range(count):
                stride = f.number(2 + rank + k * rank + axis)
                offsets[k] = f.add(offsets[k], f.mul(i, stride))
        heads = self.heads
        dtypes = [heads.y_dtype, *[heads.dtype] * 3] + [o.dtype for o in self.operands]
        return [f.at(f.operand(k), offsets[k], dtypes[k]) for k in range(count)]

    def _steps(self, f: KernelBuilder) -> list[Value]:
        """Return the elements from query to query of each operand of the scores."""
        first = 2 + self.heads.rank * (5 + len(self.operands))
        return [f.number(first + k) for k in range(len(self.operands))]


@dataclass
class _Block:
    """Code for one block of queries."""

    kernel: Attention
    f: KernelBuilder
    places: Sequence[Value]
    steps: Sequence[Value]
    layout: Scratch
    queries: Value
    keys: Value
    block: Value

    def run(self) -> None:
        """Transpose the queries, go through the keys, divide by the sums."""
        f = self.f
        self.width, self.rows = self.layout.width, rows_of(f.target)
        self.first = f.mul(self.block, self.width)
        self.valid = f.least(f.sub(self.queries, self.first), self.width)
        self.q, self.scores, self.y, self.most, self.sums, self.scale, *self.extra = [
            f.at_bytes(f.scratch, offset) for offset in self.layout.offsets
        ]
        self._turn_queries()
        self._begin()
        parts = f.div(f.add(self.keys, KEYS - 1), KEYS)
        share = f.div(f.add(self.keys, f.sub(parts, 1)), f.greatest(parts, 1))
        step = f.mul(f.div(f.add(share, self.rows - 1), self.rows), self.rows)
        with f.loop(0, self.keys, f.greatest(step, 1), unroll=False) as part:
            count = f.least(f.sub(self.keys, part.i), step)
            self._turn_operands(part.i, count)
            with f.if_else(f.less(f.lanes, self.valid)) as (wide, narrow):
                with wide:
                    self._weigh(part.i, count, self.width // f.lanes)
                with narrow:
                    self._weigh(part.i, count, 1)
            self._add_values(part.i, count)
        self._finish()

    def _turn_queries(self) -> None:
        """Queries come to lie as (head size, width); behind the last one it is repeated."""
        f, heads = self.f, self.kernel.heads
        for group in range(0, self.width, f.lanes):
            with f.if_(f.less(group, self.valid)):
                rows = []
                for k in range(f.lanes):
                    row = f.least(f.add(self.first, group + k), f.sub(self.queries, 1))
                    rows.append(f.at(self.places[1], f.mul(row, heads.q_row)))
                whole = heads.size // f.lanes * f.lanes
                with f.loop(0, whole, f.lanes, unroll=False) as d:
                    self._turn_square(rows, d.i, group, f.lanes)
                if whole < heads.size:
                    self._turn_square(rows, whole, group, heads.size - whole)

    def _turn_square(self, rows: Sequence[Value], d: Number, group: int, count: int) -> None:
        f = self.f
        lines = [load_lanes(f, f.at(row, d), count) for row in rows]
        for k, line in enumerate(transposed(f, lines)[:count]):
            f.store(line, f.at(self.q, f.add(f.mul(f.add(d, k), self.width), group)))

    def _begin(self) -> None:
        f = self.f
        f.clear(self.y, self.width * self.layout.value_pitch * 4)
        for k in range(0, self.width, f.lanes):
            f.store(f.floats(-math.inf), f.at(self.most, k))
            f.store(f.floats(0.0), f.at(self.sums, k))

    # ------------------------------------------------------------------ operands of the scores

    def _turn_operands(self, key: Value, count: Value) -> None:
        """Operands with a number per query and key come to lie as (keys, width)."""
        f, full = self.f, iter(self.extra)
        for k, operand in enumerate(self.kernel.operands):
            if operand.kind == "both":
                size = operand.dtype.itemsize
                place, step = self.places[4 + k], self.steps[k]
                source = f.at(place, f.add(f.mul(self.first, step), key), operand.dtype)
                self._turn_operand(next(full), source, step, count, size)

    def _turn_operand(self, to: Value, source: Value, step: Value, count: Value, size: int) -> None:
        f, lanes = self.f, self.f.lanes
        bottom = f.sub(self.valid, f.rem(self.valid, lanes)) if size == 4 else f.mul(0, 1)
        edge = f.sub(count, f.rem(count, lanes))
        kind = ir.IntType(8 * size)

        def single(query: Value, key: Value) -> None:
            at = f.at_bytes(source, f.mul(f.add(f.mul(query, step), key), size))
            place = f.at_bytes(to, f.mul(f.add(f.mul(key, self.width), query), size))
            f.b.store(f.b.load(at, typ=kind, align=size), place, align=size)

        if size == 4:
            with f.loop(0, bottom, lanes, unroll=False) as query:
                with f.loop(0, edge, lanes, unroll=False) as key:
                    first = f.add(f.mul(query.i, step), key.i)
                    lines = [
                        f.load(f.at(source, f.add(first, f.mul(step, k)))) for k in range(lanes)
                    ]
                    for k, line in enumerate(transposed(f, lines)):
                        place = f.add(f.mul(f.add(key.i, k), self.width), query.i)
                        f.store(line, f.at(to, place))
                end = f.add(query.i, lanes)
                with (
                    f.loop(query.i, end, unroll=False) as one,
                    f.loop(edge, count, unroll=False) as key,
                ):
                    single(one.i, key.i)
        with f.loop(bottom, self.valid, unroll=False) as one, f.loop(0, count, unroll=False) as key:
            single(one.i, key.i)

    def _operand_values(self, key: Value, place: Value, vectors: int) -> list[list[Value]]:
        """Return, per vector of queries, the numbers of all operands for one key.

        `key` counts from the beginning, `place` within the block of keys.
        """
        f, full, found = self.f, iter(self.extra), []
        for k, operand in enumerate(self.kernel.operands):
            pointer, dtype = self.places[4 + k], operand.dtype
            if operand.kind == "both":
                row = f.at(next(full), f.mul(place, self.width), dtype)
                found.append([f.load(f.at(row, v * f.lanes, dtype), dtype) for v in range(vectors)])
                continue
            if operand.kind == "key":
                pointer = f.at(pointer, key, dtype)
            found.append([f.load(pointer, dtype, 1)] * vectors)
        return [[values[v] for values in found] for v in range(vectors)]

    # ------------------------------------------------------------------ scores and weights

    def _weigh(self, key: Value, count: Value, vectors: int) -> None:
        """Leave the weights of a block of keys in `scores`, not yet divided by their sums."""
        self._multiply(key, count, vectors)
        most = self._largest(key, count, vectors)
        f = self.f
        with f.loop(0, count, carry=[f.floats(0.0)] * vectors, unroll=False) as j:
            row = f.at(self.scores, f.mul(j.i, self.width))
            sums = []
            for v in range(vectors):
                shifted = f.b.fsub(f.load(f.at(row, v * f.lanes)), most[v])
                weight = exp(f, shifted, bounded=(False, True))
                f.store(weight, f.at(row, v * f.lanes))
                sums.append(f.b.fadd(j.values[v], weight))
            j.next = sums
        for v in range(vectors):
            place = f.at(self.sums, v * f.lanes)
            scale = f.load(f.at(self.scale, v * f.lanes))
            f.store(f.fma(f.load(place), scale, j.result[v]), place)

    def _multiply(self, key: Value, count: Value, vectors: int) -> None:
        """Products of a block of keys and the queries; the last tile reaches back if it must."""
        f, rows = self.f, self.rows
        base = f.at(self.places[2], f.mul(key, self.kernel.heads.k_row))
        with f.if_else(f.less(count, rows)) as (few, enough):
            with few, f.loop(0, count, unroll=False) as j:
                self._score_tile(base, j.i, 1, vectors)
            with enough, f.loop(0, count, rows, unroll=False) as j:
                start = f.least(j.i, f.sub(count, rows))
                self._score_tile(base, start, rows, vectors)

    def _score_tile(self, base: Value, start: Value, rows: int, vectors: int) -> None:
        f, heads = self.f, self.kernel.heads
        keys = f.at(base, f.mul(start, heads.k_row))
        carry = [f.floats(0.0)] * (rows * vectors)
        with f.loop(0, heads.size, carry=carry, unroll=False) as d:
            line = f.at(self.q, f.mul(d.i, self.width))
            columns = [f.load(f.at(line, v * f.lanes)) for v in range(vectors)]
            place, sums = f.at(keys, d.i), []
            for r in range(rows):
                number = f.splat(f.load(f.at(place, r * heads.k_row), lanes=1))
                before = d.values[r * vectors : (r + 1) * vectors]
                sums += [f.fma(number, c, s) for c, s in zip(columns, before, strict=True)]
            d.next = sums
        for r in range(rows):
            row = f.at(self.scores, f.mul(f.add(start, r), self.width))
            for v in range(vectors):
                f.store(d.result[r * vectors + v], f.at(row, v * f.lanes))

    def _largest(self, key: Value, count: Value, vectors: int) -> list[Value]:
        """Apply the expression, find the largest score of every query; note how to rescale."""
        f = self.f
        before = [f.load(f.at(self.most, v * f.lanes)) for v in range(vectors)]
        expr = read_expr(self.kernel.scores)
        with f.loop(0, count, carry=before, unroll=False) as j:
            row = f.at(self.scores, f.mul(j.i, self.width))
            others = self._operand_values(f.add(key, j.i), j.i, vectors)
            most = []
            for v in range(vectors):
                place = f.at(row, v * f.lanes)
                score = emit_expr(f, expr, [f.load(place), *others[v]])
                f.store(score, place)
                most.append(f.choose(f.b.fcmp_ordered(">", score, j.values[v]), score, j.values[v]))
            j.next = most
        shifts = []
        for v in range(vectors):
            most = j.result[v]
            f.store(most, f.at(self.most, v * f.lanes))
            # Where a query has looked nowhere so far, any finite shift gives weights of zero.
            nowhere = f.b.fcmp_ordered("==", most, f.floats(-math.inf))
            shift = f.choose(nowhere, f.floats(0.0), most)
            f.store(exp(f, f.b.fsub(before[v], shift)), f.at(self.scale, v * f.lanes))
            shifts.append(shift)
        return shifts

    # ------------------------------------------------------------------ values

    def _add_values(self, key: Value, count: Value) -> None:
        """Rescale the results so far and add the weighted values of a block of keys."""
        f, heads = self.f, self.kernel.heads
        base = f.at(self.places[3], f.mul(key, heads.v_row))
        parts = vector_parts(heads.value_size, f.lanes)
        with f.loop(0, self.valid, self.rows, unroll=False) as q:
            pairs = len(parts) // 2 * 2
            if pairs and parts[pairs - 1] == f.lanes:
                with f.loop(0, pairs * f.lanes, 2 * f.lanes, unroll=False) as e:
                    self._value_tile(base, q.i, e.i, [f.lanes] * 2, count)
                rest = pairs
            else:
                rest = 0
            for k in range(rest, len(parts), 2):
                self._value_tile(base, q.i, k * f.lanes, parts[k : k + 2], count)

    def _value_tile(
        self, base: Value, query: Value, e: Number, parts: Sequence[int], count: Value
    ) -> None:
        f, heads, pitch = self.f, self.kernel.heads, self.layout.value_pitch
        results = f.at(self.y, f.add(f.mul(query, pitch), e))
        weights, scales = f.at(self.scores, query), f.at(self.scale, query)
        carry = []
        for r in range(self.rows):
            scale = f.splat(f.load(f.at(scales, r), lanes=1))
            row = [f.load(f.at(results, r * pitch + v * f.lanes)) for v in range(len(parts))]
            carry += [f.b.fmul(value, scale) for value in row]
        values = f.at(base, e)
        with f.loop(0, count, carry=carry, unroll=False) as j:
            row = f.at(values, f.mul(j.i, heads.v_row))
            lines = [load_lanes(f, f.at(row, v * f.lanes), n) for v, n in enumerate(parts)]
            column, sums = f.at(weights, f.mul(j.i, self.width)), []
            for r in range(self.rows):
                weight = f.splat(f.load(f.at(column, r), lanes=1))
                for v, line in enumerate(lines):
                    sums.append(f.fma(weight, line, j.values[r * len(parts) + v]))
            j.next = sums
        for r in range(self.rows):
            for v in range(len(parts)):
                place = f.at(results, r * pitch + v * f.lanes)
                f.store(j.result[r * len(parts) + v], place)

    def _finish(self) -> None:
        """Divide by the sums and write what there are queries for."""
        f, heads = self.f, self.kernel.heads
        with f.loop(0, self.valid, unroll=False) as q:
            total = f.load(f.at(self.sums, q.i), lanes=1)
            inverse = f.b.fdiv(F32(1.0), total)
            good = has_weights(f, self.kernel.zeros, total)
            inverse = f.choose(good, inverse, F32(0.0))
            inverse = f.choose(f.equals(self.keys, 0), F32(0.0), inverse)  # a sum of nothing
            factor = f.splat(inverse)
            source = f.at(self.y, f.mul(q.i, self.layout.value_pitch))
            row = f.mul(f.add(self.first, q.i), heads.y_row)
            to = f.at(self.places[0], row, heads.y_dtype)
            for k, lanes in enumerate(vector_parts(heads.value_size, f.lanes)):
                value = f.b.fmul(f.load(f.at(source, k * f.lanes)), factor)
                if self.kernel.zeros:
                    value = f.choose(good, value, f.floats(0.0))
                place = f.at(to, k * f.lanes, heads.y_dtype)
                store_lanes(f, value, place, lanes, heads.y_dtype)
