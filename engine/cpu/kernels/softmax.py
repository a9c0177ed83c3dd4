"""Softmax and its logarithm: along rows of neighbours, and across rows, lane by lane."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import Number, Value, lanes_of
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import fold_row, start
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.cpu.vmath.exact import rounded, wide_exp, widened
from engine.cpu.vmath.parts import at_least, number
from engine.dtypes import DType

LEAST = -700.0  # below, a share is 0 in float32 by far
ROOM = 2048  # elements of the longest row whose wide exponentials wait in memory


@dataclass(frozen=True)
class Softmax(Kernel):
    """operands: result, x; both (outer, axis, inner).

    numbers: the sizes of the axis and of the inner axes, rows (outer), rows in a task, columns of
    the inner axes in a task. Tasks: blocks of rows times blocks of columns.

    Attributes:
        dtype: Of both; computed in float32.
        is_logarithm: Whether the result is the logarithm.
        has_rows: Whether there are no inner axes: the axis' elements are neighbours.
        width: Elements along the axis, None where only a run tells.
        is_exact: Whether everything is computed in float64 and rounded once, as the reference does;
            not of logarithms.
    """

    dtype: DType
    is_logarithm: bool
    has_rows: bool
    width: int | None = None
    is_exact: bool = False

    @property
    def _kind(self) -> DType:
        """What sums and exponentials are."""
        return DType.FLOAT64 if self.is_exact else DType.FLOAT32

    @property
    def _keeps(self) -> bool:
        """Whether exponentials have room in the result's memory, so as not to be computed again."""
        return self.dtype is self._kind and not self.is_logarithm

    def _load(self, f: KernelBuilder, part: Part, source: Value) -> Value:
        x = part.load(f, source, self.dtype)
        return widened(f, x) if self.is_exact else x

    def _store(self, f: KernelBuilder, part: Part, y: Value, line: Value) -> None:
        part.store(f, rounded(f, y) if self.is_exact else y, line, self.dtype)

    def _exp(self, f: KernelBuilder, x: Value) -> Value:
        """Return the exponential of what is not above 0."""
        if self.is_exact:
            return wide_exp(f, at_least(f, LEAST, x))
        return vmath.exp(f, x, bounded=(False, True), flush=True)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Largest element, exponentials and their sum, quotients."""
        f = KernelBuilder(module, name, target)
        axis: Number = f.number(0) if self.width is None else self.width
        inner, rows, height, columns = (f.number(k) for k in range(1, 5))
        blocks = f.div(f.add(inner, f.sub(columns, 1)), columns)
        out, x = f.operand(0), f.operand(1)
        with f.loop(f.low, f.high, unroll=False) as task:
            row_block, block = f.divmod(task.i, blocks)
            top, left = f.mul(row_block, height), f.mul(block, columns)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                first = f.add(f.mul(f.mul(row.i, axis), inner), left)
                line, source = f.at(out, first, self.dtype), f.at(x, first, self.dtype)
                if self.has_rows:
                    self._row(f, line, source, axis)
                else:
                    count = f.sub(f.least(f.add(left, columns), inner), left)
                    self._columns(f, line, source, axis, inner, count)
        f.ret()

    def _row(self, f: KernelBuilder, line: Value, source: Value, width: Number) -> None:
        # What is not a number reaches every result through the sum of exponentials.
        largest = _largest(f, source, width, self.dtype)
        peak = _each_width(f, widened(f, largest) if self.is_exact else largest)
        if not self.is_exact:
            self._shares(f, line, source, width, peak, line if self._keeps else None)
        elif isinstance(width, int):
            self._shares(f, line, source, width, peak, f.scratch if width <= ROOM else None)
        else:
            with f.if_else(f.less(ROOM, width)) as (long, short):
                with long:
                    self._shares(f, line, source, width, peak, None)
                with short:
                    self._shares(f, line, source, width, peak, f.scratch)

    def scratch_bytes(self, target: Target) -> int:
        """Return the room for the exponentials of one row, where they are wider than results."""
        return ROOM * self._kind.itemsize if self.is_exact and self.has_rows else 0

    def _shares(
        self,
        f: KernelBuilder,
        line: Value,
        source: Value,
        width: Number,
        peak: dict[int, Value],
        kept: Value | None,
    ) -> None:
        """Write a row's results; exponentials wait in `kept`, or are computed twice."""

        def shifted(part: Part) -> Value:
            return f.b.fsub(self._load(f, part, source), peak[part.lanes])

        def term(part: Part) -> Value:
            e = self._exp(f, shifted(part))
            if kept is not None:
                part.store(f, e, kept, self._kind)
            return e

        total = fold_row(f, width, "add", self._kind, term)
        one = number(f, total, 1.0)
        last = vmath.log(f, total) if self.is_logarithm else f.b.fdiv(one, total)
        factor = _each_width(f, last)

        def write(part: Part, _: list[Value]) -> list[Value]:
            if self.is_logarithm:
                y = f.b.fsub(shifted(part), factor[part.lanes])
            else:
                again = kept is None
                e = self._exp(f, shifted(part)) if again else part.load(f, kept, self._kind)
                y = f.b.fmul(e, factor[part.lanes])
            self._store(f, part, y, line)
            return []

        each_part(f, width, (), write)

    def _columns(
        self, f: KernelBuilder, line: Value, source: Value, axis: Number, inner: Value, count: Value
    ) -> None:
        def column(part: Part, _: list[Value]) -> list[Value]:
            def at(base: Value, k: Value) -> Value:
                return f.at(base, f.mul(k, inner), self.dtype)

            lowest = start(f, "max", self._kind, part.lanes)
            with f.loop(0, axis, carry=[lowest], unroll=False) as first:
                x = self._load(f, part, at(source, first.i))
                first.next = [_larger(f, first.values[0], x)]
            peak = first.result[0]
            nothing = start(f, "add", self._kind, part.lanes)
            with f.loop(0, axis, carry=[nothing], unroll=False) as second:
                x = self._load(f, part, at(source, second.i))
                e = self._exp(f, f.b.fsub(x, peak))
                if self._keeps:
                    part.store(f, e, at(line, second.i), self.dtype)
                second.next = [f.b.fadd(second.values[0], e)]
            total = second.result[0]
            one = number(f, total, 1.0)
            last = vmath.log(f, total) if self.is_logarithm else f.b.fdiv(one, total)
            with f.loop(0, axis, unroll=False) as third:
                if self._keeps:
                    y = f.b.fmul(part.load(f, at(line, third.i), self.dtype), last)
                else:
                    x = f.b.fsub(self._load(f, part, at(source, third.i)), peak)
                    y = f.b.fsub(x, last) if self.is_logarithm else f.b.fmul(self._exp(f, x), last)
                self._store(f, part, y, at(line, third.i))
            return []

        each_part(f, count, (), column)


def _largest(f: KernelBuilder, source: Value, width: Number, dtype: DType) -> Value:
    """Return the largest element of a row; what is no number is passed over."""

    def term(part: Part) -> Value:
        return part.load(f, source, dtype)

    return fold_row(f, width, "max", DType.FLOAT32, term, skips_nan=True)


def _larger(f: KernelBuilder, x: Value, y: Value) -> Value:
    return f.b.select(f.b.fcmp_ordered(">", x, y), x, y)


def _each_width(f: KernelBuilder, number: Value) -> dict[int, Value]:
    """Return a number as parts of rows need it: alone, and in every lane."""
    assert lanes_of(number) == 1
    return {1: number, f.lanes: f.splat(number)}
