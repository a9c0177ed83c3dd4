"""Copies between arrays whose elements lie at any strides: transposition, slices, repetition.

Sizes, strides and first elements are run-time numbers, so that one piece of code serves every shape
of a rank. `engine.cpu.lower.strided` brings a copy into the forms that there is code for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.builder import I8, I16, I32, I64, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.square import transposed
from engine.cpu.target import Target
from engine.dtypes import DType

KINDS: Final = ("rows", "repeat", "turn", "any")
_ELEMENTS: Final = {1: I8, 2: I16, 4: I32, 8: I64}


@dataclass(frozen=True)
class StridedCopy(Kernel):
    """operands: to, from. numbers: see `numbers_of`. Tasks: one per block of the last two axes.

    Attributes:
        itemsize: Bytes of an element.
        rank: Axes, 2 or more.
        kind: How the innermost axes lie: "rows" (neighbours on both sides along the last axis),
            "repeat" (one element for the whole last axis), "turn" (neighbours along the last axis
            where written, along the one before where read), or "any".
    """

    computes: ClassVar[bool] = False
    itemsize: int
    rank: int
    kind: str

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Find the block of a task by division, then walk its rows."""
        f = KernelBuilder(module, name, target)
        outer = self.rank - 2
        sizes = [f.number(k) for k in range(self.rank)]
        to = [f.number(self.rank + k) for k in range(self.rank)]
        source = [f.number(2 * self.rank + k) for k in range(self.rank)]
        first_to, first_from, rows, columns = (f.number(3 * self.rank + k) for k in range(4))
        column_blocks = f.div(f.add(sizes[-1], f.sub(columns, 1)), columns)
        row_blocks = f.div(f.add(sizes[-2], f.sub(rows, 1)), rows)
        with f.loop(f.low, f.high) as task:
            rest, column_block = f.divmod(task.i, column_blocks)
            rest, row_block = f.divmod(rest, row_blocks)
            at_to, at_from = first_to, first_from
            for k in reversed(range(outer)):
                rest, i = f.divmod(rest, sizes[k])
                at_to = f.add(at_to, f.mul(i, to[k]))
                at_from = f.add(at_from, f.mul(i, source[k]))
            row, column = f.mul(row_block, rows), f.mul(column_block, columns)
            block = _Block(
                f,
                self.itemsize,
                f.operand(0),
                f.operand(1),
                (at_to, at_from),
                (to[-2], source[-2]),
                (to[-1], source[-1]),
                (row, f.least(f.add(row, rows), sizes[-2])),
                (column, f.least(f.add(column, columns), sizes[-1])),
            )
            block.emit(self.kind)
        f.ret()


@dataclass(frozen=True)
class _Block:
    """A part of the last two axes; pairs are (where written, where read), or (from, up to)."""

    f: KernelBuilder
    itemsize: int
    to: Value
    source: Value
    first: tuple[Value, Value]
    row: tuple[Value, Value]
    column: tuple[Value, Value]
    rows: tuple[Value, Value]
    columns: tuple[Value, Value]

    def emit(self, kind: str) -> None:
        """Write the code of one kind."""
        if kind == "turn" and self.itemsize == DType.FLOAT32.itemsize:
            self._turn()
            return
        with self.f.loop(*self.rows) as row:
            if kind == "rows":
                low, high = self.columns
                size = self.f.mul(self.f.sub(high, low), self.itemsize)
                self.f.copy(self._written(row.i, low), self._read(row.i, low), size)
            elif kind == "repeat":
                self._repeat(row.i)
            else:
                self._elements(row.i, *self.columns)

    def _written(self, row: Value, column: Value) -> Value:
        return self._place(self.to, 0, row, column)

    def _read(self, row: Value, column: Value) -> Value:
        return self._place(self.source, 1, row, column)

    def _place(self, pointer: Value, side: int, row: Value, column: Value) -> Value:
        f = self.f
        index = f.add(
            self.first[side], f.mul(row, self.row[side]), f.mul(column, self.column[side])
        )
        return f.at_bytes(pointer, f.mul(index, self.itemsize))

    def _elements(self, row: Value, low: Value, high: Value) -> None:
        kind = _ELEMENTS[self.itemsize]
        with self.f.loop(low, high, unroll=False) as column:
            number = self.f.b.load(self._read(row, column.i), typ=kind, align=self.itemsize)
            self.f.b.store(number, self._written(row, column.i), align=self.itemsize)

    def _repeat(self, row: Value) -> None:
        f, lanes = self.f, self.f.lanes
        low, high = self.columns
        number = f.b.load(self._read(row, low), typ=_ELEMENTS[self.itemsize], align=self.itemsize)
        many = f.splat(number, lanes)
        whole = f.sub(high, f.rem(f.sub(high, low), lanes))
        with f.loop(low, whole, lanes, unroll=False) as column:
            f.b.store(many, self._written(row, column.i), align=self.itemsize)
        with f.loop(whole, high, unroll=False) as column:
            f.b.store(number, self._written(row, column.i), align=self.itemsize)

    def _turn(self) -> None:
        """Squares of a vector's lanes are turned in registers; what is left, one by one."""
        f, lanes = self.f, self.f.lanes
        (low, high), (left, right) = self.rows, self.columns
        bottom = f.sub(high, f.rem(f.sub(high, low), lanes))
        edge = f.sub(right, f.rem(f.sub(right, left), lanes))
        with f.loop(low, bottom, lanes) as row:
            with f.loop(left, edge, lanes) as column:
                lines = [f.load(self._read(row.i, f.add(column.i, k))) for k in range(lanes)]
                for k, line in enumerate(transposed(f, lines)):
                    f.store(line, self._written(f.add(row.i, k), column.i))
            with f.loop(row.i, f.add(row.i, lanes)) as each:
                self._elements(each.i, edge, right)
        with f.loop(bottom, high) as row:
            self._elements(row.i, left, right)
