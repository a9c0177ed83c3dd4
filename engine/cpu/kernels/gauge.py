"""Kernels that do nothing but keep one part of a core busy, to measure what it can do at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target

# Independent sums: enough to hide the latency of two multiply-add units, few enough for registers.
SUMS: Final = 12
BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class MultiplyAdd(Kernel):
    """operands: out (a vector per task). numbers: rounds. Tasks: any number.

    A task does `SUMS` multiply-adds of whole vectors per round.
    """

    computes: ClassVar[bool] = False

    def flops(self, target: Target, rounds: int) -> int:
        """Return the arithmetic operations of one task."""
        return 2 * SUMS * target.lanes * rounds

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Sums of numbers that stay near 1, so that nothing overflows or becomes denormal."""
        f = KernelBuilder(module, name, target)
        rounds, out = f.number(0), f.operand(0)
        with f.loop(f.low, f.high, unroll=False) as task:
            factor = f.load(f.at(out, f.mul(task.i, f.lanes)))
            start = [f.b.fadd(factor, f.floats(k / SUMS)) for k in range(SUMS)]
            half = f.floats(0.5)
            with f.loop(0, rounds, carry=start, unroll=False) as turn:
                turn.next = [f.fma(value, half, factor) for value in turn.values]
            total = turn.result[0]
            for value in turn.result[1:]:
                total = f.b.fadd(total, value)
            f.store(total, f.at(out, f.mul(task.i, f.lanes)))
        f.ret()


@dataclass(frozen=True)
class ReadMemory(Kernel):
    """operands: out (a vector per task), array. Tasks: one per `BLOCK_BYTES` of the array."""

    computes: ClassVar[bool] = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Read every vector of the block once, into sums that are independent."""
        f = KernelBuilder(module, name, target)
        vectors = BLOCK_BYTES // (4 * f.lanes)
        with f.loop(f.low, f.high, unroll=False) as task:
            block = f.at_bytes(f.operand(1), f.mul(task.i, BLOCK_BYTES))
            start = [f.floats(0.0)] * 8
            with f.loop(0, vectors, 8, carry=start, unroll=False) as turn:
                turn.next = [
                    f.b.fadd(value, f.load(f.at(block, f.mul(f.add(turn.i, k), f.lanes))))
                    for k, value in enumerate(turn.values)
                ]
            total = turn.result[0]
            for value in turn.result[1:]:
                total = f.b.fadd(total, value)
            f.store(total, f.at(f.operand(0), f.mul(task.i, f.lanes)))
        f.ret()
