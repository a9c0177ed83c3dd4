"""Reductions of plain arrays: an element's map, how elements combine, a finish.

The lowering brings the axes into alternating groups, kept and reduced. Where the innermost group is
reduced, a result is a row of neighbours (or several) folded in registers; where it is kept, results
lie side by side in the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import Builder, Number, Value
from engine.cpu.expression_casts import emit_cast
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import (
    combine,
    flagged,
    fold_row,
    is_extreme,
    no_flag,
    noted,
    passing,
    start,
)
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr import Expr
from engine.ir.expr_text import read_expr

ABREAST = 4  # vectors of results that are computed in one turn


@dataclass(frozen=True)
class Stages:
    """What is computed, as text (`engine.ops.define_reduction.Stages`).

    Attributes:
        dtype: The element type.
        map: From the element (x0) and the peak (x1) to what is combined.
        combine: "add", "mul", "max" or "min".
        finish: From the total (x0), the count (x1) and the peak (x2) to the result.
        peak: From the largest element to the peak; "" for none.
    """

    dtype: DType
    map: str
    combine: str
    finish: str
    peak: str = ""

    @property
    def total(self) -> DType:
        """The type in which elements are combined."""
        return read_expr(self.map).dtype

    @property
    def result(self) -> DType:
        """The type of the result."""
        return read_expr(self.finish).dtype

    def mapped(self, f: Builder, x: Value, peak: Value | None, lanes: int) -> Value:
        """Return what goes into the total for an element."""
        args = [x] if peak is None else [x, peak]
        return emit_expr(f, read_expr(self.map), args, lanes=lanes)

    def finished(
        self, f: Builder, total: Value, count: Value, peak: Value | None, lanes: int
    ) -> Value:
        """Return the result of a total over `count` (an int64) elements."""
        amount = emit_cast(f, count, DType.INT64, self.total)
        args = [total, amount, *([] if peak is None else [peak])]
        return emit_expr(f, read_expr(self.finish), args, lanes=lanes, stored=True)

    def peak_of(self, f: Builder, largest: Value, lanes: int) -> Value | None:
        """Return the peak of the largest element."""
        return emit_expr(f, self._peak, [largest], lanes=lanes) if self.peak else None

    @property
    def _peak(self) -> Expr:
        return read_expr(self.peak)


@dataclass(frozen=True)
class Reduce(Kernel):
    """operands: result (dense), x (dense).

    numbers: elements of the innermost group, how many of them in one task (where it is kept), rows
    (results, but for those of an innermost kept group), rows in one task, reduced elements per
    result; then sizes and strides of the outer kept groups, sizes and strides of the outer reduced
    ones. Tasks: blocks of rows times blocks of the innermost group where it is kept.

    Attributes:
        stages: What is computed.
        has_rows: Whether the innermost group is reduced.
        kept: Outer kept groups.
        reduced: Outer reduced groups.
    """

    stages: Stages
    has_rows: bool
    kept: int
    reduced: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Find where each row of results begins by division, then fold."""
        f = KernelBuilder(module, name, target)
        width, columns, rows, height, count = (f.number(k) for k in range(5))
        at = 5
        kept, at = self._groups(f, at, self.kept)
        reduced, at = self._groups(f, at, self.reduced)
        blocks = f.div(f.add(width, f.sub(columns, 1)), columns)
        out, x = f.operand(0), f.operand(1)
        with f.loop(f.low, f.high, unroll=False) as task:
            row_block, block = (task.i, f.add(0)) if self.has_rows else f.divmod(task.i, blocks)
            top = f.mul(row_block, height)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                source = f.at(x, offset_of(f, row.i, kept), self.stages.dtype)
                fold = _Fold(self, f, source, reduced, count)
                if self.has_rows:
                    fold.row(f.at(out, row.i, self.stages.result), width)
                else:
                    left = f.mul(block, columns)
                    number = f.sub(f.least(f.add(left, columns), width), left)
                    line = f.add(f.mul(row.i, width), left)
                    fold.columns(f.at(out, line, self.stages.result), left, number)
        f.ret()

    def _groups(
        self, f: KernelBuilder, at: int, count: int
    ) -> tuple[list[tuple[Value, Value]], int]:
        sizes = [f.number(at + k) for k in range(count)]
        strides = [f.number(at + count + k) for k in range(count)]
        return list(zip(sizes, strides, strict=True)), at + 2 * count


