"""Triangles of matrices: which keys a query may look at when none may look ahead, and Trilu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I8
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target

ROWS: Final = 64  # queries of one task


@dataclass(frozen=True)
class Triangle(Kernel):
    """operands: (queries, keys) of bytes, 1 where key <= query + past. numbers: queries, keys,
    past. Tasks: one per `ROWS` queries.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A run of ones, then zeros."""
        f = KernelBuilder(module, name, target)
        queries, keys = f.number(0), f.number(1)
        low, high = f.mul(f.low, ROWS), f.least(f.mul(f.high, ROWS), queries)
        with f.loop(low, high, unroll=False) as query:
            row = f.at_bytes(f.operand(0), f.mul(query.i, keys))
            seen = f.least(f.add(query.i, 1, f.number(2)), keys)
            f.clear(row, keys)
            with f.loop(0, seen, unroll=False) as key:
                f.b.store(I8(1), f.at_bytes(row, key.i), align=1)
        f.ret()


@dataclass(frozen=True)
class KeepTriangle(Kernel):
    """operands: matrices, matrices. numbers: rows, columns, the diagonal. Tasks: all rows.

    Attributes:
        itemsize: Bytes of an element.
        upper: Whether what lies on the diagonal and above is kept, else on it and below.
    """

    itemsize: int
    upper: bool

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A run of zeros and a copied run, or the other way round."""
        f = KernelBuilder(module, name, target)
        rows, columns, diagonal = (f.number(k) for k in range(3))
        with f.loop(f.low, f.high, unroll=False) as task:
            edge = f.add(f.rem(task.i, rows), diagonal, 0 if self.upper else 1)
            edge = f.mul(f.least(f.greatest(edge, 0), columns), self.itemsize)
            size = f.mul(columns, self.itemsize)
            start = f.mul(task.i, size)
            to, source = f.at_bytes(f.operand(0), start), f.at_bytes(f.operand(1), start)
            rest = f.sub(size, edge)
            if self.upper:
                f.clear(to, edge)
                f.copy(f.at_bytes(to, edge), f.at_bytes(source, edge), rest)
            else:
                f.copy(to, source, edge)
                f.clear(f.at_bytes(to, edge), rest)
        f.ret()
