"""Rows of floats as bytes, each by its own range (`engine.ops.row_quantization`)."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import F32, I8, I32, Value, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import fold_row
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ops.row_quantization import SMALLEST, STEPS, ZERO_POINT


@dataclass(frozen=True)
class QuantizeRows(Kernel):
    """operands: bytes (rows, width), scales (rows), values (rows, width). numbers: rows, rows in a
    task. Tasks: blocks of rows.

    Attributes:
        width: Elements of a row.
    """

    width: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Two passes over each row, which stays in the first-level cache."""
        f = KernelBuilder(module, name, target)
        to, scales, values = (f.operand(i) for i in range(3))
        rows, height = f.number(0), f.number(1)
        with f.loop(f.low, f.high, unroll=False) as task:
            top = f.mul(task.i, height)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                first = f.mul(row.i, self.width)
                line = f.at(values, first)
                largest = self._largest(f, line)
                f.store(f.b.fdiv(largest, F32(STEPS)), f.at(scales, row.i))
                self._quantize(f, f.at_bytes(to, first), line, _factor(f, largest))
        f.ret()

    def _largest(self, f: KernelBuilder, line: Value) -> Value:
        def magnitude(part: Part) -> Value:
            return f.call_intrinsic("fabs", part.load(f, line, DType.FLOAT32))

        return fold_row(f, self.width, "max", DType.FLOAT32, magnitude)

    def _quantize(self, f: KernelBuilder, to: Value, line: Value, factor: Value) -> None:
        factors = {1: factor, f.lanes: f.splat(factor)}

        def write(part: Part, _: list[Value]) -> list[Value]:
            scaled = f.b.fmul(part.load(f, line, DType.FLOAT32), factors[part.lanes])
            part.store(f, _byte(f, scaled, part.lanes), to, DType.UINT8)
            return []

        each_part(f, self.width, (), write)


def _factor(f: KernelBuilder, largest: Value) -> Value:
    """Return what values are multiplied by; zero for rows that count as zeros."""
    return f.choose(
        f.b.fcmp_ordered("<", largest, F32(SMALLEST)),
        F32(0.0),
        f.b.fdiv(F32(STEPS), largest),
    )


def _byte(f: KernelBuilder, steps: Value, lanes: int) -> Value:
    """Return bytes; what is no number becomes the smallest."""
    shifted = f.b.fadd(f.call_intrinsic("roundeven", steps), f.floats(float(ZERO_POINT), lanes))
    low, high = f.floats(0.0, lanes), f.floats(255.0, lanes)
    held = f.choose(f.b.fcmp_ordered(">", shifted, low), shifted, low)
    held = f.choose(f.b.fcmp_ordered("<", held, high), held, high)
    return f.b.trunc(f.b.fptosi(held, vector(I32, lanes)), vector(I8, lanes))
