"""Products of two computed matrices of bytes, many at once: attention in quantized transformers.

All sizes are run-time numbers. Both sides are packed first (`engine.cpu.kernels.int8_packing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import F32, I32, I64, MEMORY, PTR, Builder, Value, vector
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.int8_packing import (
    lanes_below,
    left_pitch,
    masked_load,
    masked_store,
    right_quad_bytes,
)
from engine.cpu.kernels.int8_products import (
    COLUMN_BYTES,
    QUAD,
    add_products,
    load_terms,
    load_weights,
    terms_per_step,
)
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr_text import read_expr


@dataclass(frozen=True)
class Broadcast:
    """A computed operand of an epilogue.

    Attributes:
        dtype: Its type.
        along: Whether it has a number for each column.
    """

    dtype: DType
    along: bool


@dataclass(frozen=True)
class IntegerBatched(Kernel):
    """y = epilogue(left @ right, further operands), matrix by matrix.

    operands: y, packed left, sums of its rows, packed right, sums of its columns, scalars, further
    operands. numbers: M, K, N, zero point of the left side, zero point of the right side (both as
    packed), size of the inner of two leading axes, then for each further operand the elements from
    one entry to the next along the outer axis, the inner axis, and the rows. Tasks: matrices times
    tiles of rows.

    Attributes:
        epilogue: Expression as text, or "" for the sums.
        operands: What it takes after the sum: "scalar", or a computed operand.
        y_dtype: Type of the result.
    """

    epilogue: str = ""
    operands: tuple[str | Broadcast, ...] = ()
    y_dtype: DType = DType.INT32

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """All panels for each tile of rows."""
        moving = [o for o in self.operands if isinstance(o, Broadcast)]
        tile = self._tile(module, f"{name}.tile", target, moving)
        f = KernelBuilder(module, name, target)
        y, left, row_sums, right, column_sums, scalars, *others = [
            f.operand(i) for i in range(6 + len(moving))
        ]
        height, terms, columns, left_zero, right_zero, inner = (f.number(i) for i in range(6))
        rows, pitch, width = target.tile_rows, left_pitch(target), target.tile_columns
        tiles = f.div(f.add(height, rows - 1), rows)
        quads = f.div(f.add(terms, QUAD - 1), QUAD)
        panels = f.div(f.add(columns, width - 1), width)
        both = f.mul(terms, f.mul(left_zero, right_zero))
        narrow = [f.b.trunc(each, I32) for each in (left_zero, right_zero, both)]
        with f.loop(f.low, f.high) as task:
            matrix, t = f.divmod(task.i, tiles)
            first = f.mul(t, rows)
            count = f.least(f.sub(height, first), rows)
            x = f.at_bytes(left, f.mul(f.mul(task.i, quads), pitch * QUAD))
            totals = f.at(row_sums, f.mul(task.i, pitch))
            line = f.at(y, f.mul(f.add(f.mul(matrix, height), first), columns), self.y_dtype)
            outer, within = f.divmod(matrix, inner)
            places, steps = [], []
            for i, (pointer, operand) in enumerate(zip(others, moving, strict=True)):
                by_outer, by_inner, by_row = (f.number(6 + 3 * i + k) for k in range(3))
                start = f.add(f.mul(outer, by_outer), f.mul(within, by_inner))
                start = f.add(start, f.mul(first, by_row))
                places.append(f.at(pointer, start, operand.dtype))
                steps.append(f.mul(by_row, operand.dtype.itemsize))
            with f.loop(0, panels) as p:
                column = f.mul(p.i, width)
                panel = f.add(f.mul(matrix, panels), p.i)
                extras = [
                    f.at(at, column, o.dtype) if o.along else at
                    for at, o in zip(places, moving, strict=True)
                ]
                f.call(
                    tile,
                    x,
                    quads,
                    f.at_bytes(right, f.mul(f.mul(panel, quads), right_quad_bytes(target))),
                    totals,
                    f.at(column_sums, f.mul(panel, width)),
                    *narrow,
                    f.at(line, column, self.y_dtype),
                    f.mul(columns, self.y_dtype.itemsize),
                    count,
                    f.sub(columns, column),
                    scalars,
                    *extras,
                    *steps,
                )
        f.ret()

    def _tile(
        self, module: ir.Module, name: str, target: Target, moving: Sequence[Broadcast]
    ) -> ir.Function:
        """Write the function of a tile of rows by one panel."""
        parameters = [
            ("x", PTR),
            ("quads", I64),
            ("w", PTR),
            ("row_sums", PTR),
            ("column_sums", PTR),
            ("left_zero", I32),
            ("right_zero", I32),
            ("both", I32),
            ("y", PTR),
            ("y_step", I64),
            ("rows", I64),
            ("columns", I64),
            ("scalars", PTR),
            *((f"e{i}", PTR) for i in range(len(moving))),
            *((f"step{i}", I64) for i in range(len(moving))),
        ]
        f = Builder(module, name, parameters, target, inline=False, noalias=True)
        rows, n = target.tile_rows, target.tile_vectors
        sums = self._sums(f, rows, n)
        vector_bytes = f.lanes * 4
        memory = f.stack(rows * n * vector_bytes)
        for i, value in enumerate(sums):
            f.b.store(value, f.at_bytes(memory, i * vector_bytes), align=vector_bytes)
        starts = []
        for j in range(n):
            at = f.at_bytes(f.parameter("column_sums"), j * vector_bytes)
            value = f.b.mul(load_weights(f, at), f.splat(f.parameter("left_zero")))
            starts.append(f.b.sub(f.splat(f.parameter("both")), value))
        exists = [lanes_below(f, f.sub(f.parameter("columns"), j * f.lanes)) for j in range(n)]
        with f.loop(0, f.parameter("rows"), unroll=False) as r:
            total = f.b.load(f.at(f.parameter("row_sums"), r.i), typ=I32, align=4)
            shift = f.splat(f.b.mul(total, f.parameter("right_zero")))
            for j in range(n):
                at = f.add(f.mul(r.i, n * vector_bytes), j * vector_bytes)
                value = load_weights(f, f.at_bytes(memory, at))
                value = f.b.sub(f.b.add(value, starts[j]), shift)
                self._finish(f, value, r.i, j, exists[j])
        return f.ret()

    def _sums(self, f: Builder, rows: int, n: int) -> list[Value]:
        group, pitch = terms_per_step(f.target), left_pitch(f.target)
        step_bytes = n * f.lanes * COLUMN_BYTES
        carry = [f.parameter("x"), f.parameter("w"), *[f.integers(0)] * (rows * n)]
        with f.loop(0, f.parameter("quads"), carry=carry, unroll=False) as q:
            x, w, *sums = q.values
            for step in range(QUAD // group):
                at = f.at_bytes(w, step * step_bytes)
                weights = [
                    load_weights(f, f.at_bytes(at, j * f.lanes * COLUMN_BYTES)) for j in range(n)
                ]
                for r in range(rows):
                    terms = load_terms(f, f.at_bytes(x, r * QUAD + step * group), signed=False)
                    for j in range(n):
                        i = r * n + j
                        sums[i] = add_products(f, sums[i], terms, weights[j])
            q.next = [
                f.at_bytes(x, pitch * QUAD),
                f.at_bytes(w, QUAD // group * step_bytes),
                *sums,
            ]
        return q.result[2:]

    def _finish(self, f: Builder, value: Value, row: Value, j: int, exists: Value) -> None:
        operands, scalars, others = [value], 0, 0
        for each in self.operands:
            if isinstance(each, str):
                number = f.b.load(f.at(f.parameter("scalars"), scalars), typ=F32, align=4)
                operands.append(f.splat(number))
                scalars += 1
                continue
            at = f.at_bytes(f.parameter(f"e{others}"), f.mul(row, f.parameter(f"step{others}")))
            if each.along:
                at = f.at(at, j * f.lanes, each.dtype)
                nothing = ir.Constant(vector(MEMORY[each.dtype], f.lanes), None)
                raw = masked_load(f, at, each.dtype, exists, nothing)
                operands.append(f.widen(raw, each.dtype))
            else:
                operands.append(f.splat(f.load(at, each.dtype, 1)))
            others += 1
        if self.epilogue:
            value = emit_expr(f, read_expr(self.epilogue), operands)
        at = f.at_bytes(f.parameter("y"), f.mul(row, f.parameter("y_step")))
        masked_store(f, value, f.at(at, j * f.lanes, self.y_dtype), self.y_dtype, exists)
