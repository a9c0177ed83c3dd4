"""Quantizing rows, and the products behind it, on every processor against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_products import QUAD, pack_integer_panels
from engine.cpu.kernels.int8_rows import QuantizeRows
from engine.cpu.kernels.panels import Panels
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import HOST_ISAS, run_kernel
from tests.engine.ops.test_row_quantization import quantize

# float(sum) * number of the row * number of the column
SCALE = "x0:int32; float32 #0; x1:float32; mul #1 #2; x2:float32; mul #3 #4"


def check_rows(rows: int, width: int, isa: str = "") -> None:
    x = np.random.default_rng(width).standard_normal((rows, width), np.float32)
    if rows > 3:
        x[0], x[1, width // 2], x[2, -1] = 0, np.nan, -np.inf
    want = quantize(x)
    height = 2
    found = run_kernel(
        QuantizeRows(width),
        [np.full((rows, width), 7, np.uint8), np.full((rows, 1), 7, np.float32), x],
        numbers=[rows, height],
        tasks=-(-rows // height),
        writes=2,
        pieces=2,
        target=target_for(isa) if isa else host_target(),
    )
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("width", [1, 3, 16, 17, 33, 64, 129, 1024])
def test_rows_of_any_width(width: int) -> None:
    for rows in (1, 5):
        check_rows(rows, width)


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_rows_on_every_processor(isa: str) -> None:
    check_rows(4, 37, isa)


def test_code_is_valid_without_this_processor() -> None:
    for isa in ISAS:
        if isa not in HOST_ISAS:
            assert compile_kernel(QuantizeRows(37), "kernel", target_for(isa))


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("m", [1, 2, 3, 17])
def test_products_with_a_number_per_row(m: int, isa: str) -> None:
    target, k, n = target_for(isa), 72, 70
    rng, panels = np.random.default_rng(m), Panels.of(n, target)
    x = rng.integers(0, 256, (m, k), np.uint8)
    w = rng.integers(-128, 128, (k, n), np.int8)
    begin, column = rng.integers(-9999, 9999, n, np.int32), rng.random(n, np.float32)
    row = rng.random((m, 1), np.float32)
    sums = (x.astype(np.int32) @ w.astype(np.int32) + begin).astype(np.float32)
    kernel = IntegerGemm(
        k, n, k, target.tile_rows, 2, SCALE, ("row", "column"), y_dtype=DType.FLOAT32
    )
    operands = [
        np.zeros((m, n), np.float32),
        np.pad(x.reshape(-1), (0, QUAD - 1)),
        pack_integer_panels(w, panels, target),
        np.pad(begin, (0, panels.padded - n)),
        np.zeros(1, np.float32),
        row,
        np.pad(column, (0, panels.padded - n)),
    ]
    tasks = -(-m // kernel.block_rows) * -(-panels.count // 2)
    (y,) = run_kernel(kernel, operands, numbers=[m], tasks=tasks, pieces=2, target=target)
    np.testing.assert_array_equal(y, sums * row * column)
