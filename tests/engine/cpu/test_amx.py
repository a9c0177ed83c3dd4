"""Code for tiles (AMX): what is emitted for them, and what it computes.

Where the processor has none, the machine code runs all the same, in a process of its own in which
`amx_emulator.c` stands in for just those instructions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from engine.cpu.kernels.amx import LEAST_STEP, TILE_ROWS, configuration, step_quads
from engine.cpu.kernels.amx_tile import row_groups
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.schedule import gemm_schedule
from engine.cpu.native import compile_kernel, emit_text
from engine.cpu.target import host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.amx_checks import CHECKS
from tests.engine.cpu.amx_emulation import why_not

ROOT = Path(__file__).parents[3]

needs_x86 = pytest.mark.skipif(
    not host_target().is_x86, reason="LLVM assembles instructions of its own platform only"
)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "tiles can be used")
@pytest.mark.parametrize("group", ["gemm", "conv", "bytes"])
def test_code_that_uses_tiles(group: str) -> None:
    names = [name for name in CHECKS if name.startswith(group)]
    command = [sys.executable, "-m", "tests.engine.cpu.amx_checks", *names]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == names, done.stderr[-4000:]


def half(k: int, parts: int = 1) -> Gemm:
    return Gemm(k, 70, k, 70, GemmSchedule(64, 2, parts, 16), dtype=DType.BFLOAT16)


@needs_x86
@pytest.mark.parametrize("parts", [1, 2])
def test_a_product_of_bfloat16_is_tiles_alone(parts: int) -> None:
    text = assembly(half(128, parts))
    assert set(re.findall(r"\b(tdp\w+)", text)) == {"tdpbf16ps"}
    assert "vdpbf16ps" not in text
    assert text.count("tilerelease") == 1
    assert compile_kernel(half(128, parts), "kernel", target_for("amx"))


def assembly(kernel: Gemm) -> str:
    target = target_for("amx")
    module = llvm.parse_assembly(emit_text(kernel, "kernel", target))
    module.verify()
    return str(target.machine().emit_assembly(module))


def test_steps_divide_every_run() -> None:
    target = target_for("amx")
    assert step_quads(target, [64]) == 16 and step_quads(target, [192, 320]) == 16
    assert step_quads(target, [96]) == 12 and step_quads(target, [28 * 2]) == 14
    assert step_quads(target, [32, 64]) == LEAST_STEP
    for runs in ([28], [66], [64, 68], [4]):
        assert step_quads(target, runs) == 0
    assert step_quads(target_for("avx512"), [64]) == 0


def test_the_specification_alone_decides() -> None:
    amx = target_for("amx")
    assert half(64).step(amx) == 16 and half(33).step(amx) == 0
    assert half(96, 4).step(amx) == 12 and half(96, 8).step(amx) == 0
    assert not Gemm(64, 70, 64, 70, GemmSchedule(64, 2)).step(amx)  # float32
    assert not half(64).step(target_for("avx512"))


def test_configurations_hold_what_the_manual_says() -> None:
    data = configuration((16, 5), 12)
    columns = [int.from_bytes(data[16 + 2 * t : 18 + 2 * t], "little") for t in range(16)]
    assert data[:16] == bytes([1] + [0] * 15) and len(data) == 64
    assert list(data[48:]) == [16, 16, 5, 5, 16, 5, 12, 12] + [0] * 8
    assert columns == [64, 64, 64, 64, 48, 48, 64, 64] + [0] * 8
    assert list(configuration((3,), 16)[48:56]) == [3, 3, 0, 0, 3, 0, 16, 16]


def test_rows_lie_in_groups_equally_far_apart() -> None:
    flat = row_groups([10 * r for r in range(25)])
    assert [(g.first, g.count, g.place, g.step) for g in flat] == [(0, 16, 0, 10), (16, 9, 160, 10)]
    two_rows = row_groups([0, 4, 8, 100, 104, 108])
    assert [(g.first, g.count, g.place, g.step) for g in two_rows] == [(0, 3, 0, 4), (3, 3, 100, 4)]
    assert row_groups([7])[0].count == 1
    with pytest.raises(ValueError, match="expected up to 2"):
        row_groups([0, 1, 10, 11, 20, 21])


@pytest.mark.parametrize(("k", "n"), [(64, 70), (768, 3072), (3072, 768), (33, 64), (4096, 4096)])
def test_schedules_of_blocks(k: int, n: int) -> None:
    target = target_for("amx")
    plan = gemm_schedule(k, n, target, DType.BFLOAT16)
    kernel = Gemm(k, n, k, n, plan, dtype=DType.BFLOAT16)
    height = 2 * TILE_ROWS if kernel.step(target) else target.tile_rows
    assert plan.block_rows % height == 0 and plan.block_rows > 0
    assert bool(kernel.step(target)) == (k != 33)
