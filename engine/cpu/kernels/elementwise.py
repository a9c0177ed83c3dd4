"""Elementwise operators on plain arrays: one expression, any broadcasting.

The lowering brings the arrays into rows: an innermost axis along which an operand's elements are
neighbours or all the same, and any number of axes around it. Sizes and strides are run-time
numbers, so that one piece of code serves every shape of that form.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import Value
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr_text import read_expr


@dataclass(frozen=True)
class Operand:
    """How an operand is read: its type, and whether a row of it is a single number."""

    dtype: DType
    is_single: bool


@dataclass(frozen=True)
class Elementwise(Kernel):
    """operands: result (dense), then the expression's arguments.

    numbers: elements in a row, elements of a row in one task, rows, rows in one task, the sizes of
    the outer axes, and for each operand its strides along them. Tasks: blocks of rows times blocks
    of a row's elements.

    Attributes:
        expression: What to compute, as text.
        arguments: How each argument is read.
        outer: Number of outer axes.
    """

    expression: str
    arguments: tuple[Operand, ...]
    outer: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Walk the rows of a task; find where each begins by division."""
        f = KernelBuilder(module, name, target)
        width, columns, rows, height = (f.number(k) for k in range(4))
        blocks = f.div(f.add(width, f.sub(columns, 1)), columns)
        sizes = [f.number(4 + k) for k in range(self.outer)]
        strides = [
            [f.number(4 + self.outer * (1 + i) + k) for k in range(self.outer)]
            for i in range(len(self.arguments))
        ]
        bases = [f.operand(k) for k in range(1 + len(self.arguments))]
        with f.loop(f.low, f.high, unroll=False) as task:
            row_block, block = f.divmod(task.i, blocks)
            left = f.mul(block, columns)
            count = f.sub(f.least(f.add(left, columns), width), left)
            top = f.mul(row_block, height)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                places = self._places(f, row.i, sizes, strides)
                result = read_expr(self.expression).dtype
                out = f.at(bases[0], f.add(f.mul(row.i, width), left), result)
                pointers = [
                    f.at(base, place if kind.is_single else f.add(place, left), kind.dtype)
                    for base, place, kind in zip(bases[1:], places, self.arguments, strict=True)
                ]
                self._row(f, out, pointers, count)
        f.ret()

    def _places(
        self, f: KernelBuilder, row: Value, sizes: list[Value], strides: list[list[Value]]
    ) -> list[Value]:
        """Return the element of each operand at which a row begins."""
        indices: list[Value] = []
        rest = row
        for k in reversed(range(1, self.outer)):
            rest, i = f.divmod(rest, sizes[k])
            indices.insert(0, i)
        indices.insert(0, rest)
        if not self.outer:
            return [f.add(0) for _ in strides]
        return [f.add(*(f.mul(i, s) for i, s in zip(indices, own, strict=True))) for own in strides]

    def _row(self, f: KernelBuilder, out: Value, pointers: list[Value], count: Value) -> None:
        expr = read_expr(self.expression)
        singles = {
            k: f.load(pointer, kind.dtype, 1)
            for k, (pointer, kind) in enumerate(zip(pointers, self.arguments, strict=True))
            if kind.is_single
        }

        def compute(part: Part, _: list[Value]) -> list[Value]:
            args = [
                singles[k] if kind.is_single else part.load(f, pointer, kind.dtype)
                for k, (pointer, kind) in enumerate(zip(pointers, self.arguments, strict=True))
            ]
            value = emit_expr(f, expr, args, lanes=part.lanes, stored=True)
            part.store(f, value, out, expr.dtype)
            return []

        each_part(f, count, (), compute)
