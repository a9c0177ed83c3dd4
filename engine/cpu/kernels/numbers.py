"""Whole numbers that follow from the shapes of the inputs, written down as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class WriteNumbers(Kernel):
    """Output 0: `count` int64, the run-time numbers in order. One task."""

    computes: ClassVar[bool] = False

    count: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        with f.loop(f.low, f.high):
            f.copy(f.operand(0), f.parameter("numbers"), self.count * DType.INT64.itemsize)
        f.ret()
