"""Rows brought to mean 0 and variance 1, or to mean square 1, then scaled and shifted."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import F32, F64, Number, Value, lanes_of
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import Term, fold_row
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.cpu.vmath.exact import rounded, widened
from engine.dtypes import DType
from engine.ir.expr_text import read_expr


@dataclass(frozen=True)
class RowInput:
    """Something that a row is made of: its type, and whether all rows share one row of it."""

    dtype: DType
    is_shared: bool = False


@dataclass(frozen=True)
class Normalize(Kernel):
    """operands: result, then those wanted of mean, inverse deviation (one float32 per row), the
    rows before, and the result once more; then the row's inputs, scale and bias.

    numbers: rows, rows in a task, elements in a row (where that is not fixed). Tasks: blocks of
    rows.

    Attributes:
        expression: The rows as an expression of the row's inputs, float32.
        inputs: What the rows are made of.
        result: The result's type.
        width: Elements in a row, None where only a run tells.
        epsilon: Added to the variance.
        is_centred: Whether the mean is taken out.
        scale: The type of the factors, one per element of a row; None for none.
        bias: The type of the summands.
        wants_mean: Whether the mean is written.
        wants_inverse: Whether the inverse deviation is written.
        rows: The type in which the rows before are written, or None.
        twin: The type in which the result is written once more, or None.
        is_exact: Whether everything is computed in float64 and rounded once, as the reference does.
    """

    expression: str
    inputs: tuple[RowInput, ...]
    result: DType
    width: int | None
    epsilon: float
    is_centred: bool = True
    scale: DType | None = None
    bias: DType | None = None
    wants_mean: bool = False
    wants_inverse: bool = False
    rows: DType | None = None
    twin: DType | None = None
    is_exact: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Three passes over each row, which stays in the first-level cache."""
        f = KernelBuilder(module, name, target)
        rows, height = f.number(0), f.number(1)
        width: Number = f.number(2) if self.width is None else self.width
        with f.loop(f.low, f.high, unroll=False) as task:
            top = f.mul(task.i, height)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                _Row(self, f, row.i, width).emit()
        f.ret()


class _Row:
    """One row's code."""

    def __init__(self, kernel: Normalize, f: KernelBuilder, row: Value, width: Number) -> None:
        self.kernel, self.f, self.row, self.width = kernel, f, row, width
        self._next = 0
        self.out = self._line(kernel.result)
        self.mean = self._single() if kernel.wants_mean else None
        self.inverse = self._single() if kernel.wants_inverse else None
        self.rows = self._line(kernel.rows) if kernel.rows else None
        self.twin = self._line(kernel.twin) if kernel.twin else None
        self.inputs = [self._line(i.dtype, i.is_shared) for i in kernel.inputs]
        self.scale = self._line(kernel.scale, True) if kernel.scale else None
        self.bias = self._line(kernel.bias, True) if kernel.bias else None

    def _operand(self) -> Value:
        self._next += 1
        return self.f.operand(self._next - 1)

    def _line(self, dtype: DType, is_shared: bool = False) -> Value:
        base = self._operand()
        return base if is_shared else self.f.at(base, self.f.mul(self.row, self.width), dtype)

    def _single(self) -> Value:
        return self.f.at(self._operand(), self.row)

    def _wide(self, x: Value) -> Value:
        """Return float32 as what sums are."""
        return widened(self.f, x) if self.kernel.is_exact else x

    def _stored(self, x: Value) -> Value:
        return rounded(self.f, x) if self.kernel.is_exact else x

    def _number(self, value: float) -> Value:
        return (F64 if self.kernel.is_exact else F32)(value)

    def _total(self, term: Term) -> Value:
        kind = DType.FLOAT64 if self.kernel.is_exact else DType.FLOAT32
        return fold_row(self.f, self.width, "add", kind, term)

    def value(self, part: Part) -> Value:
        """Return elements of the row, float32."""
        f, kernel = self.f, self.kernel
        args = [
            part.load(f, line, kind.dtype)
            for line, kind in zip(self.inputs, kernel.inputs, strict=True)
        ]
        return emit_expr(f, read_expr(kernel.expression), args, lanes=part.lanes)

    def emit(self) -> None:
        f, kernel = self.f, self.kernel
        mean = self._mean() if kernel.is_centred else None
        centre = None if mean is None else {1: mean, f.lanes: f.splat(mean)}
        inverse = self._inverse(centre)
        if self.mean is not None:
            f.store(self._stored(mean), self.mean)
        if self.inverse is not None:
            f.store(self._stored(inverse), self.inverse)
        factor = {1: inverse, f.lanes: f.splat(inverse)}

        def write(part: Part, _: list[Value]) -> list[Value]:
            y = f.b.fmul(self._centred(part, centre), factor[part.lanes])
            if self.scale is not None and kernel.scale is not None:
                y = f.b.fmul(y, self._wide(part.load(f, self.scale, kernel.scale)))
            if self.bias is not None and kernel.bias is not None:
                y = f.b.fadd(y, self._wide(part.load(f, self.bias, kernel.bias)))
            y = self._stored(y)
            part.store(f, y, self.out, kernel.result)
            if self.twin is not None and kernel.twin is not None:
                part.store(f, y, self.twin, kernel.twin)
            return []

        each_part(f, self.width, (), write)

    def _count(self) -> Value:
        if isinstance(self.width, int):
            return self._number(float(self.width))
        return self.f.b.sitofp(self.width, F64 if self.kernel.is_exact else F32)

    def _mean(self) -> Value:
        f = self.f

        def term(part: Part) -> Value:
            value = self.value(part)
            self._keep(part, value)
            return self._wide(value)

        return f.b.fdiv(self._total(term), self._count())

    def _keep(self, part: Part, value: Value) -> None:
        """Write the rows themselves, in the first pass."""
        if self.rows is not None and self.kernel.rows is not None:
            part.store(self.f, value, self.rows, self.kernel.rows)

    def _centred(self, part: Part, centre: dict[int, Value] | None) -> Value:
        value = self._wide(self.value(part))
        return value if centre is None else self.f.b.fsub(value, centre[lanes_of(value)])

    def _inverse(self, centre: dict[int, Value] | None) -> Value:
        f = self.f

        def term(part: Part) -> Value:
            value = self._centred(part, centre)
            if centre is None:
                self._keep(part, self._stored(value))
            return f.b.fmul(value, value)

        mean_square = f.b.fdiv(self._total(term), self._count())
        variance = f.b.fadd(mean_square, self._number(self.kernel.epsilon))
        return f.b.fdiv(self._number(1.0), f.call_intrinsic("sqrt", variance))
