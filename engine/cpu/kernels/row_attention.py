"""Attention of one query to keys that lie in static memory, several heads of a token together.

Keys and values are read as they lie, position after position with all heads of the task in one
piece, so that a processor's own look-ahead finds the next ones. The products of some positions with
every head are summed across lanes by a tree of shuffles that ends in one vector of scores, heads
side by side: largest score, exponentials and sums then go lane by lane for all heads at once.
Positions are taken in blocks; the largest score, the sum and the results are carried from block to
block (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), so the memory
does not grow with the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, I32, I64, Value, vector
from engine.cpu.kernel import KernelBuilder
from engine.cpu.kernels.attention_parts import vector_parts
from engine.cpu.kernels.tile import load_lanes, store_lanes
from engine.cpu.target import Target
from engine.cpu.vmath import exp
from engine.dtypes import DType

POSITIONS: Final = 256  # of one block: their scores and places stay in the first-level cache
LINE: Final = 64
Entry = Callable[[Value], Value]


@dataclass(frozen=True)
class RowHeads:
    """The heads of a row.

    Attributes:
        count: How many there are.
        size: Numbers of a query and of a key.
        value_size: Numbers of a value and of a result.
        scale: Of the products.
    """

    count: int
    size: int
    value_size: int
    scale: float

    def group(self, target: Target) -> int:
        """Return how many heads one task takes: a divisor of all and of the lanes, such that their
        queries, and their results, fit into half of the registers.
        """
        parts = -(-max(self.size, self.value_size) // target.lanes)
        most = max(1, (16 if target.lanes == 16 else 8) // parts)
        fits = [n for n in range(1, min(most, target.lanes) + 1) if target.lanes % n == 0]
        return max(n for n in fits if self.count % n == 0)

    def tasks(self, target: Target) -> int:
        """Return the tasks of one row."""
        return self.count // self.group(target)

    def scratch_bytes(self, target: Target) -> int:
        """Return the bytes of a block's places and scores, and of a number per lane."""
        return sum(_sizes(self.group(target), target.lanes))


