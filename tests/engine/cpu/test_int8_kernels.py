"""Integer kernels against numpy, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule
from engine.cpu.kernels.int8_batched import Broadcast, IntegerBatched
from engine.cpu.kernels.int8_conv import IntegerConv, quads
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_packing import PackLeft, PackRight, right_quad_bytes
from engine.cpu.kernels.int8_products import QUAD, pack_integer_panels
from engine.cpu.kernels.panels import Panels
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, Target, host_target, target_for
from engine.dtypes import DType
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import resolve_window
from tests.engine.cpu.harness import HOST_ISAS, run_kernel

# round(float(sum) * factor per column + residual * number), held to bytes
REQUANTIZE = (
    "0.0:float32; x0:int32; float32 #1; x1:float32; mul #2 #3; x2:uint8; float32 #5; x3:float32; "
    "mul #6 #7; add #4 #8; round #9; lt #0 #10; select #11 #10 #0; 255.0:float32; lt #12 #13; "
    "select #14 #12 #13; uint8 #15"
)


def requantized(sums: np.ndarray, factor: np.ndarray, residual: np.ndarray) -> np.ndarray:
    value = sums.astype(np.float32) * factor + residual.astype(np.float32) * np.float32(0.5)
    return np.clip(np.rint(value), 0, 255).astype(np.uint8)


def integers(seed: int, dtype: type, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def per_column(values: np.ndarray, panels: Panels) -> np.ndarray:
    return np.pad(values, (0, panels.padded - values.size))


def check_gemm(m: int, k: int, n: int, *, isa: str = "", extreme: bool = False) -> None:
    target = target_for(isa) if isa else host_target()
    panels = Panels.of(n, target)
    x, w = integers(1, np.uint8, m, k), integers(2, np.int8, k, n)
    if extreme:
        x, w = np.full((m, k), 255, np.uint8), np.full((k, n), -128, np.int8)
    begin = np.arange(n, dtype=np.int32) * 1000
    factor = np.random.default_rng(3).random(n, np.float32) / (60 * k)
    residual = integers(4, np.uint8, m, n)
    sums = x.astype(np.int64) @ w.astype(np.int64) + begin
    packed = pack_integer_panels(np.pad(w, ((0, -k % QUAD), (0, 0))), panels, target)
    fixed = [packed, per_column(begin, panels)]
    kernel = IntegerGemm(k, n, k, block_rows=target.tile_rows * 2, group=1)
    tasks = -(-m // kernel.block_rows) * panels.count
    empty = np.zeros((m, n), np.int32)
    x_read = np.pad(x.reshape(-1), (0, 3))
    scalars = np.array([0.5], np.float32)
    (y,) = run_kernel(
        kernel, [empty, x_read, *fixed, scalars], numbers=[m], tasks=tasks, pieces=3, target=target
    )
    np.testing.assert_array_equal(y, sums.astype(np.int32))
    kernel = IntegerGemm(
        k,
        n,
        k,
        block_rows=target.tile_rows * 2,
        group=2,
        epilogue=REQUANTIZE,
        operands=("column", DType.UINT8, "scalar"),
        y_dtype=DType.UINT8,
    )
    tasks = -(-m // kernel.block_rows) * -(-panels.count // 2)
    operands = [empty.astype(np.uint8), x_read, *fixed, scalars]
    operands += [per_column(factor, panels), residual]
    (y,) = run_kernel(kernel, operands, numbers=[m], tasks=tasks, pieces=2, target=target)
    np.testing.assert_array_equal(y, requantized(sums, factor, residual))


@pytest.mark.parametrize("shape", [(1, 4, 1), (31, 36, 70), (47, 7, 33)])
def test_products(shape: tuple[int, int, int]) -> None:
    check_gemm(*shape)


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_products_do_not_saturate(isa: str) -> None:
    check_gemm(17, 21, 37, isa=isa, extreme=True)


def integer_picture(
    array: np.ndarray, layout: ImageLayout, around: int, between: int = 77
) -> np.ndarray:
    """(N, C, H, W) of bytes as a picture."""
    border, (batch, _, height, width) = layout.border, array.shape
    shape = (batch, height + 2 * border, width + 2 * border, layout.pitch)
    picture = np.full(shape, np.array(around).astype(array.dtype), array.dtype)
    picture[..., layout.channels :] = between
    inside = picture[:, border : border + height, border : border + width, : layout.channels]
    inside[...] = array.transpose(0, 2, 3, 1)
    return picture


def check_conv(
    shape: tuple[int, int, int, int],
    filters: int,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    borders: tuple[int, int] = (0, 0),
    thin: bool = False,
    zero: int = 13,
    signed: bool = False,
    isa: str = "",
    pieces: int = 1,
) -> None:
    target: Target = target_for(isa) if isa else host_target()
    batch, channels, height, width = shape
    window = resolve_window(
        (height, width), kernel, strides=strides, dilations=dilations, pads=pads
    )
    rows, columns = window.output_sizes((height, width))
    dtype = DType.INT8 if signed else DType.UINT8
    held = quads(channels) if thin else target.whole_vectors(channels)
    x_layout = ImageLayout(height, width, channels, held, held, borders[0], dtype)
    held = target.whole_vectors(filters)
    y_layout = ImageLayout(rows, columns, filters, held, held, borders[1], DType.UINT8)
    spec = IntegerConv(
        x_layout,
        y_layout,
        kernel,
        strides,
        dilations,
        (window.begins[0], window.begins[1]),
        ConvSchedule(3, 1),
        1,
        REQUANTIZE,
        (None, y_layout),
        operands=("column", "picture", "scalar"),
        signed=signed,
    )
    panels = spec.panels(target)
    x = integers(1, dtype.numpy.type, *shape)
    w = integers(2, np.int8, filters, channels, *kernel)
    residual = integers(3, np.uint8, batch, filters, rows, columns)
    factor = np.random.default_rng(4).random(filters, np.float32) / (60 * w[0].size)
    sums = convolve(np, x.astype(np.float64) - zero, w.astype(np.float64), window, 1)
    matrix = np.pad(w, ((0, 0), (0, quads(channels) - channels), (0, 0), (0, 0)))
    matrix = matrix.transpose(2, 3, 1, 0).reshape(-1, filters)
    begin = -(zero + spec.lift(target)) * w.astype(np.int32).sum(axis=(1, 2, 3))
    operands = [
        np.full((batch, rows + 2 * borders[1], columns + 2 * borders[1], held), 99, np.uint8),
        integer_picture(x, x_layout, zero),
        pack_integer_panels(np.pad(matrix, ((0, 0), (0, held - filters))), panels, target),
        per_column(begin.astype(np.int32), panels),
        per_column(factor, panels),
        integer_picture(residual, y_layout, 0),
        np.array([0.5], np.float32),
    ]
    tasks = spec.tasks(batch, target)
    (y,) = run_kernel(
        spec, operands, numbers=[batch, 200], tasks=int(tasks), pieces=pieces, target=target
    )
    border = borders[1]
    inside = y[:, border : border + rows, border : border + columns, :filters]
    want = requantized(sums.transpose(0, 2, 3, 1), factor, residual.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(inside, want)
    around = y.copy()
    around[:, border : border + rows, border : border + columns] = 200
    assert (around == 200).all()


def test_pointwise_convolution() -> None:
    check_conv((2, 20, 7, 9), 40, (1, 1), pieces=4)


def test_window_with_border() -> None:
    check_conv((2, 19, 9, 15), 35, (3, 3), pads=(1, 1, 1, 1), borders=(1, 2), pieces=3)


def test_thin_input_with_strides() -> None:
    check_conv((1, 3, 20, 23), 17, (7, 7), strides=(2, 2), pads=(3,) * 4, borders=(3, 0), thin=True)


def test_dilated_and_signed() -> None:
    options = {"dilations": (2, 1), "pads": (2, 1, 1, 0), "borders": (2, 0)}
    check_conv((1, 8, 11, 8), 16, (3, 2), zero=-5, signed=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_convolution_on_every_processor(isa: str) -> None:
    check_conv((1, 6, 6, 7), 21, (3, 3), pads=(1, 1, 1, 1), borders=(1, 1), isa=isa)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa not in HOST_ISAS])
def test_code_is_valid_for(isa: str) -> None:
    target = target_for(isa)
    gemm = IntegerGemm(
        8, 40, 8, target.tile_rows, 1, REQUANTIZE, ("column", DType.UINT8, "scalar"), DType.UINT8
    )
    batched = IntegerBatched(
        REQUANTIZE, ("scalar", Broadcast(DType.UINT8, True), "scalar"), DType.UINT8
    )
    for kernel in (gemm, batched, PackLeft(True), PackRight(False), PackRight(True, True)):
        assert compile_kernel(kernel, "kernel", target)


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("signed", [False, True])
def test_both_ways_to_pack_columns_agree(isa: str, signed: bool) -> None:
    target = target_for(isa)
    count, k, n = 2, 4 * target.lanes + 7, target.tile_columns + 5
    matrices = integers(5, np.int8 if signed else np.uint8, count, k, n)
    panels, quads = -(-n // target.tile_columns), -(-k // QUAD)
    packed = np.zeros(count * panels * quads * right_quad_bytes(target), np.uint8)
    sums = np.zeros((count, panels * target.tile_columns), np.int32)
    found = []
    for turned in (False, True):
        lies = np.ascontiguousarray(matrices.transpose(0, 2, 1)) if turned else matrices
        numbers = [k, n, 1, k * n, 0, k if turned else n, 0]
        found.append(
            run_kernel(
                PackRight(signed, turned),
                [packed, sums, lies],
                numbers=numbers,
                tasks=count * panels,
                writes=2,
                target=target,
            )
        )
    for rows, columns in zip(*found, strict=True):
        np.testing.assert_array_equal(rows, columns)
    centred = matrices.astype(np.int32) - (0 if signed else 128)
    np.testing.assert_array_equal(found[0][1][:, :n], centred.sum(axis=1))
