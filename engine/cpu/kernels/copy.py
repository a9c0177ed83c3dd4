"""Plain copies of memory, cut into pieces for the threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target

PIECE: Final = 1 << 16  # bytes of one task


@dataclass(frozen=True)
class Copy(Kernel):
    """operands: to, from. numbers: bytes. Tasks: one per `PIECE` bytes."""

    computes: ClassVar[bool] = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A call of memcpy per task."""
        f = KernelBuilder(module, name, target)
        destination, source, size = f.operand(0), f.operand(1), f.number(0)
        first = f.mul(f.low, PIECE)
        last = f.least(f.mul(f.high, PIECE), size)
        f.copy(f.at_bytes(destination, first), f.at_bytes(source, first), f.sub(last, first))
        f.ret()
