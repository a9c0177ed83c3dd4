"""Products with fixed weights, against numpy and the reference device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.device import CpuDevice
from engine.cpu.kernels.batched import BatchedProduct
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels, to_bfloat16
from engine.cpu.kernels.row_cuts import tile_heights
from engine.cpu.kernels.schedule import ROWS_SHARE, gemm_schedule
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.device import CompileOptions
from engine.dtypes import DType
from tests.engine.cpu.harness import HOST_ISAS, run_kernel
from tests.engine.onnx_models import model

RESIDUAL = "x0:float32; x1:float32; add #0 #1; x2:float32; mul #2 #3; 0.0:float32; max #4 #5"
FULL = host_target().tile_rows


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def product(
    rows: int, k: int, n: int, schedule: GemmSchedule, *, isa: str = "", pieces: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and numpy's, with a residual and a factor per column."""
    target = target_for(isa) if isa else host_target()
    panels = Panels.of(n, target)
    x, w, bias, factor = numbers(1, rows, k), numbers(2, k, n), numbers(3, n), numbers(4, n)
    residual = numbers(5, rows, n)
    kernel = Gemm(k, n, k, n, schedule, RESIDUAL, (n, None))
    tasks = -(-rows // schedule.block_rows) * -(-panels.count // schedule.group)
    operands = [
        np.full((rows, n), 7, np.float32),
        x,
        pack_panels(w, panels),
        pack_columns(bias, panels),
        residual,
        pack_columns(factor, panels),
    ]
    (y,) = run_kernel(kernel, operands, numbers=[rows], tasks=tasks, pieces=pieces, target=target)
    expected = np.maximum((x.astype(np.float64) @ w + bias + residual) * factor, 0)
    return y, expected.astype(np.float32)


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_every_tail_of_rows_and_columns(isa: str) -> None:
    target = target_for(isa)
    full, width = target.tile_rows, target.tile_columns
    for n in (width - 1, 2 * width + target.lanes + 1):
        for rows in (1, full - 1, 3 * full + 3):
            y, expected = product(rows, 5, n, GemmSchedule(2 * full, 2), isa=isa)
            np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)


def test_blocks_of_rows_are_whole_tiles() -> None:
    with pytest.raises(ValueError, match=f"{FULL + 1} rows; expected whole tiles of {FULL}"):
        compile_kernel(Gemm(8, 9, 8, 9, GemmSchedule(FULL + 1, 1)), "kernel", host_target())


@pytest.mark.parametrize("k", [1, 4, 7])
def test_every_length_of_the_sum(k: int) -> None:
    y, expected = product(29, k, 40, GemmSchedule(FULL, 1))
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize(("k", "parts"), [(12, 3), (10, 3)])
def test_a_sum_in_parts(k: int, parts: int) -> None:
    y, expected = product(45, k, 90, GemmSchedule(2 * FULL, 2, parts))
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)


def test_bits_do_not_depend_on_the_split_of_tasks_or_the_number_of_rows() -> None:
    schedule = GemmSchedule(FULL, 1, 2, 16)
    one, _ = product(45, 64, 70, schedule)
    many, _ = product(45, 64, 70, schedule, pieces=7)
    other, _ = product(45, 64, 70, GemmSchedule(3 * FULL, 3, 2), pieces=2)
    assert one.tobytes() == many.tobytes() == other.tobytes()


@pytest.mark.parametrize("parts", [1, 2])
def test_bits_do_not_depend_on_what_is_asked_for_ahead(parts: int) -> None:
    for rows in (1, 2, 45):
        plain, expected = product(rows, 64, 70, GemmSchedule(3 * FULL, 2, parts))
        once = GemmSchedule(3 * FULL, 2, parts, 128, ahead_once=True)
        ahead, _ = product(rows, 64, 70, once, pieces=2)
        assert plain.tobytes() == ahead.tobytes()
        np.testing.assert_allclose(plain, expected, rtol=2e-5, atol=2e-5)


