"""Where the largest or the smallest element along an axis is."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I32, I64, Builder, Value, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import UNROLLED, start
from engine.cpu.kernels.rows import Part, each_part, first_lanes, has_masks
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class ArgExtreme(Kernel):
    """operands: positions (outer, inner), int64; x (outer, axis, inner).

    numbers: the sizes of the axis and of the inner axes, rows (outer), rows in a task, columns of
    the inner axes in a task. Tasks: blocks of rows times blocks of columns.

    Attributes:
        dtype: Of x.
        is_largest: Whether the largest is looked for.
        is_last: Whether the last of equal ones counts.
        has_rows: Whether there are no inner axes: the axis' elements are neighbours.
    """

    dtype: DType
    is_largest: bool
    is_last: bool
    has_rows: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Carry the best element and its place along the axis."""
        f = KernelBuilder(module, name, target)
        axis, inner, rows, height, columns = (f.number(k) for k in range(5))
        blocks = f.div(f.add(inner, f.sub(columns, 1)), columns)
        out, x = f.operand(0), f.operand(1)
        with f.loop(f.low, f.high, unroll=False) as task:
            row_block, block = f.divmod(task.i, blocks)
            top, left = f.mul(row_block, height), f.mul(block, columns)
            count = f.sub(f.least(f.add(left, columns), inner), left)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                first = f.add(f.mul(f.mul(row.i, axis), inner), left)
                line = f.at(out, f.add(f.mul(row.i, inner), left), DType.INT64)
                source = f.at(x, first, self.dtype)
                if self.has_rows:
                    self._row(f, line, source, axis)
                else:
                    self._columns(f, line, source, axis, inner, count)
        f.ret()

    def _columns(
        self, f: KernelBuilder, line: Value, source: Value, axis: Value, inner: Value, count: Value
    ) -> None:
        def column(part: Part, _: list[Value]) -> list[Value]:
            worst = start(f, "max" if self.is_largest else "min", self.dtype, part.lanes)
            nowhere = ir.Constant(vector(I64, part.lanes), None)
            with f.loop(0, axis, carry=[worst, nowhere], unroll=False) as k:
                best, place = k.values
                x = part.load(f, f.at(source, f.mul(k.i, inner), self.dtype), self.dtype)
                wins = self._wins(f, x, best)
                here = f.splat(k.i, part.lanes)
                k.next = [f.b.select(wins, x, best), f.b.select(wins, here, place)]
            part.store(f, k.result[1], line, DType.INT64)
            return []

        each_part(f, count, (), column)

    def _row(self, f: KernelBuilder, line: Value, source: Value, count: Value) -> None:
        """Several candidates per lane, all beginning with the first element; then the best."""
        lanes = f.lanes
        first = f.load(source, self.dtype, 1)
        zero = ir.Constant(vector(I64, lanes), None)
        steps = ir.Constant(vector(I64, lanes), list(range(lanes)))
        many, whole = (f.sub(count, f.rem(count, n)) for n in (UNROLLED * lanes, lanes))

        def better(part: Part, best: Value, place: Value) -> list[Value]:
            x = part.load(f, source, self.dtype)
            wins = self._wins(f, x, best)
            here = part.i
            if part.lanes > 1:
                here = f.b.add(f.splat(here, part.lanes), steps)
            if part.mask is not None:
                wins = f.b.and_(wins, part.mask)
            return [f.b.select(wins, x, best), f.b.select(wins, here, place)]

        begin = [f.splat(first), zero]
        with f.loop(0, many, UNROLLED * lanes, begin * UNROLLED, unroll=False) as loop:
            loop.next = []
            for k in range(UNROLLED):
                part = Part(f.add(loop.i, k * lanes), lanes)
                loop.next += better(part, *loop.values[2 * k : 2 * k + 2])
        found = [tuple(loop.result[2 * k : 2 * k + 2]) for k in range(UNROLLED)]
        best, place = found[0]
        for x, here in found[1:]:
            best, place = self._best(f, best, place, x, here)
        with f.loop(many, whole, lanes, [best, place], unroll=False) as last:
            last.next = better(Part(last.i, lanes), *last.values)
        best, place = last.result
        if has_masks(f):
            mask = first_lanes(f, f.sub(count, whole))
            best, place = better(Part(whole, lanes, mask), best, place)
            place = self._over_lanes(f, best, place)[1]
        else:
            best, place = self._over_lanes(f, best, place)
            with f.loop(whole, count, 1, [best, place], unroll=False) as each:
                each.next = better(Part(each.i, 1), *each.values)
            place = each.result[1]
        f.store(place, line, DType.INT64)

    def _best(
        self, f: Builder, best: Value, place: Value, x: Value, here: Value
    ) -> tuple[Value, Value]:
        """Return the better of two candidates; of equal ones, by their places."""
        strict = ArgExtreme(self.dtype, self.is_largest, False)
        wins, loses = strict._wins(f, x, best), strict._wins(f, best, x)
        nearer = f.b.icmp_signed(">" if self.is_last else "<", here, place)
        wins = f.b.or_(wins, f.b.and_(f.b.not_(loses), nearer))
        return f.b.select(wins, x, best), f.b.select(wins, here, place)

    def _over_lanes(self, f: Builder, best: Value, place: Value) -> tuple[Value, Value]:
        lanes = f.lanes
        while lanes > 1:
            lanes //= 2
            halves = []
            for value in (best, place):
                for begin in (0, lanes):
                    picks = list(range(begin, begin + lanes))
                    kind = ir.VectorType(I32, lanes)
                    halves.append(f.b.shuffle_vector(value, value, ir.Constant(kind, picks)))
            best, place = self._best(f, halves[0], halves[2], halves[1], halves[3])
        return f.b.extract_element(best, I32(0)), f.b.extract_element(place, I32(0))

    def _wins(self, f: Builder, x: Value, best: Value) -> Value:
        """Whether x takes the place of the best so far; what is no number is beyond all numbers."""
        b = f.b
        how = (">" if self.is_largest else "<") + ("=" if self.is_last else "")
        if not self.dtype.is_float:
            signed = self.dtype.is_signed and self.dtype is not DType.BOOL
            return (b.icmp_signed if signed else b.icmp_unsigned)(how, x, best)
        wins = b.and_(b.fcmp_unordered(how, x, best), b.fcmp_ordered("ord", best, best))
        return b.or_(wins, b.fcmp_unordered("uno", x, x)) if self.is_last else wins
