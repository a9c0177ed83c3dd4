"""Running sums and products along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import combine, start
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType

ABREAST = 4  # vectors that are computed in one turn


@dataclass(frozen=True)
class Running(Kernel):
    """operands: result, x; both (outer, axis, inner).

    numbers: the sizes of the axis and of the inner axes, rows (outer), rows in a task, columns of
    the inner axes in a task. Tasks: blocks of rows times blocks of columns.

    Attributes:
        dtype: Of both; narrow floats add up as float32.
        combine: "add" or "mul".
        is_exclusive: Whether an element is left out of its own total.
        is_reverse: Whether totals run from the end.
    """

    dtype: DType
    combine: str
    is_exclusive: bool
    is_reverse: bool

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Carry the total along the axis, inner elements in the lanes."""
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
                lines = f.at(out, first, self.dtype), f.at(x, first, self.dtype)
                self._columns(f, *lines, axis, inner, count)
        f.ret()

    def _columns(
        self, f: KernelBuilder, line: Value, source: Value, axis: Value, inner: Value, count: Value
    ) -> None:
        step = f.lanes * ABREAST
        many = f.sub(count, f.rem(count, step))
        with f.loop(0, many, step, unroll=False) as i:
            parts = [Part(f.add(i.i, k * f.lanes), f.lanes) for k in range(ABREAST)]
            self._column(f, parts, (line, source), axis, inner)
        rest = f.at(line, many, self.dtype), f.at(source, many, self.dtype)

        def column(part: Part, _: list[Value]) -> list[Value]:
            self._column(f, [part], rest, axis, inner)
            return []

        each_part(f, f.sub(count, many), (), column)

    def _column(
        self,
        f: KernelBuilder,
        parts: list[Part],
        lines: tuple[Value, Value],
        axis: Value,
        inner: Value,
    ) -> None:
        total = self.dtype.compute
        nothing = start(f, self.combine, total, parts[0].lanes)
        with f.loop(0, axis, carry=[nothing] * len(parts), unroll=False) as turn:
            k = f.sub(f.sub(axis, 1), turn.i) if self.is_reverse else turn.i
            out, source = (f.at(line, f.mul(k, inner), self.dtype) for line in lines)
            turn.next = []
            for part, before in zip(parts, turn.values, strict=True):
                x = part.load(f, source, self.dtype)
                after = combine(f, self.combine, total, before, x)
                part.store(f, before if self.is_exclusive else after, out, self.dtype)
                turn.next.append(after)
