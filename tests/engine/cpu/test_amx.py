"""Code for tiles (AMX): what is emitted for them, and what it computes.

Where the processor has none, the machine code runs all the same, in a process of its own in which
`amx_emulator.c` stands in for just those instructions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import pytest

import engine
from engine.compiler import CompileRequest, compile_model
from engine.cpu import tile_permission
from engine.cpu.compiling import GraphCompiler, kernels_of
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.amx import LEAST_STEP, TILE_ROWS, configuration, step_quads
from engine.cpu.kernels.amx_tile import row_groups
from engine.cpu.kernels.conv import ConvSchedule, ImageConv, cut_for_tiles
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.int8_conv import IntegerConv
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.schedule import gemm_schedule
from engine.cpu.kernels.winograd import Winograd
from engine.cpu.native import compile_kernel, emit_text
from engine.cpu.target import host_target, target_for
from engine.dtypes import DType
from engine.isolate import PASSED_ON
from engine.ops.registry import REGISTRY
from tests.engine.cpu.amx_checks import CHECKS
from tests.engine.cpu.amx_emulation import why_not
from tests.engine.cpu.amx_networks import NETWORK_CHECKS, half_pictures
from tests.engine.quantized_models import conv_net

ROOT: Final = Path(__file__).parents[3]

needs_x86 = pytest.mark.skipif(
    not host_target().is_x86, reason="LLVM assembles instructions of its own platform only"
)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "tiles can be used")
@pytest.mark.parametrize("networks", [False, True])
def test_code_that_uses_tiles(networks: bool) -> None:
    names = [name for name in CHECKS if (name in NETWORK_CHECKS) == networks]
    command = [sys.executable, "-m", "tests.engine.cpu.amx_checks", *names]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == names, done.stderr[-4000:]


def half(k: int, parts: int = 1, *, once: bool = False) -> Gemm:
    schedule = GemmSchedule(64, 2, parts, 16, ahead_once=once)
    return Gemm(k, 70, k, 70, schedule, dtype=DType.BFLOAT16)


@needs_x86
@pytest.mark.parametrize(("parts", "once"), [(1, False), (2, True)])
def test_a_product_of_bfloat16_is_tiles_alone(parts: int, once: bool) -> None:
    kernel = half(128, parts, once=once)
    text = assembly(kernel)
    assert set(re.findall(r"\b(tdp\w+)", text)) == {"tdpbf16ps"}
    assert "vdpbf16ps" not in text
    assert text.count("tilerelease") == 1
    assert compile_kernel(kernel, "kernel", target_for("amx"))


@needs_x86
@pytest.mark.parametrize("signed", [False, True])
def test_products_of_bytes_know_the_sign_of_the_left_side(signed: bool) -> None:
    kernel = IntegerGemm(128, 70, 128, 64, 1, signed=signed, parts=2, ahead=4)
    instruction = "tdpbssd" if signed else "tdpbusd"
    text = assembly(kernel)
    assert set(re.findall(r"\b(v?[tp]+d[p]b\w+)", text)) == {instruction}
    assert kernel.lift(target_for("amx")) == 0
    assert kernel.lift(target_for("avx512")) == (128 if signed else 0)


@needs_x86
def test_convolutions_of_every_kind_of_tile() -> None:
    """Blocks of four shapes, of whole and of narrow panels: each leaves the standing shapes."""
    x = ImageLayout(5, 41, 64, 64, 64, 1, DType.BFLOAT16)
    y = ImageLayout(5, 41, 40, 48, 48)
    window = (3, 3), (1, 1), (1, 1), (1, 1)
    bytes_ = replace(x, dtype=DType.UINT8)
    for kernel in (
        ImageConv(x, y, *window, ConvSchedule(2, 1, 16)),
        IntegerConv(bytes_, replace(y, dtype=DType.INT32), *window, ConvSchedule(2, 1, 16)),
    ):
        text = assembly(kernel)
        assert text.count("tilerelease") == 1 and "vpdpbusd" not in text and "vdpbf16" not in text
        assert compile_kernel(kernel, "kernel", target_for("amx"))


def test_pictures_are_cut_into_groups_of_pixels_in_a_row() -> None:
    for height, width in ((1, 1), (7, 7), (9, 16), (13, 17), (5, 33), (112, 112), (1, 49)):
        rows, columns = cut_for_tiles(height, width)
        for cut, length in ((rows, height), (columns, width)):
            assert cut.parts * cut.short + cut.longer == length
        for tall in rows.sizes:
            for wide in columns.sizes:
                groups = row_groups([1000 * y + 3 * x for y in range(tall) for x in range(wide)])
                assert sum(group.count for group in groups) == tall * wide


def contractions(source: bytes, precision: str) -> list[Any]:
    """The kernels of a model that multiply dense matrices, as compiled for tiles."""
    compiler = GraphCompiler(target_for("amx"), REGISTRY, engine.Limits(), precision)
    compiler.rewrite(compile_model(source, CompileRequest(precision=precision)).graph)
    kinds = Gemm, IntegerGemm, ImageConv, Winograd
    return [kernel for kernel in kernels_of(compiler.lowered) if isinstance(kernel, kinds)]


def test_networks_take_tiles_where_they_can() -> None:
    found = contractions(half_pictures(), "bf16")
    assert len(found) >= 6 and not any(isinstance(kernel, Winograd) for kernel in found)
    assert all(kernel.step(target_for("amx")) for kernel in found)
    found = contractions(conv_net(channels=32, filters=64), "fp32")
    assert len(found) == 4 and all(kernel.step(target_for("amx")) for kernel in found)


# ---------------------------------------------------------------------- whether tiles may be used


@pytest.mark.parametrize(("word", "expected"), [(None, True), ("on", True), (" OFF ", False)])
def test_the_setting(word: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_permission, "_granted", lambda: True)
    monkeypatch.delenv(tile_permission.VARIABLE, raising=False)
    if word is not None:
        monkeypatch.setenv(tile_permission.VARIABLE, word)
    assert tile_permission.tiles_are_permitted() is expected
    assert tile_permission.VARIABLE in PASSED_ON


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tile_permission.VARIABLE, "perhaps")
    with pytest.raises(ValueError, match=r"MILLRACE_AMX is 'perhaps'; expected 'on'"):
        tile_permission.tiles_are_permitted()


def test_leave_is_asked_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not host_target().has_amx or tile_permission._granted()
    tile_permission._granted()  # asking is harmless where there is nothing to be granted
    monkeypatch.setattr("sys.platform", "darwin")
    assert not tile_permission._granted()


@needs_x86
@pytest.mark.parametrize("granted", [False, True])
def test_a_processor_with_tiles(granted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Features(dict[str, bool]):
        def flatten(self) -> str:
            return ",".join(f"+{name}" for name in self)

    wide = "avx512f avx512vl avx512bw avx512dq avx512bf16 avx512vnni amx-tile amx-bf16 amx-int8"
    features = Features.fromkeys(wide.split(), True)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr("engine.cpu.target.tiles_are_permitted", lambda: granted)
    assert host_target.__wrapped__().has_amx == granted
    features["amx-int8"] = False
    assert not host_target.__wrapped__().has_amx


def test_targets_by_name() -> None:
    amx, plain = target_for("amx"), target_for("avx512")
    assert amx.has_amx and amx.has_bf16_dot and amx.has_int8_dot and not plain.has_amx
    assert repr(amx) != repr(plain) and amx.isa == plain.isa == "avx512"
    with pytest.raises(ValueError, match="avx512, avx2, sse2, neon, amx"):
        target_for("mmx")


def assembly(kernel: Kernel) -> str:
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
