"""What a kernel is: a frozen specification that emits native code for any target.

Equal specifications are one piece of code, whatever the weights: the specification is the key of
the code cache. A kernel's function is called as

    void kernel(ptr operands, ptr numbers, i64 low, i64 high, ptr scratch)

`operands` is an array of pointers, outputs first; `numbers` an array of int64 that are known only
at run time (batch size, sequence length); `[low, high)` the tasks to do out of the step's `tasks`.
Any split of the tasks over any threads gives the same bits. `scratch` is the thread's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.builder import I64, PTR, Builder, Value
from engine.cpu.target import Target

PARAMETERS = (("operands", PTR), ("numbers", PTR), ("low", I64), ("high", I64), ("scratch", PTR))


class KernelBuilder(Builder):
    """The entry function of a kernel under construction.

    Attributes:
        low: First task to do.
        high: One past the last.
        scratch: Memory of this thread, as much as the kernel's `scratch_bytes`.
    """

    def __init__(self, module: ir.Module, name: str, target: Target) -> None:
        super().__init__(module, name, PARAMETERS, target, internal=False)
        self.low, self.high = self.parameter("low"), self.parameter("high")
        self.scratch = self.parameter("scratch")

    def operand(self, index: int) -> Value:
        """Return the pointer to an operand."""
        slot = self.at_bytes(self.parameter("operands"), index * 8)
        return self.b.load(slot, typ=PTR, align=8)

    def number(self, index: int) -> Value:
        """Return a run-time number."""
        slot = self.at_bytes(self.parameter("numbers"), index * 8)
        return self.b.load(slot, typ=I64, align=8)


@dataclass(frozen=True)
class Kernel(ABC):
    """A specification of native code; subclasses are frozen dataclasses of plain values.

    `repr` of a specification must name all that the code depends on.

    Attributes:
        computes: Whether it does more than copy what is there: a region in which no kernel does is
            not worth entering.
    """

    computes: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """What profiles call the kernel."""
        return type(self).__name__

    @abstractmethod
    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Write the function `name` (and what it calls, with internal linkage) into the module."""

    def scratch_bytes(self, target: Target) -> int:
        """Return the bytes of scratch memory that one thread needs."""
        return 0
