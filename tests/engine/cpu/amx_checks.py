"""Runs code that uses tiles, in a process of its own: where tiles are emulated, a handler stays.

python -m tests.engine.cpu.amx_checks gemm        # one of `CHECKS`, or several
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels, to_bfloat16
from engine.dtypes import DType
from tests.engine.cpu.amx_emulation import counted, is_configured, tile_target
from tests.engine.cpu.harness import run_kernel

RESIDUAL = "x0:float32; x1:float32; add #0 #1; x2:float32; mul #2 #3; 0.0:float32; max #4 #5"
COSTLY = "x0:float32; erf #0; mul #0 #1"
HEIGHTS = (1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16."""
    return (to_bfloat16(array).astype(np.uint32) << np.uint32(16)).view(np.float32)


@contextmanager
def used(**expected: int) -> Iterator[None]:
    """Fail unless so many instructions run, and unless tiles are left as they were found."""
    before = counted()
    yield
    after = counted()
    assert not is_configured(), "a kernel left tiles in use"
    if before is None or after is None:  # a processor that has them does not count
        return
    done = {kind: after[kind] - before[kind] for kind in after}
    assert done["multiply"], "no tile was multiplied"
    for kind, number in expected.items():
        assert done[kind] == number, f"{kind}: {done[kind]} instead of {number}"


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
            y = product(kernel, x[:rows], w, pieces=2)
            assert y.tobytes() == whole[:rows].tobytes(), f"{rows} rows"
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


CHECKS: dict[str, Callable[[], None]] = {
    "gemm": check_gemm,
    "gemm_operands": check_gemm_operands,
    "gemm_counts": check_gemm_counts,
}


def main(names: Sequence[str]) -> None:
    for name in names or CHECKS:
        CHECKS[name]()
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
