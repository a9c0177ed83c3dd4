"""One number, over and over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.builder import I8, I16, I32, I64
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target

PIECE: Final = 1 << 14  # elements of one task
_ELEMENTS: Final = {1: I8, 2: I16, 4: I32, 8: I64}


@dataclass(frozen=True)
class Fill(Kernel):
    """operands: array, number. numbers: elements. Tasks: one per `PIECE` elements."""

    computes: ClassVar[bool] = False
    itemsize: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Whole vectors, then one by one."""
        f = KernelBuilder(module, name, target)
        array = f.operand(0)
        number = f.b.load(f.operand(1), typ=_ELEMENTS[self.itemsize], align=self.itemsize)
        many = f.splat(number, f.lanes)
        first = f.mul(f.low, PIECE)
        last = f.least(f.mul(f.high, PIECE), f.number(0))
        whole = f.sub(last, f.rem(f.sub(last, first), f.lanes))
        with f.loop(first, whole, f.lanes) as i:
            f.b.store(many, f.at_bytes(array, f.mul(i.i, self.itemsize)), align=self.itemsize)
        with f.loop(whole, last, unroll=False) as i:
            f.b.store(number, f.at_bytes(array, f.mul(i.i, self.itemsize)), align=self.itemsize)
        f.ret()
