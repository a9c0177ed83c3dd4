"""Winograd's convolutions against direct ones in float64."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.panels import Panels, pack_columns, to_bfloat16
from engine.cpu.kernels.schedule import winograd_of, winograd_schedule
from engine.cpu.kernels.winograd import Winograd, WinogradSchedule, pack_winograd
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import resolve_window
from tests.engine.cpu.harness import HOST_ISAS, run_kernel
from tests.engine.cpu.pictures import empty_picture, from_picture, to_picture

EPILOGUE = "x0:float32; x1:float32; add #0 #1; x2:float32; mul #2 #3; 0.0:float32; max #4 #5"


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def run(
    m: int,
    shape: tuple[int, int, int, int],
    filters: int,
    schedule: WinogradSchedule,
    *,
    isa: str = "",
    pieces: int = 1,
    dtype: DType = DType.FLOAT32,
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result, with a residual and a factor per filter, and numpy's."""
    target = target_for(isa) if isa else host_target()
    batch, channels, height, width = shape
    held = target.whole_vectors(channels)
    x_layout = ImageLayout(height, width, channels, held, held, 2, dtype)
    held = target.whole_vectors(filters)
    y_layout = ImageLayout(height, width, filters, held, held + 16, 1)
    r_layout = ImageLayout(height, width, filters, held, held)
    spec = Winograd(x_layout, y_layout, m, schedule, EPILOGUE, (r_layout, None), dtype)
    panels = Panels.of(held, target)
    x, w = numbers(1, *shape), numbers(2, filters, channels, 3, 3)
    bias, factor = numbers(3, filters), numbers(4, filters)
    residual = numbers(5, batch, filters, height, width)
    picture = to_picture(x, x_layout, between=1.0)
    operands = [
        empty_picture(batch, y_layout),
        to_bfloat16(picture) if dtype is DType.BFLOAT16 else picture,
        pack_winograd(w, m, held, schedule.group, target, dtype),
        pack_columns(bias, panels),
        to_picture(residual, r_layout, between=1.0),
        pack_columns(factor, panels),
    ]
    tasks = spec.tasks(batch, target)
    assert isinstance(tasks, int)
    (y,) = run_kernel(spec, operands, numbers=[batch], tasks=tasks, pieces=pieces, target=target)
    window = resolve_window((height, width), (3, 3), pads=(1, 1, 1, 1))
    wide = convolve(np, x.astype(np.float64), w.astype(np.float64), window, 1)
    wide = (wide + bias[:, None, None] + residual) * factor[:, None, None]
    return from_picture(y, y_layout), np.maximum(wide, 0)


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("m", [2, 4])
def test_pictures_of_every_remainder(m: int, isa: str) -> None:
    for height, width in ((4, 8), (5, 2)):
        y, expected = run(
            m, (2, 20, height, width), 24, WinogradSchedule(3, 2, 1), isa=isa, pieces=2
        )
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(
    "schedule",
    [WinogradSchedule(50, 14, 4), WinogradSchedule(7, 3, 2, 32), WinogradSchedule(4, 13, 1)],
)
def test_any_schedule_gives_the_same_bits(schedule: WinogradSchedule) -> None:
    one, _ = run(4, (3, 16, 12, 12), 100, WinogradSchedule(1, 1, 4))
    other, expected = run(4, (3, 16, 12, 12), 100, schedule, pieces=3)
    assert one.tobytes() == other.tobytes()
    np.testing.assert_allclose(other, expected, rtol=0, atol=2e-5 * float(expected.max()))


@pytest.mark.skipif(not host_target().has_bf16_dot, reason="no dot products of bfloat16")
def test_pairs_of_bfloat16() -> None:
    """What the numbers are rounded to, before and after they are transformed, sets the error."""
    for shape, schedule in (
        ((2, 32, 5, 8), WinogradSchedule(3, 2, 1)),
        ((1, 33, 6, 7), WinogradSchedule(12, 14, 2, 32)),
    ):
        y, expected = run(2, shape, 50, schedule, pieces=2, dtype=DType.BFLOAT16)
        error = np.sqrt(np.square(y - expected).mean() / np.square(expected).mean())
        assert 1e-3 < error < 8e-3
        other, _ = run(2, shape, 50, WinogradSchedule(5, 3, 1), dtype=DType.BFLOAT16)
        assert other.tobytes() == y.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_instruction_set(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(40)
    layout = ImageLayout(9, 9, 40, held, held, 1)
    kernel = Winograd(layout, layout, 4, WinogradSchedule(4, 4, 1), EPILOGUE, (layout, None))
    assert compile_kernel(kernel, "kernel", target)


def conv(channels: int, filters: int, size: int, stride: int = 1) -> ImageConv:
    x = ImageLayout(size, size, channels, channels, channels, 1)
    out = -(-size // stride)
    y = ImageLayout(out, out, filters, filters, filters)
    pair = (3, 3), (stride, stride), (1, 1), (1, 1)
    return ImageConv(x, y, *pair, ConvSchedule(1, 1))


@pytest.mark.parametrize(
    ("kernel", "m", "half"),
    [
        (conv(64, 64, 56), 4, False),
        (conv(256, 256, 14), 2, False),
        (conv(512, 512, 7), None, False),  # too few tiles to share the weights
        (conv(64, 64, 56, 2), None, False),
        (conv(16, 16, 56), None, False),
        (conv(64, 64, 56), 2, True),
        (conv(512, 512, 7), 2, True),
        (conv(512, 512, 4), None, True),
        (conv(16, 16, 56), None, True),
    ],
)
def test_when_it_is_chosen(kernel: ImageConv, m: int | None, half: bool) -> None:
    target = target_for("avx512")
    found = winograd_of(kernel, target, half=half)
    assert (found and found.m) == m
    assert found is None or (found.dtype is DType.BFLOAT16) == half
    if found is not None:
        assert found.schedule == winograd_schedule(found, target)
        assert 1 <= found.schedule.block <= found.tiles
        assert found.scratch_bytes(target) < 8 * target.l2_bytes
