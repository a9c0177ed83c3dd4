"""The code of attention for blocks of queries: scores, softmax and products in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from engine.cpu.builder import F32, Number, Value
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import KernelBuilder
from engine.cpu.kernels.attention_parts import (
    KEYS,
    Heads,
    Operand,
    Scratch,
    has_weights,
    rows_of,
    turn_operand,
    vector_parts,
)
from engine.cpu.kernels.square import transposed
from engine.cpu.kernels.tile import load_lanes, store_lanes
from engine.cpu.vmath import exp
from engine.ir.expr_text import read_expr


@dataclass
class QueryBlock:
    """Code for one task: a block of queries, or a few.

    Attributes:
        f: Where it is written.
        heads: How queries, keys, values and results lie.
        expr: Expression of the scores, as text.
        operands: Those of the scores.
        zeros: Which queries give zeros.
        places: Where the parts of results, queries, keys, values and operands for one head begin.
        steps: Elements from query to query of each operand of the scores.
        layout: What the scratch memory holds.
        queries: How many there are.
        keys: How many there are.
        task: Which of the head's tasks this is.
    """

    f: KernelBuilder
    heads: Heads
    expr: str
    operands: tuple[Operand, ...]
    zeros: str
    places: Sequence[Value]
    steps: Sequence[Value]
    layout: Scratch
    queries: Value
    keys: Value
    task: Value

    def run(self) -> None:
        """Transpose the queries, go through the keys, divide by the sums."""
        f = self.f
        self._share()
        with self._each_block():
            self._turn_queries()
            self._begin()
        parts = f.div(f.add(self.keys, KEYS - 1), KEYS)
        share = f.div(f.add(self.keys, f.sub(parts, 1)), f.greatest(parts, 1))
        step = f.mul(f.div(f.add(share, self.rows - 1), self.rows), self.rows)
        with f.loop(0, self.keys, f.greatest(step, 1), unroll=False) as part:
            count = f.least(f.sub(self.keys, part.i), step)
            self._prepare(part.i, count)
            with self._each_block():
                self._turn_operands(part.i, count)
                with f.if_else(f.less(f.lanes, self.valid)) as (wide, narrow):
                    with wide:
                        self._weigh(part.i, count, self.width // f.lanes)
                    with narrow:
                        self._weigh(part.i, count, 1)
                self._add_values(part.i, count)
        with self._each_block():
            self._finish()

    def _share(self) -> None:
        """Find the scratch memory that the blocks of the task share."""
        f = self.f
        self.width, self.rows = self.layout.width, rows_of(f.target)
        places = [f.at_bytes(f.scratch, offset) for offset in self.layout.shared_offsets]
        full = sum(o.kind == "both" for o in self.operands)
        self.scores, self.extra, self.copies = places[0], places[1 : 1 + full], places[1 + full :]

    @contextmanager
    def _each_block(self) -> Iterator[None]:
        """Turn to one block of queries of the task after the other."""
        f, layout, count = self.f, self.layout, self.layout.blocks
        begin = f.mul(self.task, count * self.width)
        blocks = f.div(f.add(f.sub(self.queries, begin), self.width - 1), self.width)
        if count == 1:
            self._turn_to(begin, f.scratch)
            yield
            return
        with f.loop(0, f.least(blocks, count), unroll=False) as block:
            base = f.at_bytes(f.scratch, f.mul(block.i, layout.block_bytes))
            self._turn_to(f.add(begin, f.mul(block.i, self.width)), base)
            yield

    def _turn_to(self, first: Value, base: Value) -> None:
        f = self.f
        self.first = first
        self.valid = f.least(f.sub(self.queries, first), self.width)
        self.q, self.y, self.most, self.sums, self.scale = [
            f.at_bytes(base, offset) for offset in self.layout.block_offsets
        ]

    def _prepare(self, key: Value, count: Value) -> None:
        """Do once what all blocks of queries need of a block of keys; nothing here."""

    def _turn_queries(self) -> None:
        """Queries come to lie as (head size, width); behind the last one it is repeated."""
        f, heads = self.f, self.heads
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
        for k, operand in enumerate(self.operands):
            if operand.kind == "both":
                place, step = self.places[4 + k], self.steps[k]
                source = f.at(place, f.add(f.mul(self.first, step), key), operand.dtype)
                sizes = self.valid, count, self.width
                turn_operand(f, next(full), source, step, sizes, operand.dtype.itemsize)

    def _operand_values(self, key: Value, place: Value, vectors: int) -> list[list[Value]]:
        """Return, per vector of queries, the numbers of all operands for one key.

        `key` counts from the beginning, `place` within the block of keys.
        """
        f, full, found = self.f, iter(self.extra), []
        for k, operand in enumerate(self.operands):
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
        sums = self._weights(count, most, [f.floats(0.0)] * vectors)
        for v in range(vectors):
            place = f.at(self.sums, v * f.lanes)
            scale = f.load(f.at(self.scale, v * f.lanes))
            f.store(f.fma(f.load(place), scale, sums[v]), place)

    def _weights(self, count: Value, most: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        """Turn the scores of a block of keys into weights where they lie; return their sums."""
        f = self.f
        with f.loop(0, count, carry=sums, unroll=False) as j:
            row, totals = f.at(self.scores, f.mul(j.i, self.width)), []
            for v, largest in enumerate(most):
                weight = self._weight(f.at(row, v * f.lanes), largest)
                f.store(weight, f.at(row, v * f.lanes))
                totals.append(f.b.fadd(j.values[v], weight))
            j.next = totals
        return j.result

    def _weight(self, score: Value, largest: Value) -> Value:
        f = self.f
        return exp(f, f.b.fsub(f.load(score), largest), bounded=(False, True))

    def _multiply(self, key: Value, count: Value, vectors: int) -> None:
        """Products of a block of keys and the queries; the last tile reaches back if it must."""
        f, rows, base = self.f, self.rows, self._keys_from(key)
        with f.if_else(f.less(count, rows)) as (few, enough):
            with few, f.loop(0, count, unroll=False) as j:
                self._score_tile(base, j.i, 1, vectors)
            with enough, f.loop(0, count, rows, unroll=False) as j:
                start = f.least(j.i, f.sub(count, rows))
                self._score_tile(base, start, rows, vectors)

    def _keys_from(self, key: Value) -> Value:
        """Return where a block of keys begins."""
        return self.f.at(self.places[2], self.f.mul(key, self.heads.k_row))

    def _score_tile(self, base: Value, start: Value, rows: int, vectors: int) -> None:
        f, sums = self.f, self._sum_scores(base, start, rows, vectors)
        for r in range(rows):
            row = f.at(self.scores, f.mul(f.add(start, r), self.width))
            for v in range(vectors):
                f.store(sums[r * vectors + v], f.at(row, v * f.lanes))

    def _sum_scores(self, base: Value, start: Value, rows: int, vectors: int) -> list[Value]:
        """Return the products of a few keys and the queries, key by key."""
        f, heads = self.f, self.heads
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
        return d.result

    def _largest(self, key: Value, count: Value, vectors: int) -> list[Value]:
        """Apply the expression, find the largest score of every query; note how to rescale."""
        f = self.f
        before = [f.load(f.at(self.most, v * f.lanes)) for v in range(vectors)]
        expr = read_expr(self.expr)
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
        f, base = self.f, self._values_from(key)
        parts = vector_parts(self.heads.value_size, f.lanes)
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

    def _values_from(self, key: Value) -> Value:
        """Return where a block of values begins."""
        return self.f.at(self.places[3], self.f.mul(key, self.heads.v_row))

    def _value_tile(
        self, base: Value, query: Value, e: Number, parts: Sequence[int], count: Value
    ) -> None:
        f, pitch = self.f, self.layout.value_pitch
        results = f.at(self.y, f.add(f.mul(query, pitch), e))
        scales = f.at(self.scale, query)
        carry = []
        for r in range(self.rows):
            scale = f.splat(f.load(f.at(scales, r), lanes=1))
            row = [f.load(f.at(results, r * pitch + v * f.lanes)) for v in range(len(parts))]
            carry += [f.b.fmul(value, scale) for value in row]
        sums = self._sum_values(f.at(base, e), f.at(self.scores, query), parts, count, carry)
        for r in range(self.rows):
            for v in range(len(parts)):
                place = f.at(results, r * pitch + v * f.lanes)
                f.store(sums[r * len(parts) + v], place)

    def _sum_values(
        self, values: Value, weights: Value, parts: Sequence[int], count: Value, carry: list[Value]
    ) -> list[Value]:
        """Return the sums with the values of a block of keys added, times the queries' weights."""
        f, heads = self.f, self.heads
        with f.loop(0, count, carry=carry, unroll=False) as j:
            row = f.at(values, f.mul(j.i, heads.v_row))
            lines = [load_lanes(f, f.at(row, v * f.lanes), n) for v, n in enumerate(parts)]
            column, sums = f.at(weights, f.mul(j.i, self.width)), []
            for r in range(self.rows):
                weight = f.splat(f.load(f.at(column, r), lanes=1))
                for v, line in enumerate(lines):
                    sums.append(f.fma(weight, line, j.values[r * len(parts) + v]))
            j.next = sums
        return j.result

    def _finish(self) -> None:
        """Divide by the sums and write what there are queries for."""
        f, heads = self.f, self.heads
        with f.loop(0, self.valid, unroll=False) as q:
            total = f.load(f.at(self.sums, q.i), lanes=1)
            inverse = f.b.fdiv(F32(1.0), total)
            good = has_weights(f, self.zeros, total)
            inverse = f.choose(good, inverse, F32(0.0))
            inverse = f.choose(f.equals(self.keys, 0), F32(0.0), inverse)  # a sum of nothing
            factor = f.splat(inverse)
            source = f.at(self.y, f.mul(q.i, self.layout.value_pitch))
            row = f.mul(f.add(self.first, q.i), heads.y_row)
            to = f.at(self.places[0], row, heads.y_dtype)
            for k, lanes in enumerate(vector_parts(heads.value_size, f.lanes)):
                value = f.b.fmul(f.load(f.at(source, k * f.lanes)), factor)
                if self.zeros:
                    value = f.choose(good, value, f.floats(0.0))
                place = f.at(to, k * f.lanes, heads.y_dtype)
                store_lanes(f, value, place, lanes, heads.y_dtype)
