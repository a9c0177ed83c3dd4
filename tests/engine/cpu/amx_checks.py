"""Runs code that uses tiles, in a process of its own: where tiles are emulated, a handler stays.

python -m tests.engine.cpu.amx_checks gemm        # one of `CHECKS`, or several
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import numpy as np

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_products import pack_integer_panels
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels, to_bfloat16
from engine.dtypes import DType
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import Window, resolve_window
from tests.engine.cpu import test_int8_kernels
from tests.engine.cpu.amx_emulation import tile_target, used
from tests.engine.cpu.amx_networks import NETWORK_CHECKS
from tests.engine.cpu.fences import fenced_array
from tests.engine.cpu.harness import run_kernel
from tests.engine.cpu.pictures import empty_picture, from_picture, to_picture

RESIDUAL = "x0:float32; x1:float32; add #0 #1; x2:float32; mul #2 #3; 0.0:float32; max #4 #5"
COSTLY = "x0:float32; erf #0; mul #0 #1"
HEIGHTS = (1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16."""
    return (to_bfloat16(array).astype(np.uint32) << np.uint32(16)).view(np.float32)


@contextmanager
def fenced() -> Iterator[None]:
    """Operands of kernels end where a page begins that nobody may read."""

    def guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner = fenced_array(array.shape, array.dtype)
        inner[...] = array
        return inner, inner.reshape(-1).view(np.uint8)

    with patch("tests.engine.cpu.harness.guarded", guarded):
        yield


# ---------------------------------------------------------------------- products of bfloat16


