"""How products and convolutions are cut into tasks: pure functions of shapes and processor.

What they aim at: what a task reads again and again stays in about half of the second-level cache;
weights that do not fit are read as seldom as can be; tasks are long against what it costs to hand
one out, and still many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from engine.cpu.kernels.amx import TILE_ROWS
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.winograd import Winograd, WinogradSchedule
from engine.cpu.target import Target
from engine.dtypes import DType

TASKS: Final = 32  # of one picture, if the work is enough
TASK_FLOPS: Final = 1 << 21  # about ten microseconds
TILES_SPEED: Final = 8  # times as many products in the same time where tiles (AMX) multiply them
FEW_TASKS: Final = 8  # of one picture, even if they are short
SHORT_TASK_FLOPS: Final = 1 << 18
WEIGHTS_PER_TASK: Final = 64 << 10  # bytes, where there are few rows and reading them is all
LEAST_BLOCK: Final = 4  # tiles that weights from outside of the cache are used for, at the least
MOST_SHARES: Final = 16  # tiles of a picture up to which a panel is read in too little time
LEAST_WINOGRAD_TILES: Final = 32  # of one picture
# Of the second-level cache, for a block of rows: a little more than half, so that 128 rows of 1024
# numbers are one block where it has a megabyte, and their weights are read once.
ROWS_SHARE: Final = 9 / 16
LONG_SUM: Final = 1536  # terms above which a block of many rows leaves the cache


def gemm_schedule(
    k: int, n: int, target: Target, dtype: DType = DType.FLOAT32, *, rounds: bool = False
) -> GemmSchedule:
    """Return the schedule of a product with K x N weights and any number of rows.

    `rounds`: whether the left side is rounded on the way.
    """
    panels, size = Panels.of(n, target), dtype.itemsize
    k_blocks = _parts(k, target, size) if k >= LONG_SUM else 1
    kernel = Gemm(k, n, k, n, GemmSchedule(1, 1, k_blocks), dtype=dtype)
    rows, task_flops = kernel.height(target), TASK_FLOPS
    if kernel.step(target):
        task_flops *= TILES_SPEED
    fit = int(target.l2_bytes * ROWS_SHARE) // (-(-k // k_blocks) * size) // rows
    tiles = max(1, min(fit, 12))
    group = -(-WEIGHTS_PER_TASK // (k * panels.width * size))
    # A block of rows is read, or rounded, once per group; a lone row takes panels in pairs.
    group = max(group, 4 if k_blocks > 1 or rounds else 2)
    flops = 2 * tiles * rows * panels.width * k
    group = max(group, task_flops // flops)
    group = max(1, min(group, panels.count))
    if dtype is DType.FLOAT32:
        # A net's weights together leave the cache from run to run, however small each matrix is.
        return GemmSchedule(tiles * rows, group, k_blocks, panels.width * size, ahead_once=True)
    ahead = 0
    if k * panels.padded * size > target.l2_bytes // 2:  # eight tiles ask for the next panel
        ahead = -(-panels.width * 4 // 8)
    return GemmSchedule(tiles * rows, group, k_blocks, ahead)


def _parts(k: int, target: Target, size: int) -> int:
    """Return in how many equal parts of whole pairs to do a long sum; 1 if none divide it.

    Where pairs are multiplied on tiles, parts of whole tiles are preferred.
    """
    wanted = -(-k * size * 9 * target.tile_rows // (target.l2_bytes // 2))
    choices = range(wanted, 2 * wanted + 1)
    tiles = 2 * TILE_ROWS if target.has_amx and size == DType.BFLOAT16.itemsize else 2
    return next((p for least in (tiles, 2) for p in choices if k % (least * p) == 0), 1)


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
    wanted = _tasks(work * flops // (TILES_SPEED if kernel.step(target) else 1))
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


def winograd_of(kernel: ImageConv, target: Target, *, half: bool = False) -> Winograd | None:
    """Return the same convolution after Winograd, scheduled, where that is faster; else None.

    `half`: whether numbers may be rounded to bfloat16 before they are multiplied.
    """
    x, y = kernel.x, kernel.y
    plain = kernel.groups == 1 and kernel.pixels is None and (half or x.dtype is DType.FLOAT32)
    window = kernel.kernel, kernel.strides, kernel.dilations, kernel.begins
    if not plain or window != ((3, 3), (1, 1), (1, 1), (1, 1)):
        return None
    if half and replace(kernel, x=replace(x, dtype=DType.BFLOAT16)).step(target):
        return None  # tiles multiply many times faster than the pairs that Winograd saves
    if (x.height, x.width) != (y.height, y.width) or x.held % target.lanes:
        return None
    if min(x.channels, y.channels) < 2 * target.lanes:  # the transforms would outweigh the products
        return None
    first = Winograd(x, y, 4, WinogradSchedule(1, 1, 1), kernel.epilogue, kernel.extras)
    choices = [replace(first, m=m) for m in (4, 2)]
    best = min(choices, key=lambda k: k.tiles * k.places)
    # What the weights cost to read, larger than they are, must be shared by enough tiles.
    least = LEAST_WINOGRAD_TILES
    best = next((k for k in (best, choices[1]) if k.tiles >= least), best)
    if half:  # half the bytes of weights, and hardly more products in the same time than m = 4 has
        best, least = replace(first, m=2, dtype=DType.BFLOAT16), target.tile_rows
    if best.tiles < least or best.tiles * best.places > 6 * y.height * y.width:
        return None
    return replace(best, schedule=winograd_schedule(best, target))


def winograd_schedule(kernel: Winograd, target: Target) -> WinogradSchedule:
    """Cut pixels where the weights stay in cache, else filters."""
    panels = Panels.of(kernel.y.held, target)
    size = kernel.dtype.itemsize
    weights = kernel.places * kernel.terms * kernel.y.held * size
    group, blocks = panels.count, 1
    if weights > target.l2_bytes:
        group = -(-panels.count // min(panels.count, FEW_TASKS // 2))
    columns = min(group * panels.width, kernel.y.held)
    tile_bytes = kernel.places * (kernel.x_pitch(target) * size + columns * 4)
    blocks = -(-kernel.tiles * tile_bytes // (2 * target.l2_bytes))
    if weights <= target.l2_bytes:
        blocks = max(blocks, FEW_TASKS // 2)

    def waste(cut: tuple[int, int]) -> tuple[float, int]:
        parts, rows = cut
        block = -(-kernel.tiles // parts)
        return round(-(-block // rows) * rows * parts / kernel.tiles, 2), -rows

    heights = range(target.tile_rows, target.tile_rows * 2 // 3, -1)
    parts, rows = min(((p, r) for p in range(blocks, 2 * blocks + 1) for r in heights), key=waste)
    block = -(-kernel.tiles // parts)
    sweeps = -(-block // rows)
    ahead = -(-panels.width * 4 // sweeps) if weights > target.l2_bytes // 2 else 0
    return WinogradSchedule(block, rows, group, ahead)
