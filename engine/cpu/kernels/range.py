"""Numbers in equal steps."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import MEMORY
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.fill import PIECE
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class Range(Kernel):
    """operands: array, first number, step. numbers: elements. Tasks: one per `PIECE` elements.

    Each number is computed from its place, so that errors do not add up.
    """

    dtype: DType

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One by one: ranges are short."""
        f = KernelBuilder(module, name, target)
        b, kind, size = f.b, MEMORY[self.dtype], self.dtype.itemsize
        start = b.load(f.operand(1), typ=kind, align=size)
        step = b.load(f.operand(2), typ=kind, align=size)
        low, high = f.mul(f.low, PIECE), f.least(f.mul(f.high, PIECE), f.number(0))
        with f.loop(low, high) as place:
            if self.dtype.is_float:
                number = b.fadd(b.fmul(b.sitofp(place.i, kind), step), start)
            else:
                index = place.i if kind == place.i.type else b.trunc(place.i, kind)
                number = b.add(b.mul(index, step), start)
            f.store(number, f.at(f.operand(0), place.i, self.dtype), self.dtype)
        f.ret()
