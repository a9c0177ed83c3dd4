"""Attention of one query per row over keys in static memory, all heads of a token together.

A task is one row and some of its heads. Where the keys of each position lie is looked up once for
all of them. Products of queries and keys are summed across lanes for as many positions at a time as
a vector has lanes: a tree of shuffles ends in one vector with a score per position, so that the
softmax runs along the positions. Positions are taken in blocks; the largest score, the sum and the
results are carried from block to block (Milakov and Gimelshein, "Online normalizer calculation for
softmax", 2018), so the memory does not grow with the length. What a row gives depends on that row
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, I1, I32, I64, PTR, Number, Value, suffix, vector
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
        group: How many of them one task takes; divides `count`.
        size: Numbers of a query and of a key.
        value_size: Numbers of a value and of a result.
        scale: Of the products.
    """

    count: int
    group: int
    size: int
    value_size: int
    scale: float

    @property
    def tasks(self) -> int:
        """Tasks of one row."""
        return self.count // self.group

    def together(self, target: Target) -> int:
        """Return the heads whose results fit into registers at a time; divides `group`."""
        parts = -(-self.value_size // target.lanes)
        most = max(1, (16 if target.lanes == 16 else 8) // parts)
        return max(n for n in range(1, self.group + 1) if self.group % n == 0 and n <= most)


@dataclass(frozen=True)
class RowScratch:
    """Where things lie in a thread's scratch memory."""

    heads: RowHeads
    lanes: int

    @property
    def pitch(self) -> int:
        """Elements from one head's results to the next one's: whole vectors."""
        return -(-self.heads.value_size // self.lanes) * self.lanes

    @property
    def offsets(self) -> tuple[int, ...]:
        """Bytes in front of: places of keys, of values, scores, results, largest scores, sums; and
        of all.
        """
        group = self.heads.group
        sizes = [8 * POSITIONS, 8 * POSITIONS, 4 * POSITIONS * group]
        sizes += [4 * self.pitch * group, 4 * group, 4 * group]
        found = [0]
        for size in sizes:
            found.append(found[-1] + -(-size // LINE) * LINE)
        return tuple(found)


class RowAttention:
    """Code for some heads of one row; operands 0, 2, 3 and 4 are y, q, keys and values."""

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
        self.parts = vector_parts(heads.size, f.lanes)
        self.value_parts = vector_parts(heads.value_size, f.lanes)
        self.widths = heads.count * heads.size, heads.count * heads.value_size
        size, value_size = heads.size, heads.value_size
        self.y = f.at(f.operand(0), f.add(f.mul(row, self.widths[1]), f.mul(head, value_size)))
        self.q = f.at(f.operand(2), f.add(f.mul(row, self.widths[0]), f.mul(head, size)))
        self.keys = f.at(f.operand(3), f.mul(head, size))
        self.values = f.at(f.operand(4), f.mul(head, value_size))
        scratch = RowScratch(heads, f.lanes)
        self.pitch = scratch.pitch
        places = [f.at_bytes(f.scratch, offset) for offset in scratch.offsets[:-1]]
        self.key_places, self.value_places, self.scores = places[:3]
        self.results, self.most, self.total = places[3:]

    def run(self, count: Value) -> None:
        """Attend to `count` positions."""
        f, group = self.f, self.heads.group
        f.clear(self.results, 4 * self.pitch * group)
        with f.loop(0, group, unroll=False) as h:
            f.store(F32(-math.inf), f.at(self.most, h.i))
            f.store(F32(0.0), f.at(self.total, h.i))
        with f.loop(0, count, POSITIONS, unroll=False) as block:
            here = f.least(f.sub(count, block.i), POSITIONS)
            self._find(block.i, here)
            with f.loop(0, group, unroll=False) as h:
                self._weigh(h.i, block.i, here)
            with f.loop(0, group, self.heads.together(f.target), unroll=False) as h:
                self._add(h.i, here)
        with f.loop(0, group, unroll=False) as h:
            self._finish(h.i)

    def _find(self, first: Value, count: Value) -> None:
        """Note the byte offsets of a block's entries; up to a whole vector the last one again."""
        f = self.f
        whole = f.mul(f.div(f.add(count, f.lanes - 1), f.lanes), f.lanes)
        with f.loop(0, whole, unroll=False) as j:
            t = f.add(first, f.least(j.i, f.sub(count, 1)))
            entry = self.entry(t)
            for memory, width in zip(
                (self.key_places, self.value_places), self.widths, strict=True
            ):
                place = f.at(memory, j.i, DType.INT64)
                f.b.store(f.mul(entry, 4 * width), place, align=8)

    # ------------------------------------------------------------------ scores

    def _weigh(self, h: Value, first: Value, count: Value) -> None:
        """Turn a head's scores into weights, and bring what was summed before to their scale."""
        f = self.f
        scores = f.at(self.scores, f.mul(h, POSITIONS))
        before = f.load(f.at(self.most, h), lanes=1)
        most = self._score(scores, h, first, count, before)
        shift = f.choose(f.b.fcmp_ordered("==", most, F32(-math.inf)), F32(0.0), most)
        shifts = f.splat(shift)
        with f.loop(0, count, f.lanes, carry=[f.floats(0.0)], unroll=False) as j:
            place = f.at(scores, j.i)
            weight = exp(f, f.b.fsub(f.load(place), shifts))
            f.store(weight, place)
            j.next = [f.b.fadd(j.values[0], weight)]
        scale = exp(f, f.b.fsub(before, shift))
        total = f.at(self.total, h)
        f.store(f.fma(f.load(total, lanes=1), scale, f.sum_lanes(j.result[0])), total)
        f.store(most, f.at(self.most, h))
        with f.if_(f.less(0, first)):
            self._rescale(h, scale)

    def _rescale(self, h: Value, scale: Value) -> None:
        f = self.f
        for k in range(len(self.value_parts)):
            place = f.at(self.results, f.add(f.mul(h, self.pitch), k * f.lanes))
            f.store(f.b.fmul(f.load(place), f.splat(scale)), place)

    def _score(self, scores: Value, h: Value, first: Value, count: Value, before: Value) -> Value:
        """Write the scores of a block; return the largest one so far. Behind them is -inf."""
        f, size = self.f, self.heads.size
        row = f.at(self.q, f.mul(h, size))
        query = [load_lanes(f, f.at(row, k * f.lanes), n) for k, n in enumerate(self.parts)]
        keys = f.at(self.keys, f.mul(h, size))
        with f.loop(0, count, f.lanes, carry=[f.splat(before)], unroll=False) as j:
            products = self._products(keys, query, j.i, f.lanes)
            found = f.b.fmul(products, f.floats(self.heads.scale))
            mask = self._existing(f.sub(count, j.i))
            if self.bias is not None:
                start, step = self.bias
                at = f.at(start, f.add(f.mul(h, step), first, j.i))
                found = f.b.fadd(found, self._masked(at, mask))
            found = f.choose(mask, found, f.floats(-math.inf))
            f.store(found, f.at(scores, j.i))
            largest = j.values[0]
            j.next = [f.choose(f.b.fcmp_ordered(">", found, largest), found, largest)]
        return f.max_lanes(j.result[0])

    def _products(self, keys: Value, query: Sequence[Value], first: Number, count: int) -> Value:
        """Return a vector with the products of `count` positions, each in `lanes / count` parts."""
        f = self.f
        if count > 1:
            half = count // 2
            a = self._products(keys, query, first, half)
            b = self._products(keys, query, f.add(first, half), half)
            return self._folded(a, b, half)
        place = f.b.load(f.at(self.key_places, first, DType.INT64), typ=I64, align=8)
        key, total = f.at_bytes(keys, place), None
        for k, (lanes, part) in enumerate(zip(self.parts, query, strict=True)):
            line = load_lanes(f, f.at(key, k * f.lanes), lanes)
            total = f.b.fmul(line, part) if total is None else f.fma(line, part, total)
        return total

    def _folded(self, a: Value, b: Value, step: int) -> Value:
        """Return a's lanes added pairwise where bit `step` of the lane is 0, b's where it is 1."""
        f = self.f
        if f.lanes == 1:
            return a
        lanes, n = range(f.lanes), f.lanes
        near = [n + (i ^ step) if i & step else i for i in lanes]
        far = [n + i if i & step else i ^ step for i in lanes]
        kind = vector(I32, n)
        low, high = (f.b.shuffle_vector(a, b, ir.Constant(kind, each)) for each in (near, far))
        return f.b.fadd(low, high)

    def _existing(self, left: Value) -> Value:
        """Return which lanes there are with `left` positions to go."""
        f = self.f
        lanes = ir.Constant(vector(I32, f.lanes), list(range(f.lanes)))
        return f.b.icmp_signed("<", lanes, f.splat(f.b.trunc(left, I32)))

    def _masked(self, pointer: Value, mask: Value) -> Value:
        f = self.f
        kind = vector(F32, f.lanes)
        name = f"llvm.masked.load.{suffix(kind)}.p0"
        load = f.intrinsic(name, kind, [PTR, I32, vector(I1, f.lanes), kind])
        return f.call(load, pointer, I32(4), mask, f.floats(0.0))

    # ------------------------------------------------------------------ values

    def _add(self, h: Value, count: Value) -> None:
        """Add the weighted values of a block to the results of neighbouring heads."""
        f, size, n = self.f, self.heads.value_size, len(self.value_parts)
        together = self.heads.together(f.target)
        values = f.at(self.values, f.mul(h, size))
        scores = f.at(self.scores, f.mul(h, POSITIONS))
        places = [
            f.at(self.results, f.add(f.mul(f.add(h, i), self.pitch), k * f.lanes))
            for i in range(together)
            for k in range(n)
        ]
        with f.loop(0, count, carry=[f.load(p) for p in places], unroll=False) as j:
            place = f.b.load(f.at(self.value_places, j.i, DType.INT64), typ=I64, align=8)
            row, sums = f.at_bytes(values, place), list(j.values)
            for i in range(together):
                weight = f.splat(f.load(f.at(scores, f.add(j.i, i * POSITIONS)), lanes=1))
                for k, lanes in enumerate(self.value_parts):
                    line = load_lanes(f, f.at(row, i * size + k * f.lanes), lanes)
                    sums[i * n + k] = f.fma(weight, line, sums[i * n + k])
            j.next = sums
        for p, total in zip(places, j.result, strict=True):
            f.store(total, p)

    def _finish(self, h: Value) -> None:
        """Divide by the sum of the weights; no weight gives zeros."""
        f = self.f
        total = f.load(f.at(self.total, h), lanes=1)
        nothing = f.b.fcmp_ordered("==", total, F32(0.0))
        inverse = f.choose(nothing, F32(0.0), f.b.fdiv(F32(1.0), total))
        to = f.at(self.y, f.mul(h, self.heads.value_size))
        for k, lanes in enumerate(self.value_parts):
            place = f.at(self.results, f.add(f.mul(h, self.pitch), k * f.lanes))
            value = f.b.fmul(f.load(place), f.splat(inverse))
            store_lanes(f, value, f.at(to, k * f.lanes), lanes)
