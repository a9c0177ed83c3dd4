"""From kernels to machine code."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np
import pytest

from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.native import LoadedObject, compile_kernel, emit_text
from engine.cpu.target import ISAS, Target, host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel


@dataclass(frozen=True)
class Powers(Kernel):
    """operands: y (int64 per task). y = 3 ** turns, in a loop in a loop."""

    turns: int
    unroll: bool | None

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        with f.loop(f.low, f.high, unroll=self.unroll) as task:
            place = f.at(f.operand(0), task.i, DType.INT64)
            f.store(f.add(1), place, DType.INT64)
            with f.loop(0, self.turns, unroll=self.unroll):
                value = f.load(place, DType.INT64, 1)
                f.b.fence("seq_cst")  # keeps the loop from being computed at once
                f.store(f.mul(value, 3), place, DType.INT64)
        f.ret()


@pytest.mark.parametrize("isa", ISAS)
def test_a_loop_that_must_not_be_unrolled_is_not(isa):
    target = target_for(isa)
    sizes = [len(compile_kernel(Powers(24, unroll), "f", target)) for unroll in (None, False)]
    assert sizes[1] < 0.8 * sizes[0]


def test_marks_of_loops_are_their_own():
    text = emit_text(Powers(24, False), "f", host_target())
    loops = [
        line.rpartition("!llvm.loop ")[2] for line in text.splitlines() if "!llvm.loop" in line
    ]
    assert len(set(loops)) == len(loops) == 2
    for mark in loops:
        assert f"{mark} = distinct !{{{mark}, " in text
    assert "llvm.loop" not in emit_text(Powers(24, None), "f", host_target())


@pytest.mark.parametrize("unroll", [None, False])
def test_marks_change_no_result(unroll):
    (y,) = run_kernel(Powers(5, unroll), [np.zeros(3, np.int64)], tasks=3, pieces=2)
    assert y.tolist() == [243, 243, 243]


def test_objects_load_together_and_names_are_checked():
    target = host_target()
    codes = [compile_kernel(Powers(n, None), f"f{n}", target) for n in (1, 2)]
    loaded = LoadedObject(codes, target)
    assert loaded.code_bytes == sum(map(len, codes))
    assert loaded.address("f1") != loaded.address("f2")
    with pytest.raises(KeyError):
        loaded.address("f3")
