"""Attention of one query or two, as a decoder has it: each reads keys and values once, in rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.cpu.builder import F32, Value
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import KernelBuilder
from engine.cpu.kernels.attention_parts import Heads, Operand, has_weights, vector_parts
from engine.cpu.kernels.tile import load_lanes, store_lanes
from engine.cpu.vmath import exp
from engine.ir.expr_text import read_expr

KEYS_AT_ONCE: Final = 1024  # their scores fit in the part of the scratch memory for scores


@dataclass
class FewQueries:
    """Code for a head with few queries; the scratch memory holds scores."""

    f: KernelBuilder
    heads: Heads
    scores: str
    operands: tuple[Operand, ...]
    zeros: str
    places: Sequence[Value]
    steps: Sequence[Value]

    def run(self, queries: Value, keys: Value) -> None:
        """One query after the other."""
        f, heads = self.f, self.heads
        self.parts = vector_parts(heads.size, f.lanes)
        self.value_parts = vector_parts(heads.value_size, f.lanes)
        with f.loop(0, queries, unroll=False) as query:
            row = f.at(self.places[1], f.mul(query.i, heads.q_row))
            self.query = [
                load_lanes(f, f.at(row, k * f.lanes), n) for k, n in enumerate(self.parts)
            ]
            self.index = query.i
            nothing = [f.floats(0.0)] * len(self.value_parts)
            carry = [F32(-math.inf), F32(0.0), *nothing]
            with f.loop(0, keys, KEYS_AT_ONCE, carry=carry, unroll=False) as part:
                count = f.least(f.sub(keys, part.i), KEYS_AT_ONCE)
                part.next = self._block(part.i, count, part.values)
            self._finish(query.i, keys, part.result[1], part.result[2:])

    def _block(self, key: Value, count: Value, state: Sequence[Value]) -> list[Value]:
        f = self.f
        self._multiply(key, count)
        before, total, *results = state
        most = self._largest(key, count, before)
        nowhere = f.b.fcmp_ordered("==", most, F32(-math.inf))
        shift = f.choose(nowhere, F32(0.0), most)
        scale = exp(f, f.b.fsub(before, shift))
        total = f.fma(total, scale, self._weigh(count, shift))
        many = f.splat(scale)
        return [most, total, *self._add(key, count, [f.b.fmul(r, many) for r in results])]

    def _multiply(self, key: Value, count: Value) -> None:
        f, heads = self.f, self.heads
        base = f.at(self.places[2], f.mul(key, heads.k_row))
        with f.loop(0, count, 4, unroll=False) as j:
            for k in range(4):  # several sums at once; the last ones may be repeated
                place = f.least(f.add(j.i, k), f.sub(count, 1))
                row, total = f.at(base, f.mul(place, heads.k_row)), None
                for v, lanes in enumerate(self.parts):
                    line = load_lanes(f, f.at(row, v * f.lanes), lanes)
                    total = (
                        f.b.fmul(line, self.query[v])
                        if total is None
                        else f.fma(line, self.query[v], total)
                    )
                f.store(f.sum_lanes(total), f.at(f.scratch, place))

    def _largest(self, key: Value, count: Value, before: Value) -> Value:
        """Apply the expression and return the largest score so far."""
        f = self.f
        expr = read_expr(self.scores)
        whole = f.sub(count, f.rem(count, f.lanes))

        def score(j: Value, lanes: int, most: Value) -> Value:
            place = f.at(f.scratch, j)
            others = self._others(f.add(key, j), lanes)
            value = emit_expr(f, expr, [f.load(place, lanes=lanes), *others], lanes=lanes)
            f.store(value, place)
            return f.choose(f.b.fcmp_ordered(">", value, most), value, most)

        with f.loop(0, whole, f.lanes, carry=[f.splat(before)], unroll=False) as many:
            many.next = [score(many.i, f.lanes, many.values[0])]
        with f.loop(whole, count, carry=[f.max_lanes(many.result[0])], unroll=False) as one:
            one.next = [score(one.i, 1, one.values[0])]
        return one.result[0]

    def _others(self, key: Value, lanes: int) -> list[Value]:
        """Return the numbers of the operands of the scores for some keys."""
        f, found = self.f, []
        for k, operand in enumerate(self.operands):
            pointer, dtype = self.places[4 + k], operand.dtype
            if operand.kind == "both":
                pointer = f.at(pointer, f.mul(self.index, self.steps[k]), dtype)
            if operand.kind != "one":
                found.append(f.load(f.at(pointer, key, dtype), dtype, lanes))
            else:
                found.append(f.load(pointer, dtype, 1))
        return found

    def _weigh(self, count: Value, shift: Value) -> Value:
        """Turn scores into weights; return their sum."""
        f = self.f
        whole = f.sub(count, f.rem(count, f.lanes))

        def weigh(j: Value, lanes: int, total: Value) -> Value:
            place = f.at(f.scratch, j)
            shifted = f.b.fsub(f.load(place, lanes=lanes), f.splat(shift, lanes))
            weight = exp(f, shifted, bounded=(False, True))
            f.store(weight, place)
            return f.b.fadd(total, weight)

        with f.loop(0, whole, f.lanes, carry=[f.floats(0.0)], unroll=False) as many:
            many.next = [weigh(many.i, f.lanes, many.values[0])]
        with f.loop(whole, count, carry=[f.sum_lanes(many.result[0])], unroll=False) as one:
            one.next = [weigh(one.i, 1, one.values[0])]
        return one.result[0]

    def _add(self, key: Value, count: Value, results: Sequence[Value]) -> list[Value]:
        """Add the weighted values, even and odd ones apart: their sums wait less for each other."""
        f, heads, n = self.f, self.heads, len(self.value_parts)
        base = f.at(self.places[3], f.mul(key, heads.v_row))

        def add(j: Value, sums: Sequence[Value]) -> list[Value]:
            weight = f.splat(f.load(f.at(f.scratch, j), lanes=1))
            row = f.at(base, f.mul(j, heads.v_row))
            lines = [
                load_lanes(f, f.at(row, v * f.lanes), c) for v, c in enumerate(self.value_parts)
            ]
            return [f.fma(weight, line, s) for line, s in zip(lines, sums, strict=True)]

        even = f.sub(count, f.rem(count, 2))
        carry = [*results, *[f.floats(0.0)] * n]
        with f.loop(0, even, 2, carry=carry, unroll=False) as pair:
            pair.next = [
                *add(pair.i, pair.values[:n]),
                *add(f.add(pair.i, 1), pair.values[n:]),
            ]
        with f.loop(even, count, carry=pair.result[:n], unroll=False) as last:
            last.next = add(last.i, last.values)
        return [f.b.fadd(a, b) for a, b in zip(last.result, pair.result[n:], strict=True)]

    def _finish(self, query: Value, keys: Value, total: Value, results: Sequence[Value]) -> None:
        f = self.f
        inverse = f.b.fdiv(F32(1.0), total)
        inverse = f.choose(f.equals(keys, 0), F32(0.0), inverse)  # a sum of nothing
        dtype = self.heads.y_dtype
        to = f.at(self.places[0], f.mul(query, self.heads.y_row), dtype)
        good = has_weights(f, self.zeros, total)
        for k, lanes in enumerate(self.value_parts):
            value = f.b.fmul(results[k], f.splat(inverse))
            if self.zeros:
                value = f.choose(good, value, f.floats(0.0))
            store_lanes(f, value, f.at(to, k * f.lanes, dtype), lanes, dtype)
