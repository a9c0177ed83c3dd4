"""Conversions between layouts, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.copy import PIECE, Copy
from engine.cpu.kernels.image_converters import ToImage, ToPlain
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.harness import run_kernel

LANES = host_target().lanes

# height, width, channels, held, pitch, border
LAYOUTS = [
    (1, 1, 20, 32, 32, 0),
    (3, 3, 16, 16, 16, 1),
    (7, 7, 33, 48, 48, 1),
    (7, 7, 48, 48, 80, 2),
    (5, 9, 3, 3, 3, 3),
    (4, 37, 3, 3, 3, 1),
    (4, 32, 1, 1, 1, 0),
    (6, 5, 4, 4, 4, 0),
    (6, 5, 5, 5, 5, 1),
    (6, 5, 5, 5, 9, 1),
    (14, 14, 64, 64, 64, 0),
    (2, 5, 3, 16, 16, 1),
    (1, 40, 17, 32, 32, 0),
    (6, 6, 2, 48, 64, 1),
]


def picture(x: np.ndarray, layout: ImageLayout, fill: float) -> np.ndarray:
    """The picture as the layout has it; `fill` where the kernel may not write."""
    n, c, h, w = x.shape
    b = layout.border
    y = np.full((n, h + 2 * b, w + 2 * b, layout.pitch), fill, np.float32)
    y[..., : layout.held] = 0
    y[:, b : b + h, b : b + w, :c] = x.transpose(0, 2, 3, 1)
    return y


@pytest.mark.parametrize("numbers", LAYOUTS)
def test_there_and_back(numbers: tuple[int, int, int, int, int, int]) -> None:
    layout = ImageLayout(*numbers)
    rng = np.random.default_rng(1)
    shape = (2, layout.channels, layout.height, layout.width)
    x = rng.standard_normal(shape).astype(np.float32)
    expected = picture(x, layout, 7.0)
    kernel = ToImage(layout)
    tasks = 2 * kernel.parts(host_target())
    for pieces in (1, 3):
        (got,) = run_kernel(kernel, [np.full_like(expected, 7.0), x], tasks=tasks, pieces=pieces)
        np.testing.assert_array_equal(got, expected)
    back = ToPlain(layout)
    expected[..., layout.channels :] = np.nan  # of no meaning
    (got,) = run_kernel(
        back, [np.zeros_like(x), expected], tasks=2 * back.parts(host_target()), pieces=2
    )
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 2 * PIECE + 5])
def test_copy(size: int) -> None:
    x = np.random.default_rng(size).integers(0, 255, size, np.uint8)
    tasks = -(-size // PIECE)
    (got,) = run_kernel(Copy(), [np.zeros_like(x), x], numbers=(size,), tasks=tasks, pieces=2)
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    layout = ImageLayout(7, 7, 33, target.whole_vectors(33), target.whole_vectors(33), 1)
    for kernel in (ToImage(layout), ToPlain(layout), Copy()):
        assert compile_kernel(kernel, "kernel", target)
