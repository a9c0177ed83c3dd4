"""Small kernels whose effect shows what the runtime did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import llvmlite.ir as ir
import numpy as np

from engine.cpu.builder import I64
from engine.cpu.code_store import CodeStore, Handle
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.runtime.program import ResolvedStep
from engine.cpu.target import Target, host_target
from engine.dtypes import DType

WORD = 8


@dataclass(frozen=True)
class Mix(Kernel):
    """operands: y, x (int64). y[i] = y[i] * 7 + x[i] + numbers[0], `turns` times x on the way.

    A task done twice, or not at all, leaves another y behind.
    """

    turns: int = 1

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        number = f.number(0)
        with f.loop(f.low, f.high) as task:
            y, x = (f.at(f.operand(k), task.i, DType.INT64) for k in (0, 1))
            value = f.load(x, DType.INT64, 1)
            with f.loop(1, self.turns, carry=[value]) as turn:
                turn.next = [f.add(f.mul(turn.values[0], 31), turn.i)]
            before = f.mul(f.load(y, DType.INT64, 1), 7)
            f.store(f.add(before, turn.result[0], number), y, DType.INT64)
        f.ret()


@dataclass(frozen=True)
class Occupancy(Kernel):
    """operands: words. word 0: threads inside now; word 1: the most there ever were."""

    turns: int = 2000

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        inside, most = f.operand(0), f.at_bytes(f.operand(0), 8 * WORD)
        before = f.b.atomic_rmw("add", inside, I64(1), "seq_cst")
        f.b.atomic_rmw("max", most, f.add(before, 1), "seq_cst")
        count = f.mul(f.sub(f.high, f.low), self.turns)
        with f.loop(0, count):  # atomic, so that LLVM leaves it in
            f.b.atomic_rmw("add", f.at_bytes(f.operand(0), 16 * WORD), I64(1), "monotonic")
        f.b.atomic_rmw("sub", inside, I64(1), "seq_cst")
        f.ret()


@dataclass(frozen=True)
class Scratched(Kernel):
    """operands: y (int64). Writes each task's number through scratch memory of the thread."""

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        with f.loop(f.low, f.high) as task:
            f.store(task.i, f.scratch, DType.INT64)
            f.store(task.i, f.at_bytes(f.scratch, 4096 - WORD), DType.INT64)
            first = f.load(f.scratch, DType.INT64, 1)
            last = f.load(f.at_bytes(f.scratch, 4096 - WORD), DType.INT64, 1)
            f.store(f.add(first, last), f.at(f.operand(0), task.i, DType.INT64), DType.INT64)
        f.ret()

    def scratch_bytes(self, target: Target) -> int:
        return 4096


@cache
def handle(kernel: Kernel) -> Handle:
    return CodeStore(keep=False).get([kernel], host_target())[kernel]


def step(
    kernel: Kernel, operands: list[tuple[int, int, int]], tasks: int, **kwargs
) -> ResolvedStep:
    numbers = kwargs.pop("numbers", (0,))
    return ResolvedStep(handle(kernel).address, tuple(operands), tuple(numbers), tasks, **kwargs)


def mix(y: np.ndarray, x: np.ndarray, number: int, turns: int = 1) -> None:
    """What `Mix` does, in numpy."""
    value = x.copy()
    for i in range(1, turns):
        value = value * 31 + i
    y[...] = y * 7 + value + number
