"""Zeros around pictures, as elements of the result and not only of its border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.builder import Number, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.target import Target


@dataclass(frozen=True)
class ImagePad(Kernel):
    """operands: picture, picture. Tasks: N times the height of the result.

    Attributes:
        target: The result.
        source: The input; it lies inside of the result.
        top: Rows of zeros above it.
        left: Columns of zeros in front of it.
    """

    computes: ClassVar[bool] = False
    target: ImageLayout
    source: ImageLayout
    top: int
    left: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of the result per task."""
        f = KernelBuilder(module, name, target)
        to, source = self.target, self.source
        with f.loop(f.low, f.high, unroll=False) as task:
            n, y = f.divmod(task.i, to.height)
            picture = f.at(f.operand(0), f.mul(n, to.picture), to.dtype)
            clear_border(f, picture, to, y, to.height)
            row = f.at(picture, f.add(f.mul(y, to.row), to.at(0, 0)), to.dtype)
            original = f.at(f.operand(1), f.mul(n, source.picture), source.dtype)
            inside = f.sub(y, self.top)
            is_inside = f.b.icmp_unsigned("<", inside, inside.type(source.height))
            with f.if_else(is_inside) as (inner, outer):
                with inner:
                    line = f.add(f.mul(inside, source.row), source.at(0, 0))
                    self._row(f, row, f.at(original, line, source.dtype))
                with outer:
                    self._clear(f, row, 0, to.width)
        f.ret()

    def _row(self, f: KernelBuilder, row: Value, line: Value) -> None:
        to, source = self.target, self.source
        right = self.left + source.width
        self._clear(f, row, 0, self.left)
        self._clear(f, row, right, to.width)
        count = min(to.held, source.channels)
        whole = count // f.lanes * f.lanes
        with f.loop(0, source.width, unroll=False) as x:
            pixel = f.at(row, f.mul(f.add(x.i, self.left), to.pitch), to.dtype)
            original = f.at(line, f.mul(x.i, source.pitch), source.dtype)
            for lanes, low, high in ((f.lanes, 0, whole), (1, whole, count)):
                if low < high:
                    with f.loop(low, high, lanes, unroll=False) as c:
                        value = f.load(f.at(original, c.i, source.dtype), source.dtype, lanes)
                        f.store(value, f.at(pixel, c.i, to.dtype), to.dtype)
            if count < to.held:
                size = (to.held - count) * to.dtype.itemsize
                f.clear(f.at(pixel, count, to.dtype), size)

    def _clear(self, f: KernelBuilder, row: Value, low: Number, high: Number) -> None:
        """Write zeros into pixels low to high."""
        to = self.target
        with f.loop(low, high, unroll=False) as x:
            f.clear(f.at(row, f.mul(x.i, to.pitch), to.dtype), to.held * to.dtype.itemsize)