def _sizes(group: int, lanes: int) -> tuple[int, ...]:
    """Return the bytes of: places of keys, of values, scores, numbers per lane."""
    padded = POSITIONS + lanes  # a last vector may hold positions that there are not
    return 8 * padded, 8 * padded, -(-4 * padded * group // LINE) * LINE, 4 * lanes


class RowAttention:
    """Code for the heads of one task; operands 0, 2, 3 and 4 are y, q, keys and values."""

    def __init__(
        self,
        f: KernelBuilder,
        heads: RowHeads,
        row: Value,
        head: Value,
        entry: Entry,
        bias: tuple[Value, Value] | None,
    ) -> None:
        """`entry` gives the cache entry of a position, `bias` where the first head's begins and the
        elements from head to head.
        """
        self.f, self.heads, self.entry, self.bias = f, heads, entry, bias
        self.group = heads.group(f.target)
        self.together = f.lanes // self.group  # positions whose scores make up one vector
        self.parts = vector_parts(heads.size, f.lanes)
        self.value_parts = vector_parts(heads.value_size, f.lanes)
        size, value_size = heads.size, heads.value_size
        self.widths = heads.count * size, heads.count * value_size
        self.y = f.at(f.operand(0), f.add(f.mul(row, self.widths[1]), f.mul(head, value_size)))
        self.q = f.at(f.operand(2), f.add(f.mul(row, self.widths[0]), f.mul(head, size)))
        self.keys = f.at(f.operand(3), f.mul(head, size))
        self.values = f.at(f.operand(4), f.mul(head, value_size))
        sizes = _sizes(self.group, f.lanes)
        places = [f.at_bytes(f.scratch, sum(sizes[:k])) for k in range(len(sizes))]
        self.key_places, self.value_places, self.scores, self.lanes = places

    def run(self, count: Value) -> None:
        """Attend to `count` positions."""
        f, size, pitch = self.f, self.heads.size, len(self.parts)
        self.query = [
            load_lanes(f, f.at(self.q, h * size + k * f.lanes), n)
            for h in range(self.group)
            for k, n in enumerate(self.parts)
        ]
        assert len(self.query) == self.group * pitch
        nothing = [f.floats(0.0)] * (self.group * len(self.value_parts))
        carry = [f.floats(-math.inf), f.floats(0.0), *nothing]
        with f.loop(0, count, POSITIONS, carry=carry, unroll=False) as block:
            here = f.least(f.sub(count, block.i), POSITIONS)
            self._find(block.i, here)
            most, total, *results = block.values
            most, total, scale = self._weigh(block.i, here, most, total)
            results = self._add(here, self._rescaled(results, scale, f.less(0, block.i)))
            block.next = [most, total, *results]
        _, total, *results = block.result
        self._finish(self._folded_over(total, f.b.fadd), results)

    def _find(self, first: Value, count: Value) -> None:
        """Note the byte offsets of a block's entries; up to a whole vector the last one again."""
        f = self.f
        with f.loop(0, f.add(count, self.together - 1), unroll=False) as j:
            entry = self.entry(f.add(first, f.least(j.i, f.sub(count, 1))))
            for memory, width in zip(
                (self.key_places, self.value_places), self.widths, strict=True
            ):
                place = f.at(memory, j.i, DType.INT64)
                f.b.store(f.mul(entry, 4 * width), place, align=8)

    def _place(self, memory: Value, j: Value) -> Value:
        f = self.f
        return f.b.load(f.at(memory, j, DType.INT64), typ=I64, align=8)

    # ------------------------------------------------------------------ scores

    def _weigh(
        self, first: Value, count: Value, before: Value, total: Value
    ) -> tuple[Value, Value, Value]:
        """Turn a block's scores into weights; return the largest score and the sum so far, and what
        earlier weights are to be multiplied with.
        """
        f = self.f
        most = self._score(first, count, before)
        shift = f.choose(f.b.fcmp_ordered("==", most, f.floats(-math.inf)), f.floats(0.0), most)
        scale = exp(f, f.b.fsub(before, shift))
        with f.loop(0, count, self.together, carry=[f.b.fmul(total, scale)], unroll=False) as j:
            place = f.at(self.scores, f.mul(j.i, self.group))
            weight = exp(f, f.b.fsub(f.load(place), shift))
            f.store(weight, place)
            j.next = [f.b.fadd(j.values[0], weight)]
        return most, j.result[0], scale

    def _score(self, first: Value, count: Value, before: Value) -> Value:
        """Write the scores of a block, heads side by side, -inf behind the last position; return
        the largest ones so far, in the lanes of every position.
        """
        f = self.f
        with f.loop(0, count, self.together, carry=[before], unroll=False) as j:
            found = f.b.fmul(self._products(j.i, 0, f.lanes), f.floats(self.heads.scale))
            if self.bias is not None:
                found = f.b.fadd(found, self._biases(first, j.i, count))
            found = f.choose(self._existing(f.sub(count, j.i)), found, f.floats(-math.inf))
            f.store(found, f.at(self.scores, f.mul(j.i, self.group)))
            j.next = [self._larger(found, j.values[0])]
        return self._folded_over(j.result[0], self._larger)

    def _larger(self, x: Value, y: Value) -> Value:
        return self.f.choose(self.f.b.fcmp_ordered(">", x, y), x, y)

    def _products(self, position: Value, first: int, count: int) -> Value:
        """Return a vector with `count` of the products of these positions and all heads, from the
        `first` one on, each in `lanes / count` parts.
        """
        f = self.f
        if count > 1:
            half = count // 2
            a = self._products(position, first, half)
            b = self._products(position, first + half, half)
            return self._folded(a, b, half)
        behind, head = divmod(first, self.group)
        place = self._place(self.key_places, f.add(position, behind))
        key, total = f.at_bytes(self.keys, place), None
        for k, lanes in enumerate(self.parts):
            line = load_lanes(f, f.at(key, head * self.heads.size + k * f.lanes), lanes)
            part = self.query[head * len(self.parts) + k]
            total = f.b.fmul(line, part) if total is None else f.fma(line, part, total)
        return total

    def _folded(self, a: Value, b: Value, step: int) -> Value:
        """Return a's lanes added pairwise where bit `step` of the lane is 0, b's where it is 1."""
        lanes, n = range(self.f.lanes), self.f.lanes
        near = [n + (i ^ step) if i & step else i for i in lanes]
        far = [n + i if i & step else i ^ step for i in lanes]
        return self.f.b.fadd(self._shuffled(a, b, near), self._shuffled(a, b, far))

    def _folded_over(self, x: Value, both: Callable[[Value, Value], Value]) -> Value:
        """Bring a number per head and position down to one per head, in every position's lanes."""
        step = self.group
        while step < self.f.lanes:
            x = both(x, self._shuffled(x, x, [i ^ step for i in range(self.f.lanes)]))
            step *= 2
        return x

    def _shuffled(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        mask = ir.Constant(vector(I32, self.f.lanes), list(lanes))
        return self.f.b.shuffle_vector(a, b, mask)

    def _existing(self, left: Value) -> Value:
        """Return the lanes of positions that there are, with `left` of them to go."""
        f = self.f
        behind = ir.Constant(vector(I32, f.lanes), [i // self.group for i in range(f.lanes)])
        return f.b.icmp_signed("<", behind, f.splat(f.b.trunc(left, I32)))

    def _biases(self, first: Value, position: Value, count: Value) -> Value:
        """Return a number of the bias per lane."""
        f = self.f
        start, step = self.bias or (None, None)
        found: Any = ir.Constant(vector(F32, f.lanes), ir.Undefined)
        for i in range(f.lanes):
            behind, head = divmod(i, self.group)
            t = f.least(f.add(position, behind), f.sub(count, 1))
            number = f.load(f.at(start, f.add(f.mul(step, head), first, t)), lanes=1)
            found = f.b.insert_element(found, number, I32(i))
        return found

    # ------------------------------------------------------------------ values

    def _per_head(self, numbers: Value) -> list[Value]:
        """Return each head's number of a vector in every lane."""
        f = self.f
        return [self._shuffled(numbers, numbers, [h] * f.lanes) for h in range(self.group)]

    def _rescaled(self, results: Sequence[Value], scale: Value, is_later: Value) -> list[Value]:
        """Bring earlier results to the scale of the weights to come."""
        f, n = self.f, len(self.value_parts)
        scale = f.choose(is_later, scale, f.floats(0.0))
        return [
            f.b.fmul(results[h * n + k], many)
            for h, many in enumerate(self._per_head(scale))
            for k in range(n)
        ]

    def _add(self, count: Value, results: Sequence[Value]) -> list[Value]:
        """Return the results with the weighted values of a block added."""
        f, size, n = self.f, self.heads.value_size, len(self.value_parts)
        with f.loop(0, count, carry=results, unroll=False) as j:
            row = f.at_bytes(self.values, self._place(self.value_places, j.i))
            weights = f.at(self.scores, f.mul(j.i, self.group))
            sums = []
            for h in range(self.group):
                weight = f.splat(f.load(f.at(weights, h), lanes=1))
                for k, lanes in enumerate(self.value_parts):
                    line = load_lanes(f, f.at(row, h * size + k * f.lanes), lanes)
                    sums.append(f.fma(weight, line, j.values[h * n + k]))
            j.next = sums
        return list(j.result)

    def _finish(self, total: Value, results: Sequence[Value]) -> None:
        """Divide by the sum of the weights; no weight gives zeros."""
        f, n = self.f, len(self.value_parts)
        nothing = f.b.fcmp_ordered("==", total, f.floats(0.0))
        inverse = f.b.fdiv(f.floats(1.0), total)
        inverse = f.choose(nothing, f.floats(0.0), inverse)
        for h, many in enumerate(self._per_head(inverse)):
            to = f.at(self.y, h * self.heads.value_size)
            for k, lanes in enumerate(self.value_parts):
                value = f.b.fmul(results[h * n + k], many)
                store_lanes(f, value, f.at(to, k * f.lanes), lanes)
