"""Pictures of a few channels as pairs of bfloat16: what a network begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.builder import F32, I16, I32, Value, vector
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.image_converters import woven
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class ToThinPairs(Kernel):
    """operands: picture, float32 (N, planes, H, W). Tasks: N times the height.

    Attributes:
        layout: The picture: bfloat16, an even number of channels without gaps between pixels.
        planes: Channels that there are; the picture has zeros behind them.
    """

    computes: ClassVar[bool] = False
    layout: ImageLayout
    planes: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Row by row: two channels become one number of 32 bits, and those are woven together."""
        f, layout = KernelBuilder(module, name, target), self.layout
        plane, width = layout.height * layout.width, layout.width
        with f.loop(f.low, f.high) as task:
            n, y = f.divmod(task.i, layout.height)
            picture = f.at(f.operand(0), f.mul(n, layout.picture), layout.dtype)
            clear_border(f, picture, layout, y, layout.height)
            place = f.add(f.mul(y, layout.row), layout.at(0, 0))
            row = f.at(picture, place, layout.dtype)
            first = f.add(f.mul(n, plane * self.planes), f.mul(y, width))
            source = f.at(f.operand(1), first)
            whole = width // f.lanes * f.lanes
            with f.loop(0, whole, f.lanes, unroll=False) as x:
                self._vector(f, row, source, x.i)
            with f.loop(whole, width, unroll=False) as x:
                self._pixel(f, row, source, x.i)
        f.ret()

    def _vector(self, f: KernelBuilder, row: Value, source: Value, x: Value) -> None:
        """Write as many pixels as a vector has lanes."""
        layout, plane = self.layout, self.layout.height * self.layout.width
        halves = [_bits(f, f.load(f.at(source, f.add(x, c * plane)))) for c in range(self.planes)]
        pairs = []
        for c in range(0, layout.channels, 2):
            low, *high = halves[c : c + 2]
            pairs.append(f.b.or_(low, f.b.shl(high[0], f.integers(16))) if high else low)
        for k in range(len(pairs)):
            at = f.add(f.mul(x, layout.pitch), 2 * k * f.lanes)
            f.b.store(woven(f, pairs, k), f.at(row, at, layout.dtype), align=2)

    def _pixel(self, f: KernelBuilder, row: Value, source: Value, x: Value) -> None:
        layout, plane = self.layout, self.layout.height * self.layout.width
        for c in range(layout.channels):
            number: Value = F32(0.0)
            if c < self.planes:
                number = f.load(f.at(source, f.add(x, c * plane)), lanes=1)
            at = f.add(f.mul(x, layout.pitch), c)
            f.store(number, f.at(row, at, layout.dtype), layout.dtype)


def _bits(f: KernelBuilder, value: Value) -> Value:
    """Return float32 rounded to bfloat16, its bits as integers of 32."""
    narrow = f.b.bitcast(f.narrow(value, DType.BFLOAT16), vector(I16, f.lanes))
    return f.b.zext(narrow, vector(I32, f.lanes))