def test_heights_reach_every_number_of_rows() -> None:
    for isa in ISAS:
        heights = tile_heights(target_for(isa))
        assert heights[-1] == 1
        assert sum(heights[1:]) >= heights[0] - 1


def test_blocks_of_rows_are_alike() -> None:
    """Every row is written by one block, whatever is left over behind whole ones."""
    full = host_target().tile_rows
    schedule = GemmSchedule(3 * full, 2)
    for rows in (0, 3 * full, 3 * full + 1, 4 * full, 6 * full + 3, 7 * full - 1, 10 * full + 2):
        y, expected = product(rows, 5, 33, schedule, pieces=3)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_instruction_set(isa: str) -> None:
    target = target_for(isa)
    kernel = Gemm(8, 50, 8, 50, GemmSchedule(2 * target.tile_rows, 1, 2), RESIDUAL, (50, None))
    assert compile_kernel(kernel, "kernel", target)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (3072, 768), (768, 3072), (2048, 1000), (1999, 64)])
def test_schedules_fit_the_cache(k: int, n: int) -> None:
    target = host_target()
    plan = gemm_schedule(k, n, target)
    assert plan.block_rows % target.tile_rows == 0 and plan.block_rows > 0
    assert 1 <= plan.group <= Panels.of(n, target).count
    rows_bytes = plan.block_rows * -(-k // plan.k_blocks) * 4
    assert rows_bytes <= target.l2_bytes * ROWS_SHARE or plan.block_rows == target.tile_rows


def test_bfloat16_rounds_to_even_and_keeps_nan() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F800001, 0xFF800000], np.uint32)
    rounded = to_bfloat16(bits.view(np.float32))
    assert rounded.tolist()[:3] == [0x3F80, 0x3F82, 0x3F81]
    assert (int(rounded[3]) & 0x7F80) == 0x7F80 and int(rounded[3]) & 0x7F
    assert int(rounded[4]) == 0xFF80


# ---------------------------------------------------------------------- through a model