def product(
    kernel: Gemm, x: np.ndarray, w: np.ndarray, others: Sequence[np.ndarray] = (), pieces: int = 1
) -> np.ndarray:
    """Run a kernel on rows (rounded or yet to be rounded), with bias 0, 1, ..."""
    target, rows, panels = tile_target(), len(x), Panels.of(kernel.n, tile_target())
    assert kernel.step(target)
    bias = np.arange(kernel.n, dtype=np.float32)
    given = x if kernel.x_dtype is DType.FLOAT32 else to_bfloat16(x)
    pitch = np.zeros((rows, kernel.x_pitch - kernel.k), given.dtype)
    half = kernel.y_dtype is DType.BFLOAT16
    operands = [
        np.full((rows, kernel.n), 7, np.uint16 if half else np.float32),
        np.concatenate([given, pitch], axis=1),
        pack_panels(w, panels, DType.BFLOAT16),
        pack_columns(bias, panels),
        *others,
    ]
    tasks = -(-rows // kernel.schedule.block_rows) * -(-panels.count // kernel.schedule.group)
    (y,) = run_kernel(kernel, operands, numbers=[rows], tasks=tasks, pieces=pieces, target=target)
    return (y.astype(np.uint32) << np.uint32(16)).view(np.float32) if half else y


def half_gemm(k: int, n: int, schedule: GemmSchedule, **fields: object) -> Gemm:
    return replace(Gemm(k, n, k, n, schedule, dtype=DType.BFLOAT16), **fields)  # type: ignore[arg-type]


def check_gemm() -> None:
    """Every tail of rows and columns, of one and of several steps, in one part and in several."""
    for (k, parts), n in itertools.product(((32, 1), (24, 1), (192, 3)), (16, 70, 64)):
        kernel = half_gemm(k, n, GemmSchedule(64, 2, parts, 16))
        x, w = numbers(1, max(HEIGHTS), k), numbers(2, k, n)
        expected = rounded(x).astype(np.float64) @ rounded(w) + np.arange(n)
        whole = product(kernel, x, w, pieces=3)
        np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
        for rows in HEIGHTS:  # a row has the same bits, whatever is beside it
            with fenced():
                y = product(kernel, x[:rows], w, pieces=2)
            assert y.tobytes() == whole[:rows].tobytes(), f"{rows} rows"
        once = replace(kernel.schedule, ahead_once=True)
        asked = product(replace(kernel, schedule=once), x, w)
        assert asked.tobytes() == whole.tobytes(), "asking ahead changed bits"
        alone = product(kernel, x[77:78], w)
        assert alone.tobytes() == whole[77].tobytes()


def check_gemm_operands() -> None:
    """Rows that are rounded already and lie apart, epilogues, results of bfloat16."""
    k, n, rows = 64, 70, 45
    x, w, residual, factor = (
        numbers(1, rows, k),
        numbers(2, k, n),
        numbers(3, rows, n),
        numbers(4, n),
    )
    sums = rounded(x).astype(np.float64) @ rounded(w) + np.arange(n)
    half = half_gemm(k, n, GemmSchedule(32, 1), x_pitch=72, x_dtype=DType.BFLOAT16)
    np.testing.assert_allclose(product(half, x, w), sums, rtol=1e-5, atol=1e-5)
    kernel = replace(half, epilogue=RESIDUAL, extras=(n, None))
    packed = pack_columns(factor, Panels.of(n, tile_target()))
    y = product(kernel, x, w, [residual, packed])
    np.testing.assert_allclose(y, np.maximum((sums + residual) * factor, 0), rtol=1e-5, atol=1e-4)
    expected = sums * np.vectorize(math.erf)(sums)
    for parts in (1, 2):
        kernel = half_gemm(
            k, n, GemmSchedule(32, 2, parts), epilogue=COSTLY, y_dtype=DType.BFLOAT16
        )
        y = product(kernel, x, w)
        np.testing.assert_allclose(y, expected, rtol=1e-2, atol=1e-2)


def check_gemm_counts() -> None:
    """A full step is four loads and four products; a kernel begins and ends the use of tiles."""
    k, n, steps = 192, 64, 6
    kernel = half_gemm(k, n, GemmSchedule(64, 2))
    x, w = numbers(1, 64, k), numbers(2, k, n)
    blocks = 2 * 2  # of 32 rows by 32 columns
    with used(
        configure=1,
        release=1,
        zero=0,
        load=blocks * (4 + 4 * steps),
        store=blocks * 4,
        multiply=blocks * 4 * steps,
    ):
        product(kernel, x, w)
    with used(load=2 * (2 + 3 * steps), multiply=2 * 2 * steps, configure=1 + 2 * 2):
        product(kernel, x[:5], w)  # rows of one group: their own shapes, per panel


# ---------------------------------------------------------------------- convolutions of bfloat16

Two = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A convolution: (channels, rows, columns), filters, window, strides; `gap`: channels between
    pixels."""

    shape: tuple[int, int, int]
    filters: int
    kernel: Two
    strides: Two = (1, 1)
    groups: int = 1
    gap: int = 0


CONVOLUTIONS = (
    Case((64, 9, 7), 40, (3, 3)),  # two rows of a picture in a block; a row of the window is a run
    Case((64, 7, 7), 70, (1, 1)),  # flat: 25 and 24 pixels
    Case((32, 9, 40), 16, (3, 3), (2, 1), gap=16),  # 20 pixels of a row
    Case((64, 3, 16), 64, (3, 2), groups=2),
    Case((4, 21, 13), 40, (7, 7), (2, 2)),  # thin: steps of 14 pairs
    Case((16, 5, 1), 20, (1, 1), (2, 1)),  # steps of 8 pairs, a pixel a row
)


def check_conv() -> None:
    """Windows of several kinds; a picture has the same bits alone and in a batch."""
    for case in CONVOLUTIONS:
        channels, height, width = case.shape
        x = numbers(1, 3, *case.shape)
        w = numbers(2, case.filters, channels // case.groups, *case.kernel)
        pads = (case.kernel[0] // 2, case.kernel[1] // 2) * 2
        window = resolve_window((height, width), case.kernel, strides=case.strides, pads=pads)
        whole = convolution(case, window, x, w, pieces=4)
        wide = convolve(np, rounded(x).astype(np.float64), rounded(w), window, case.groups)
        np.testing.assert_allclose(whole, wide + _bias(case), rtol=1e-5, atol=1e-4)
        with fenced():
            alone = convolution(case, window, x[1:2], w)
        assert alone[0].tobytes() == whole[1].tobytes(), case


def _bias(case: Case) -> np.ndarray:
    return np.arange(case.filters, dtype=np.float32)[:, None, None]


def convolution(
    case: Case, window: Window, x: np.ndarray, w: np.ndarray, pieces: int = 1
) -> np.ndarray:
    """Run a kernel on pictures; filter i has the bias i."""
    target, filters, (channels, height, width) = tile_target(), case.filters, case.shape
    border, held = case.kernel[0] // 2, target.whole_vectors(filters)
    x_layout = ImageLayout(
        height, width, channels, channels, channels + case.gap, border, DType.BFLOAT16
    )
    rows, columns = window.output_sizes((height, width))
    y_layout = ImageLayout(rows, columns, filters, held, held, border)
    begins = window.begins[0], window.begins[1]
    schedule, groups = ConvSchedule(2, 1, 16), case.groups
    spec = ImageConv(
        x_layout, y_layout, case.kernel, case.strides, (1, 1), begins, schedule, groups
    )
    assert spec.step(target)
    panels = spec.panels(target)
    matrices = w.reshape(groups, filters // groups, -1, *case.kernel).transpose(0, 3, 4, 2, 1)
    matrices = matrices.reshape(groups, -1, filters // groups)
    missing = panels.columns - matrices.shape[2]
    matrices = np.pad(matrices, ((0, 0), (0, 0), (0, missing)))
    bias = _bias(case).reshape(groups, -1)
    operands = [
        empty_picture(len(x), y_layout),
        to_bfloat16(to_picture(x, x_layout, between=1.0)),
        np.concatenate([pack_panels(m, panels, DType.BFLOAT16) for m in matrices]),
        np.concatenate([pack_columns(row, panels) for row in bias]),
    ]
    tasks = spec.tasks(len(x), target)
    assert isinstance(tasks, int)
    with used():
        (y,) = run_kernel(
            spec, operands, numbers=[len(x)], tasks=tasks, pieces=pieces, target=target
        )
    return from_picture(y, y_layout)


# ---------------------------------------------------------------------- bytes


def check_bytes() -> None:
    """Products and convolutions of unsigned and signed bytes, exactly."""
    tile_target()
    for shape in ((1, 64, 32), (33, 64, 70), (47, 132, 33), (65, 320, 16)):
        with used():
            test_int8_kernels.check_gemm(*shape, isa="amx")
    test_int8_kernels.check_gemm(17, 48, 37, isa="amx", extreme=True)
    for signed, parts in ((True, 1), (False, 2), (True, 2)):
        with used(), fenced():
            _check_sums(45, 96, 70, signed, parts)
    check = partial(test_int8_kernels.check_conv, isa="amx", pieces=3)
    framed = partial(check, pads=(1, 1, 1, 1), borders=(1, 1))
    for signed, zero in ((False, 13), (True, -5)):
        with used(), fenced():
            framed((2, 64, 9, 7), 40, (3, 3), signed=signed, zero=zero)
            framed((1, 48, 5, 40), 16, (3, 3), strides=(2, 1), signed=signed, zero=zero)
            check((2, 32, 7, 9), 70, (1, 1), signed=signed, zero=zero)


def _check_sums(m: int, k: int, n: int, signed: bool, parts: int) -> None:
    """Sums of one or two matrices of weights; the left side is not taken higher where signed."""
    target, kind = tile_target(), np.int8 if signed else np.uint8
    panels = Panels.of(n, target)
    x, w = (
        test_int8_kernels.integers(1, kind, m, k),
        test_int8_kernels.integers(2, np.int8, parts, k, n),
    )
    begin = np.arange(n, dtype=np.int32) * 1000
    kernel = IntegerGemm(k, n, k, 64, 2, signed=signed, parts=parts)
    assert kernel.step(target) and kernel.lift(target) == 0
    operands = [
        np.zeros((m, n), np.int32),
        x,
        pack_integer_panels(w.reshape(parts * k, n), panels, target),
        test_int8_kernels.per_column(begin, panels),
        np.zeros(1, np.float32),
    ]
    tasks = -(-m // 64) * -(-panels.count // 2)
    (y,) = run_kernel(kernel, operands, numbers=[m], tasks=tasks, pieces=2, target=target)
    sums = x.astype(np.int64) @ w.astype(np.int64).sum(axis=0) + begin
    np.testing.assert_array_equal(y, sums)


CHECKS: dict[str, Callable[[], None]] = {
    "gemm": check_gemm,
    "gemm_operands": check_gemm_operands,
    "gemm_counts": check_gemm_counts,
    "conv": check_conv,
    "bytes": check_bytes,
    **NETWORK_CHECKS,
}


def main(names: Sequence[str]) -> None:
    for name in names or CHECKS:
        CHECKS[name]()
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
