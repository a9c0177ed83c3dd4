"""Attention whose products take pairs of bfloat16: `vdpbf16ps` sums two of them at a time.

The blocks of queries of a task share copies of a block of keys and values: keys rounded, neighbours
of a head being the pairs, and values with a key's numbers beside the next key's. Weights take the
same form as the softmax writes them. Scores, softmax and all sums are float32; the sum that results
are divided by is that of the weights before they are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from engine.cpu.builder import BF16, I16, I32, Number, Value, vector
from engine.cpu.kernels.attention_block import QueryBlock
from engine.cpu.kernels.attention_parts import vector_parts
from engine.cpu.kernels.square import transposed
from engine.cpu.kernels.tile import broadcast, load_columns, load_lanes, multiply_add
from engine.dtypes import DType

HALF = DType.BFLOAT16


class PairBlock(QueryBlock):
    """Code for one task of blocks of queries, for processors that multiply pairs."""

    def _pair(self, even: Value, odd: Value) -> Value:
        """Return two vectors of float32 rounded, every number beside its neighbour's."""
        f = self.f
        rounded = vector(BF16, 2 * f.lanes)
        name = f"llvm.x86.avx512bf16.cvtne2ps2bf16.{32 * f.lanes}"
        both = f.call(f.intrinsic(name, rounded, [even.type] * 2), odd, even)
        numbers = f.b.bitcast(both, vector(I16, 2 * f.lanes))
        picks = [lane + half * f.lanes for lane in range(f.lanes) for half in (0, 1)]
        mask = ir.Constant(vector(I32, 2 * f.lanes), picks)
        return f.b.shuffle_vector(numbers, numbers, mask)

    def _store_pairs(self, even: Value, odd: Value, pointer: Value) -> None:
        self.f.b.store(self._pair(even, odd), pointer, align=4)

    # ------------------------------------------------------------------ copies

    def _turn_square(self, rows: Sequence[Value], d: Number, group: int, count: int) -> None:
        """Queries come to lie as (pairs of a head, width, 2)."""
        f = self.f
        lines = [load_lanes(f, f.at(row, d), count) for row in rows]
        columns = transposed(f, lines)  # zeros behind the last one
        first = f.div(d, 2)
        for k in range(0, count, 2):
            place = f.add(f.mul(f.add(first, k // 2), self.width), group)
            self._store_pairs(columns[k], columns[k + 1], f.at(self.q, place))

    def _prepare(self, key: Value, count: Value) -> None:
        """Round a block of keys; put neighbouring values beside each other."""
        f, heads = self.f, self.heads
        keys, values = self.copies
        source = f.at(self.places[2], f.mul(key, heads.k_row))
        with f.loop(0, count, unroll=False) as j:
            row, to = f.at(source, f.mul(j.i, heads.k_row)), self._key(keys, j.i)
            for v, lanes in enumerate(vector_parts(heads.size, f.lanes)):
                line = load_lanes(f, f.at(row, v * f.lanes), lanes)
                f.store(line, f.at(to, v * f.lanes, HALF), HALF)
        source = f.at(self.places[3], f.mul(key, heads.v_row))
        whole = f.sub(count, f.rem(count, 2))
        with f.loop(0, whole, 2, unroll=False) as j:
            self._copy_values(source, values, j.i, alone=False)
        with f.if_(f.less(whole, count)):
            self._copy_values(source, values, whole, alone=True)

    def _copy_values(self, source: Value, values: Value, key: Value, *, alone: bool) -> None:
        f, heads = self.f, self.heads
        row = f.at(source, f.mul(key, heads.v_row))
        to = self._value(values, f.div(key, 2))
        for v, lanes in enumerate(vector_parts(heads.value_size, f.lanes)):
            even = load_lanes(f, f.at(row, v * f.lanes), lanes)
            odd = f.floats(0.0)
            if not alone:
                odd = load_lanes(f, f.at(row, heads.v_row + v * f.lanes), lanes)
            self._store_pairs(even, odd, f.at(to, v * f.lanes))

    def _key(self, keys: Value, j: Value) -> Value:
        return self.f.at(keys, self.f.mul(j, self.layout.key_pitch), HALF)

    def _value(self, values: Value, pair: Value) -> Value:
        return self.f.at(values, self.f.mul(pair, self.layout.value_pitch))  # a pair has 4 bytes

    # ------------------------------------------------------------------ products

    def _keys_from(self, key: Value) -> Value:
        return self.copies[0]

    def _values_from(self, key: Value) -> Value:
        return self.copies[1]

    def _sum_scores(self, base: Value, start: Value, rows: int, vectors: int) -> list[Value]:
        f, pitch = self.f, self.layout.key_pitch
        keys = self._key(base, start)
        carry = [f.floats(0.0)] * (rows * vectors)
        pairs = -(-self.heads.size // 2)
        with f.loop(0, pairs, carry=carry, unroll=False) as d:
            line, sums = f.at(self.q, f.mul(d.i, self.width)), []
            columns = [load_columns(f, f.at(line, v * f.lanes), HALF) for v in range(vectors)]
            place = f.at(keys, f.mul(d.i, 2), HALF)
            for r in range(rows):
                pair = broadcast(f, f.at(place, r * pitch, HALF), HALF)
                before = d.values[r * vectors : (r + 1) * vectors]
                sums += [
                    multiply_add(f, pair, c, s, HALF) for c, s in zip(columns, before, strict=True)
                ]
            d.next = sums
        return d.result

    def _weights(self, count: Value, most: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        """Weights of two keys at a time, stored in front of the scores yet to be read."""
        f = self.f
        whole = f.sub(count, f.rem(count, 2))
        with f.loop(0, whole, 2, carry=sums, unroll=False) as j:
            j.next = self._weigh_pair(j.i, most, j.values, alone=False)
        with f.loop(whole, count, carry=j.result, unroll=False) as last:
            last.next = self._weigh_pair(last.i, most, last.values, alone=True)
        return last.result

    def _weigh_pair(
        self, key: Value, most: Sequence[Value], sums: Sequence[Value], *, alone: bool
    ) -> list[Value]:
        f, totals = self.f, []
        row = f.at(self.scores, f.mul(key, self.width))
        to = f.at(self.scores, f.mul(f.div(key, 2), self.width))
        for v, largest in enumerate(most):
            even = self._weight(f.at(row, v * f.lanes), largest)
            odd, total = f.floats(0.0), f.b.fadd(sums[v], even)
            if not alone:
                odd = self._weight(f.at(row, self.width + v * f.lanes), largest)
                total = f.b.fadd(total, odd)
            self._store_pairs(even, odd, f.at(to, v * f.lanes))
            totals.append(total)
        return totals

    def _sum_values(
        self, values: Value, weights: Value, parts: Sequence[int], count: Value, carry: list[Value]
    ) -> list[Value]:
        f = self.f
        with f.loop(0, f.div(f.add(count, 1), 2), carry=carry, unroll=False) as pair:
            row, column = self._value(values, pair.i), f.at(weights, f.mul(pair.i, self.width))
            lines = [load_columns(f, f.at(row, v * f.lanes), HALF) for v in range(len(parts))]
            sums = []
            for r in range(self.rows):
                weight = broadcast(f, f.at(column, r), HALF)
                for v, line in enumerate(lines):
                    before = pair.values[r * len(parts) + v]
                    sums.append(multiply_add(f, weight, line, before, HALF))
            pair.next = sums
        return pair.result
