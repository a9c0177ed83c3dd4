"""How products and convolutions are cut into tasks: pure functions of shapes and processor.

What they aim at: what a task reads again and again stays in half of the second-level cache; weights
that do not fit are read as seldom as can be; tasks are long against what it costs to hand one out,
and still many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule
from engine.cpu.kernels.gemm import GemmSchedule
from engine.cpu.kernels.panels import Panels
from engine.cpu.target import Target

TASKS: Final = 32  # of one picture, if the work is enough
TASK_FLOPS: Final = 1 << 21  # about ten microseconds
FEW_TASKS: Final = 8  # of one picture, even if they are short
SHORT_TASK_FLOPS: Final = 1 << 18
WEIGHTS_PER_TASK: Final = 64 << 10  # bytes, where there are few rows and reading them is all
LEAST_BLOCK: Final = 4  # tiles that weights from outside of the cache are used for, at the least
MOST_SHARES: Final = 16  # tiles of a picture up to which a panel is read in too little time
LONG_SUM: Final = 1536  # terms above which a block of many rows leaves the cache


def gemm_schedule(k: int, n: int, target: Target) -> GemmSchedule:
    """Return the schedule of a product with K x N weights and any number of rows."""
    rows, panels = target.tile_rows, Panels.of(n, target)
    k_blocks = _parts(k, target) if k >= LONG_SUM else 1
    fit = target.l2_bytes // 2 // (-(-k // k_blocks) * 4) // rows
    tiles = max(1, min(fit, 12))
    group = -(-WEIGHTS_PER_TASK // (k * panels.width * 4))
    if k_blocks > 1:  # a block of rows is read once per group
        group = max(group, 4)
    flops = 2 * tiles * rows * panels.width * k
    group = max(group, TASK_FLOPS // flops)
    return GemmSchedule(tiles * rows, max(1, min(group, panels.count)), k_blocks)


def _parts(k: int, target: Target) -> int:
    """Return in how many equal parts to do a long sum; 1 if none divide it."""
    wanted = -(-k * 4 * 9 * target.tile_rows // (target.l2_bytes // 2))
    return next((p for p in range(wanted, 2 * wanted + 1) if k % p == 0), 1)


def _tasks(flops: int) -> int:
    """Return into how many tasks to cut this much work."""
    return max(1, min(TASKS, flops // TASK_FLOPS), min(FEW_TASKS, flops // SHORT_TASK_FLOPS))


def schedule_conv(kernel: ImageConv, target: Target) -> ImageConv:
    """Return a convolution with its work cut for a target."""
    return replace(kernel, schedule=conv_schedule(kernel, target))


def conv_schedule(kernel: ImageConv, target: Target) -> ConvSchedule:
    """Choose blocks of tiles and groups of panels."""
    panels, tiles = kernel.panels(target), kernel.tiles(target)
    rows, columns = kernel.cuts(target)
    height = rows.sizes[0] * columns.sizes[0]
    size, terms = kernel.x.dtype.itemsize, kernel.sum.terms
    panel_bytes = terms * panels.width * size
    weights = panel_bytes * panels.count
    flops = 2 * height * panels.width * terms
    work = tiles * panels.count * kernel.groups
    wanted = _tasks(work * flops)
    read = height * kernel.strides[0] * kernel.strides[1] * kernel.x.pitch * size
    fit = max(1, target.l2_bytes // 2 // read)
    if weights * kernel.groups <= target.l2_bytes // 2:
        block = max(1, min(fit, -(-tiles // wanted)))
        group = panels.count if tiles >= wanted else -(-panels.count * tiles // wanted)
        return ConvSchedule(block, max(1, min(group, panels.count)))
    # The weights pass through the cache once per block of tiles, so blocks are large; but there
    # must be enough tasks.
    most = max(LEAST_BLOCK, -(-tiles * panels.count * kernel.groups // wanted))
    block = min(fit, tiles, most)
    blocks = -(-tiles // block)
    shares = -(-wanted // (blocks * kernel.groups))
    group = max(1, panels.count // shares)
    # Each tile of a picture asks for its share of the next panel.
    ahead = -(-panels.width * 4 // tiles) if tiles <= MOST_SHARES else 0
    return ConvSchedule(-(-tiles // blocks), group, ahead, weights_first=True)


def schedule_depthwise(kernel: DepthwiseConv, target: Target) -> DepthwiseConv:
    """Return a depthwise convolution with its work cut for a target."""
    rows = kernel.cuts(target)[0].parts
    vectors = kernel.y.held // target.lanes
    taps = kernel.kernel[0] * kernel.kernel[1]
    flops = 2 * taps * kernel.y.height * kernel.y.width * kernel.y.held
    wanted = _tasks(flops * 3)  # bound by loads as much as by sums
    block = max(1, rows // wanted)
    shares = min(vectors, -(-wanted * block // rows))
    return replace(kernel, schedule=DepthwiseSchedule(block, -(-vectors // shares)))
