"""Pictures rounded to bfloat16, for convolutions that multiply pairs of such numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.ir.types import Dim

NUMBERS_PER_TASK: Final = 1 << 14


@dataclass(frozen=True)
class RoundImage(Kernel):
    """operands: picture, the same picture in another type. Tasks: `tasks`.

    Attributes:
        x: What is read, of whole vectors.
        y: What is written: the same pixels, border included, of as many channels.
    """

    computes: ClassVar[bool] = False

    x: ImageLayout
    y: ImageLayout

    def blocks(self) -> int:
        """Return the tasks of one picture."""
        rows = self.y.height + 2 * self.y.border
        return min(rows, max(1, self.y.picture // NUMBERS_PER_TASK))

    def tasks(self, pictures: Dim, target: Target) -> Dim:
        """Return how many tasks there are for so many pictures."""
        return pictures * self.blocks()

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Pixel after pixel: a task is some rows of a picture."""
        f, x, y = KernelBuilder(module, name, target), self.x, self.y
        rows, blocks = y.height + 2 * y.border, self.blocks()
        with f.loop(f.low, f.high) as task:
            picture, block = f.divmod(task.i, blocks)
            first = f.div(f.mul(block, rows), blocks)
            last = f.div(f.mul(f.add(block, 1), rows), blocks)
            source = f.at(f.operand(1), f.mul(picture, x.picture), x.dtype)
            target_ = f.at(f.operand(0), f.mul(picture, y.picture), y.dtype)
            width = y.width + 2 * y.border
            with f.loop(f.mul(first, width), f.mul(last, width)) as pixel:
                here = f.at(source, f.mul(pixel.i, x.pitch), x.dtype)
                there = f.at(target_, f.mul(pixel.i, y.pitch), y.dtype)
                with f.loop(0, y.held, f.lanes) as channel:
                    value = f.load(f.at(here, channel.i, x.dtype), x.dtype)
                    f.store(value, f.at(there, channel.i, y.dtype), y.dtype)
        f.ret()
