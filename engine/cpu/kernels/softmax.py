"""Softmax and its logarithm: along rows of neighbours, and across rows, lane by lane."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import F32, Number, Value, lanes_of
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import fold_row, start
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType


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
    """

    dtype: DType
    is_logarithm: bool
    has_rows: bool
    width: int | None = None

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
        peak = _each_width(f, _largest(f, source, width, self.dtype))
        keeps = self.dtype is DType.FLOAT32 and not self.is_logarithm

        def shifted(part: Part) -> Value:
            return f.b.fsub(part.load(f, source, self.dtype), peak[part.lanes])

        def term(part: Part) -> Value:
            e = _exp(f, shifted(part))
            if keeps:
                part.store(f, e, line, self.dtype)
            return e

        total = fold_row(f, width, "add", DType.FLOAT32, term)
        last = vmath.log(f, total) if self.is_logarithm else f.b.fdiv(F32(1.0), total)
        factor = _each_width(f, last)

        def write(part: Part, _: list[Value]) -> list[Value]:
            if self.is_logarithm:
                y = f.b.fsub(shifted(part), factor[part.lanes])
            else:
                e = part.load(f, line, self.dtype) if keeps else _exp(f, shifted(part))
                y = f.b.fmul(e, factor[part.lanes])
            part.store(f, y, line, self.dtype)
            return []

        each_part(f, width, (), write)

    def _columns(
        self, f: KernelBuilder, line: Value, source: Value, axis: Number, inner: Value, count: Value
    ) -> None:
        keeps = self.dtype is DType.FLOAT32 and not self.is_logarithm

        def column(part: Part, _: list[Value]) -> list[Value]:
            def at(base: Value, k: Value) -> Value:
                return f.at(base, f.mul(k, inner), self.dtype)

            lowest = start(f, "max", DType.FLOAT32, part.lanes)
            with f.loop(0, axis, carry=[lowest], unroll=False) as first:
                x = part.load(f, at(source, first.i), self.dtype)
                first.next = [_larger(f, first.values[0], x)]
            peak = first.result[0]
            with f.loop(0, axis, carry=[f.floats(0.0, part.lanes)], unroll=False) as second:
                x = part.load(f, at(source, second.i), self.dtype)
                e = _exp(f, f.b.fsub(x, peak))
                if keeps:
                    part.store(f, e, at(line, second.i), self.dtype)
                second.next = [f.b.fadd(second.values[0], e)]
            total = second.result[0]
            one = f.floats(1.0, part.lanes)
            last = vmath.log(f, total) if self.is_logarithm else f.b.fdiv(one, total)
            with f.loop(0, axis, unroll=False) as third:
                if keeps:
                    y = f.b.fmul(part.load(f, at(line, third.i), self.dtype), last)
                else:
                    x = f.b.fsub(part.load(f, at(source, third.i), self.dtype), peak)
                    y = f.b.fsub(x, last) if self.is_logarithm else f.b.fmul(_exp(f, x), last)
                part.store(f, y, at(line, third.i), self.dtype)
            return []

        each_part(f, count, (), column)


def _largest(f: KernelBuilder, source: Value, width: Number, dtype: DType) -> Value:
    """Return the largest element of a row; what is no number is passed over."""

    def term(part: Part) -> Value:
        return part.load(f, source, dtype)

    return fold_row(f, width, "max", DType.FLOAT32, term, skips_nan=True)


def _larger(f: KernelBuilder, x: Value, y: Value) -> Value:
    return f.b.select(f.b.fcmp_ordered(">", x, y), x, y)


def _exp(f: KernelBuilder, x: Value) -> Value:
    """Return the exponential of what is not above 0."""
    return vmath.exp(f, x, bounded=(False, True), flush=True)


def _each_width(f: KernelBuilder, number: Value) -> dict[int, Value]:
    """Return a number as parts of rows need it: alone, and in every lane."""
    assert lanes_of(number) == 1
    return {1: number, f.lanes: f.splat(number)}
