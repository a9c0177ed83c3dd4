"""How integer products and convolutions are cut into tasks: pure functions of shapes and processor.

The aims are those of `engine.cpu.kernels.schedule`; a byte takes a quarter of the memory, and four
products the time of one.
"""

from __future__ import annotations

from typing import Final

from engine.cpu.kernels.conv import ConvSchedule
from engine.cpu.kernels.int8_conv import IntegerConv
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_products import packed_row_bytes
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.schedule import TILES_SPEED
from engine.cpu.target import Target

TASKS: Final = 32  # of one picture, if the work is enough
TASK_FLOPS: Final = 1 << 22  # about six microseconds
WEIGHTS_PER_TASK: Final = (
    16 << 10
)  # a quarter of float32's, as the products take a quarter of the time
ASKING_TILES: Final = 8  # tiles of a block of rows that ask for the next panel together
MOST_SHARES: Final = 16  # tiles of a picture that do


def integer_gemm_schedule(k: int, n: int, target: Target) -> tuple[int, int, int]:
    """Return the rows and the panels of one task of a product with K x N weights, and the bytes of
    the next panel to ask for per term.
    """
    kernel, panels = IntegerGemm(k, n, k, 1, 1), Panels.of(n, target)
    rows = kernel.height(target)
    task_flops = TASK_FLOPS * (TILES_SPEED if kernel.step(target) else 1)
    tiles = max(1, min(target.l2_bytes // 2 // k // rows, 12))
    panel_bytes = k * panels.width * packed_row_bytes(target)
    group = max(
        -(-WEIGHTS_PER_TASK // panel_bytes), task_flops // (2 * tiles * rows * panels.width * k)
    )
    width = panels.width * packed_row_bytes(target)
    ahead = -(-width // ASKING_TILES) if k * width * panels.count > target.l2_bytes // 2 else 0
    return tiles * rows, max(1, min(group, panels.count)), ahead


def integer_conv_schedule(kernel: IntegerConv, target: Target) -> ConvSchedule:
    """Choose blocks of tiles and groups of panels."""
    panels, tiles = kernel.panels(target), kernel.tiles(target)
    rows, columns = kernel.cuts(target)
    height = rows.sizes[0] * columns.sizes[0]
    terms = kernel.sum.terms
    weights = terms * panels.width * packed_row_bytes(target) * panels.count
    flops = 2 * height * panels.width * terms
    work = tiles * panels.count * kernel.groups
    task_flops = TASK_FLOPS * (TILES_SPEED if kernel.step(target) else 1)
    wanted = max(1, min(TASKS, work * flops // task_flops))
    read = height * kernel.strides[0] * kernel.strides[1] * kernel.x.pitch
    fit = max(1, target.l2_bytes // 2 // read)
    if weights * kernel.groups <= target.l2_bytes // 2:
        block = max(1, min(fit, -(-tiles // wanted)))
        group = panels.count if tiles >= wanted else -(-panels.count * tiles // wanted)
        return ConvSchedule(block, max(1, min(group, panels.count)))
    block = min(fit, tiles)
    shares = -(-wanted * block // (tiles * kernel.groups))
    width = panels.width * packed_row_bytes(target)
    ahead = -(-width // tiles) if tiles <= MOST_SHARES else 0
    return ConvSchedule(block, max(1, panels.count // shares), ahead, weights_first=True)