def both(source: bytes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A model's first output on device cpu and by the reference."""
    (y,) = engine.load(source, device="cpu").run({"x": x}).values()
    (expected,) = engine.load(source, device="reference").run({"x": x}).values()
    return y, expected


@pytest.mark.parametrize("shape", [(2, 5, 40), (0, 3, 40), (1, 1, 40), (3, 9, 40)])
def test_matmul_of_any_leading_dims(shape: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    weights = {"w": numbers(0, 40, 40), "b": numbers(1, 40)}
    source = model(nodes, [("x", ("N", "L", 40))], [("y", ("N", "L", 40))], weights)
    y, expected = both(source, numbers(2, *shape))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("c", "trans"), [(None, 0), ((), 1), ((10,), 1), ((1, 10), 0)])
def test_gemm(c: tuple[int, ...] | None, trans: int) -> None:
    weights = {"w": numbers(0, *((10, 33) if trans else (33, 10)))}
    if c is not None:
        weights["c"] = numbers(1, *c)
    names = ["x", "w", *(["c"] if c is not None else [])]
    node = helper.make_node("Gemm", names, ["y"], transB=trans, alpha=0.5, beta=2.0)
    source = model([node], [("x", ("N", 33))], [("y", ("N", 10))], weights)
    y, expected = both(source, numbers(2, 17, 33))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_long_epilogue_runs_in_a_loop() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    source = model(nodes, [("x", ("N", 20))], [("y", ("N", 50))], {"w": numbers(0, 20, 50)})
    for rows in (1, 14, 31):
        y, expected = both(source, numbers(rows, rows, 20))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "symbols"),
    [
        ((3, 5, 40), (3, 40, 70), ("B", "M", "K")),
        ((2, 1, 17, 8), (1, 3, 8, 33), (2, 1, "M", 8)),
        ((2, 3, 29, 7), (3, 7, 1), ("B", 3, "M", "K")),
        ((2, 3, 5, 7), (7, 64), ("B", 3, "M", 7)),
        ((0, 5, 7), (0, 7, 9), ("B", 5, 7)),
        ((4, 5, 0), (4, 0, 9), ("B", 5, "K")),
        ((7,), (4, 7, 9), (7,)),
        ((4, 5, 7), (7,), (4, "M", 7)),
    ],
)
def test_both_sides_computed(
    left: tuple[int, ...], right: tuple[int, ...], symbols: tuple[int | str, ...]
) -> None:
    again = ("B" if symbols[0] == "B" and len(right) == len(left) else right[0], *right[1:])
    nodes = [
        helper.make_node("MatMul", ["x", "z"], ["a"]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    inputs = [("x", symbols), ("z", again)]
    source = model(nodes, inputs, [("y", None)], {"half": np.array(0.5, np.float32)})
    feeds = {"x": numbers(0, *left), "z": numbers(1, *right)}
    (y,) = engine.load(source, device="cpu").run(feeds).values()
    (expected,) = engine.load(source, device="reference").run(feeds).values()
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    coverage = CpuDevice().coverage(engine.load(source).graph, CompileOptions())
    assert [c.reason for c in coverage] == [None] * len(coverage)


def test_a_residual_after_a_product_of_computed_matrices() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "z"], ["a"]),
        helper.make_node("Add", ["a", "r"], ["b"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    inputs = [("x", ("B", 20, 6)), ("z", ("B", 6, 50)), ("r", ("B", 20, 50))]
    source = model(nodes, inputs, [("y", ("B", 20, 50))], {"c": numbers(9, 50)})
    feeds = {"x": numbers(0, 2, 20, 6), "z": numbers(1, 2, 6, 50), "r": numbers(2, 2, 20, 50)}
    (y,) = engine.load(source, device="cpu").run(feeds).values()
    expected = feeds["x"] @ feeds["z"] + feeds["r"] + numbers(9, 50)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_products_of_computed_matrices_for_every_instruction_set(isa: str) -> None:
    assert compile_kernel(BatchedProduct(RESIDUAL, (True, False)), "kernel", target_for(isa))


def rounded(array: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16."""
    return (to_bfloat16(array).astype(np.uint32) << np.uint32(16)).view(np.float32)


needs_bfloat16 = pytest.mark.skipif(
    not host_target().has_bf16_dot, reason="this processor has no dot products of bfloat16"
)


@needs_bfloat16
@pytest.mark.parametrize(("k", "parts"), [(1, 1), (33, 1), (96, 4)])
def test_bfloat16(k: int, parts: int) -> None:
    target = host_target()
    for rows, n in ((1, 70), (45, 70)):
        panels, schedule = Panels.of(n, target), GemmSchedule(1, 2, parts, 16)
        x, w, bias = numbers(1, rows, k), numbers(2, k, n), numbers(3, n)
        kernel = Gemm(k, n, k, n, schedule, dtype=DType.BFLOAT16)
        schedule = replace(schedule, block_rows=2 * kernel.height(target))
        kernel = replace(kernel, schedule=schedule)
        operands = [
            np.full((rows, n), 7, np.float32),
            x,
            pack_panels(w, panels, DType.BFLOAT16),
            pack_columns(bias, panels),
        ]
        tasks = -(-rows // schedule.block_rows) * -(-panels.count // schedule.group)
        (y,) = run_kernel(kernel, operands, numbers=[rows], tasks=tasks, pieces=2)
        expected = rounded(x).astype(np.float64) @ rounded(w) + bias
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@needs_bfloat16
def test_a_model_in_bfloat16() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    w, x = numbers(0, 50, 64), numbers(1, 20, 50)
    source = model(nodes, [("x", ("N", 50))], [("y", ("N", 64))], {"w": w})
    (y,) = engine.load(source, device="cpu", precision="bf16").run({"x": x}).values()
    expected = np.maximum(rounded(x).astype(np.float64) @ rounded(w), 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("n", [64, 170])
def test_a_row_alone_has_the_bits_that_it_has_among_others(n: int, parts: int) -> None:
    schedule = GemmSchedule(FULL, 3, parts)
    alone, expected = product(1, 20, n, schedule)
    among, _ = product(16, 20, n, schedule)
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-5)
    assert alone[0].tobytes() == among[0].tobytes()
