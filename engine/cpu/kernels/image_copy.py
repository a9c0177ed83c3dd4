"""Copies of pictures: with another border, pitch or element type, or into a part of a wider one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.builder import I8, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.target import Target


@dataclass(frozen=True)
class ImageCopy(Kernel):
    """operands: picture, picture. numbers: byte of the border of bytes. Tasks: N times the height.

    The target's channels behind the source's are set to zero, its border is cleared.
    """

    computes: ClassVar[bool] = False
    target: ImageLayout
    source: ImageLayout

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of pixels per task."""
        f = KernelBuilder(module, name, target)
        to, source = self.target, self.source
        with f.loop(f.low, f.high) as task:
            n, y = f.divmod(task.i, to.height)
            picture = f.at(f.operand(0), f.mul(n, to.picture), to.dtype)
            original = f.at(f.operand(1), f.mul(n, source.picture), source.dtype)
            byte = f.b.trunc(f.number(0), I8) if to.dtype.itemsize == 1 else None
            clear_border(f, picture, to, y, to.height, byte)
            row = f.at(picture, f.add(f.mul(y, to.row), to.at(0, 0)), to.dtype)
            line = f.at(original, f.add(f.mul(y, source.row), source.at(0, 0)), source.dtype)
            self._row(f, row, line)
        f.ret()

    def _row(self, f: KernelBuilder, row: Value, line: Value) -> None:
        to, source = self.target, self.source
        dense = all(x.pitch == x.channels for x in (to, source))
        if dense and to.dtype is source.dtype:
            f.copy(row, line, to.width * to.channels * to.dtype.itemsize)
            return
        with f.loop(0, to.width) as x:
            pixel = f.at(row, f.mul(x.i, to.pitch), to.dtype)
            original = f.at(line, f.mul(x.i, source.pitch), source.dtype)
            self._channels(f, pixel, original)

    def _channels(self, f: KernelBuilder, pixel: Value, original: Value) -> None:
        to, source = self.target, self.source
        count = min(to.held, source.channels)
        whole = count // f.lanes * f.lanes
        with f.loop(0, whole, f.lanes) as part:
            value = f.load(f.at(original, part.i, source.dtype), source.dtype)
            f.store(value, f.at(pixel, part.i, to.dtype), to.dtype)
        for c in range(whole, count):
            value = f.load(f.at(original, c, source.dtype), source.dtype, 1)
            f.store(value, f.at(pixel, c, to.dtype), to.dtype)
        if count < to.held:
            f.clear(f.at(pixel, count, to.dtype), (to.held - count) * to.dtype.itemsize)
