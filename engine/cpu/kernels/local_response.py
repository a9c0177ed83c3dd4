"""Division by a power of the mean square over neighbouring channels."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import Builder, Value, lanes_of
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType

THREE_QUARTERS = 0.75  # the power that every network uses


@dataclass(frozen=True)
class LocalResponse(Kernel):
    """operands: result, x; both (items, channels, places).

    numbers: channels, places, rows (items times channels), rows in a task. Tasks: blocks of rows.

    Attributes:
        dtype: Of both; computed in float32.
        size: Channels that are looked at.
        alpha: Factor of the mean square.
        beta: The power.
        bias: Added before the power is taken.
    """

    dtype: DType
    size: int
    alpha: float
    beta: float
    bias: float

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """The window of channels is summed anew for every place."""
        f = KernelBuilder(module, name, target)
        channels, places, rows, height = (f.number(k) for k in range(4))
        out, x = f.operand(0), f.operand(1)
        before, after = (self.size - 1) // 2, self.size // 2
        with f.loop(f.low, f.high, unroll=False) as task:
            top = f.mul(task.i, height)
            with f.loop(top, f.least(f.add(top, height), rows), unroll=False) as row:
                c = f.rem(row.i, channels)
                low = f.greatest(f.sub(c, before), 0)
                high = f.least(f.add(c, after + 1), channels)
                first = f.sub(row.i, c)
                here = f.mul(row.i, places)
                lines = f.at(out, here, self.dtype), f.at(x, here, self.dtype)
                window = f.at(x, f.mul(f.add(first, low), places), self.dtype)
                self._row(f, lines, window, f.sub(high, low), places)
        f.ret()

    def _row(
        self,
        f: KernelBuilder,
        lines: tuple[Value, Value],
        window: Value,
        count: Value,
        places: Value,
    ) -> None:
        def place(part: Part, _: list[Value]) -> list[Value]:
            zero = f.floats(0.0, part.lanes)
            with f.loop(0, count, carry=[zero], unroll=False) as k:
                line = f.at(window, f.mul(k.i, places), self.dtype)
                x = part.load(f, line, self.dtype)
                k.next = [f.b.fadd(k.values[0], f.b.fmul(x, x))]
            x = part.load(f, lines[1], self.dtype)
            part.store(f, self._divided(f, x, k.result[0]), lines[0], self.dtype)
            return []

        each_part(f, places, (), place)

    def _divided(self, f: Builder, x: Value, total: Value) -> Value:
        lanes = lanes_of(x)
        mean = f.b.fmul(total, f.floats(self.alpha / self.size, lanes))
        base = f.b.fadd(mean, f.floats(self.bias, lanes))
        if self.beta == THREE_QUARTERS:
            root = f.call_intrinsic("sqrt", base)
            return f.b.fdiv(x, f.b.fmul(root, f.call_intrinsic("sqrt", root)))
        power = f.b.fmul(vmath.log(f, base), f.floats(self.beta, lanes))
        return f.b.fdiv(x, vmath.exp(f, power))