def offset_of(f: Builder, index: Value, groups: list[tuple[Value, Value]]) -> Value:
    """Return where element `index` of nested groups (size, stride) lies."""
    offset: Number = 0
    rest = index
    for k in reversed(range(len(groups))):
        size, stride = groups[k]
        i = rest
        if k:
            rest, i = f.divmod(rest, size)
        offset = f.add(offset, f.mul(i, stride))
    return f.add(offset)


class _Fold:
    """The code of the results of one row."""

    def __init__(
        self,
        kernel: Reduce,
        f: KernelBuilder,
        source: Value,
        reduced: list[tuple[Value, Value]],
        count: Value,
    ) -> None:
        self.kernel, self.f, self.source, self.reduced = kernel, f, source, reduced
        self.stages, self.count = kernel.stages, count

    def row(self, out: Value, width: Value) -> None:
        """One result: rows of neighbours."""
        f, stages = self.f, self.stages
        outer: Value = f.add(1)
        for size, _ in self.reduced:
            outer = f.mul(outer, size)

        def folded(how: str, dtype: DType, peak: Value | None, is_mapped: bool) -> Value:
            wide = None if peak is None else {1: peak, f.lanes: f.splat(peak)}
            with f.loop(0, outer, carry=[start(f, how, dtype, 1)], unroll=False) as j:
                line = f.at(self.source, offset_of(f, j.i, self.reduced), stages.dtype)

                def term(part: Part) -> Value:
                    x = part.load(f, line, stages.dtype)
                    if not is_mapped:
                        return x
                    return stages.mapped(f, x, wide and wide[part.lanes], part.lanes)

                here = fold_row(f, width, how, dtype, term, many_partials=True)
                j.next = [combine(f, how, dtype, j.values[0], here)]
            return j.result[0]

        peak = None
        if stages.peak:
            peak = stages.peak_of(f, folded("max", stages.dtype.compute, None, False), 1)
        total = folded(stages.combine, stages.total, peak, True)
        f.store(stages.finished(f, total, self.count, peak, 1), out, stages.result)

    def columns(self, out: Value, left: Value, number: Value) -> None:
        """Many results side by side, several vectors of them in one turn while there are enough."""
        f = self.f
        source = f.at(self.source, left, self.stages.dtype)
        step = f.lanes * ABREAST
        many = f.sub(number, f.rem(number, step))
        with f.loop(0, many, step, unroll=False) as i:
            places = [f.add(i.i, k * f.lanes) for k in range(ABREAST)]
            self._column([Part(place, f.lanes) for place in places], source, out)

        rest, last = f.at(source, many, self.stages.dtype), f.at(out, many, self.stages.result)

        def column(part: Part, _: list[Value]) -> list[Value]:
            self._column([part], rest, last)
            return []

        each_part(f, f.sub(number, many), (), column)

    def _column(self, parts: list[Part], source: Value, out: Value) -> None:
        f, stages, lanes = self.f, self.stages, parts[0].lanes
        peaks: list[Value | None] = [None] * len(parts)
        if stages.peak:
            largest = self._folded(parts, source, "max", stages.dtype.compute, None)
            peaks = [stages.peak_of(f, each, lanes) for each in largest]
        totals = self._folded(parts, source, stages.combine, stages.total, peaks)
        count = f.splat(self.count, lanes)
        for part, total, peak in zip(parts, totals, peaks, strict=True):
            value = stages.finished(f, total, count, peak, lanes)
            part.store(f, value, out, stages.result)

    def _folded(
        self,
        parts: list[Part],
        source: Value,
        how: str,
        dtype: DType,
        peaks: list[Value | None] | None,
    ) -> list[Value]:
        """Return the totals of some columns; of the elements themselves where `peaks` is None."""
        f, stages = self.f, self.stages
        count, lanes = len(parts), parts[0].lanes
        carry = [start(f, how, dtype, lanes)] * count
        notes = is_extreme(how, dtype)
        if notes:
            carry += [no_flag(lanes)] * count
        with f.loop(0, self.count, carry=carry, unroll=False) as j:
            line = f.at(source, offset_of(f, j.i, self.reduced), stages.dtype)
            totals, flags = [], []
            for k, part in enumerate(parts):
                x = part.load(f, line, stages.dtype)
                value = x if peaks is None else stages.mapped(f, x, peaks[k], part.lanes)
                totals.append(passing(f, how, dtype, j.values[k], value))
                if notes:
                    flags.append(noted(f, j.values[count + k], value))
            j.next = totals + flags
        if not notes:
            return j.result
        pairs = zip(j.result[count:], j.result[:count], strict=True)
        return [flagged(f, flag, total) for flag, total in pairs]
