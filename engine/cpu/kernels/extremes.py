"""Where the largest or the smallest element along an axis is."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Builder, Value, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import start
from engine.cpu.kernels.rows import Part, each_part
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
    """

    dtype: DType
    is_largest: bool
    is_last: bool

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
                self._columns(f, line, f.at(x, first, self.dtype), axis, inner, count)
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

    def _wins(self, f: Builder, x: Value, best: Value) -> Value:
        """Whether x takes the place of the best so far; what is no number is beyond all numbers."""
        b = f.b
        how = (">" if self.is_largest else "<") + ("=" if self.is_last else "")
        if not self.dtype.is_float:
            signed = self.dtype.is_signed and self.dtype is not DType.BOOL
            return (b.icmp_signed if signed else b.icmp_unsigned)(how, x, best)
        wins = b.and_(b.fcmp_unordered(how, x, best), b.fcmp_ordered("ord", best, best))
        return b.or_(wins, b.fcmp_unordered("uno", x, x)) if self.is_last else wins
