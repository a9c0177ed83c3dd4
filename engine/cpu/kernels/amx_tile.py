"""The block of sums of products on tiles: up to 32 rows by 32 columns, 16 quads at a step.

It stands for the register tile of `engine.cpu.kernels.tile` (and of `int8_tile`) where a processor
has tiles: the same arguments, the same packed weights, the same epilogue. In one step two tiles of
the left side meet two of the weights: four loads, four products. Rows of the left side are read
where they lie, in at most two groups whose rows are equally far apart.

Within a block the products of bfloat16 are summed in another order than `vdpbf16ps` sums them (even
and odd terms of a step apart), so a kernel that uses tiles uses them for all of its rows, however
few: its specification alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Builder, Number, Value
from engine.cpu.kernels.amx import (
    BF16_PAIRS,
    FULL,
    GROUPS,
    QUAD_BYTES,
    ROW_BYTES,
    TILE_ROWS,
    configure,
    configure_last,
    left_tile,
    load_tile,
    multiply_tiles,
    right_tile,
    store_tile,
    sum_tile,
)
from engine.cpu.kernels.tile import Sum, Tile, finish_rows, tile_arguments
from engine.cpu.target import Target


@dataclass(frozen=True)
class RowGroup:
    """Rows of a block that lie equally far apart.

    Attributes:
        first: The first one.
        count: How many there are.
        place: Where the first one's terms begin, in elements.
        step: Elements from one to the next.
    """

    first: int
    count: int
    place: int
    step: int


def row_groups(places: Sequence[int]) -> tuple[RowGroup, ...]:
    """Cut rows that lie at these places into groups; `ValueError` where two are not enough."""
    found, first = [], 0
    while first < len(places):
        step = places[first + 1] - places[first] if first + 1 < len(places) else 0
        end = first + 1
        while end < min(len(places), first + TILE_ROWS) and places[end] - places[end - 1] == step:
            end += 1
        found.append(RowGroup(first, end - first, places[first], step))
        first = end
    if len(found) > GROUPS:
        raise ValueError(f"{len(places)} rows lie in {len(found)} groups; expected up to {GROUPS}")
    return tuple(found)


@dataclass(frozen=True)
class TilePlan:
    """What the blocks of a kernel have in common.

    Attributes:
        step: Quads of one step of the sum.
        standing: Rows of each group in the shapes that tiles have between two blocks.
    """

    step: int
    standing: tuple[int, ...] = (TILE_ROWS, TILE_ROWS)


@dataclass(frozen=True)
class Block:
    """What is summed.

    Attributes:
        groups: The rows.
        vectors: Vectors of columns: one or two.
        sum: What every element sums over, in elements.
        itemsize: Bytes of an element of the left side.
        instruction: What multiplies two tiles.
        parts: How many times the sum is done, over as many matrices of weights.
        ahead: Bytes of the next weights to ask for per quad of the sum.
    """

    groups: tuple[RowGroup, ...]
    vectors: int
    sum: Sum
    itemsize: int
    instruction: str
    parts: int = 1
    ahead: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each group."""
        return tuple(group.count for group in self.groups)


def begin_sums(f: Builder, block: Block, pointer: Value, step: Number) -> None:
    """Begin with numbers per column, each row's `step` bytes behind those of the one above."""
    for number, group in enumerate(block.groups):
        row = f.at_bytes(pointer, f.mul(step, group.first))
        for column in range(block.vectors):
            at = f.at_bytes(row, column * ROW_BYTES)
            load_tile(f, sum_tile(number, column), at, step)


def store_sums(f: Builder, block: Block, pointer: Value) -> None:
    """Write the sums, row by row."""
    line = block.vectors * ROW_BYTES
    for number, group in enumerate(block.groups):
        for column in range(block.vectors):
            at = f.at_bytes(pointer, group.first * line + column * ROW_BYTES)
            store_tile(f, sum_tile(number, column), at, line)


def add_products(f: Builder, block: Block, step: int) -> None:
    """Add all products, `step` quads at a time."""
    carry = [f.parameter("w"), f.parameter("next")]
    if block.parts == 1:
        _add_part(f, block, step, carry)
        return
    with f.loop(0, block.parts, carry=carry, unroll=False) as part:
        part.next = _add_part(f, block, step, part.values)


def _add_part(f: Builder, block: Block, step: int, carry: list[Value]) -> list[Value]:
    """Add the products with one matrix of weights; return where those behind it are."""
    whole, size, step_bytes = block.sum, block.itemsize, step * QUAD_BYTES
    steps = whole.run * size // step_bytes
    asked = block.ahead * step
    with f.loop(0, whole.rows, carry=carry) as row:
        x_row = f.at_bytes(f.parameter("x"), f.mul(row.i, whole.row_step * size))
        with f.loop(0, whole.columns, carry=row.values) as column:
            x_run = f.at_bytes(x_row, f.mul(column.i, whole.column_step * size))
            with f.loop(0, steps, carry=column.values, unroll=False) as k:
                w, ahead = k.values
                for line in range(0, asked, 64):
                    f.prefetch(f.at_bytes(ahead, line))
                _add_step(f, block, f.at_bytes(x_run, f.mul(k.i, step_bytes)), w)
                w = f.at_bytes(w, step * block.vectors * ROW_BYTES)
                k.next = [w, f.at_bytes(ahead, asked)]
            column.next = k.result
        row.next = column.result
    return row.result


def _add_step(f: Builder, block: Block, x: Value, w: Value) -> None:
    """Load tiles as late as the first product that needs them, and multiply."""
    for number, group in enumerate(block.groups):
        at = f.at_bytes(x, group.place * block.itemsize)
        load_tile(f, left_tile(number), at, group.step * block.itemsize)
        for column in range(block.vectors):
            if number == 0:
                panel_row = block.vectors * ROW_BYTES
                load_tile(f, right_tile(column), f.at_bytes(w, column * ROW_BYTES), panel_row)
            multiply_tiles(f, block.instruction, number, column)


# ---------------------------------------------------------------------- blocks of floats


def emit_amx_tile(
    module: ir.Module, name: str, target: Target, tile: Tile, plan: TilePlan
) -> ir.Function:
    """Write the function of a tile of bfloat16; its parameters are `tile_arguments`.

    Tiles have the plan's standing shapes before it and after it.
    """
    arguments = tile_arguments(len(tile.extras))
    f = Builder(module, name, arguments, target, inline=False, noalias=True)
    block = _block(tile)
    own = block.rows != plan.standing
    if own:
        configure(f, block.rows, plan.step)
    _emit_block(f, tile, block, plan, tile.height, restores=own)
    return f.ret()


def emit_amx_rest(
    module: ir.Module, name: str, target: Target, tiles: Sequence[Tile], plan: TilePlan
) -> ir.Function:
    """Write a function for any number of rows up to that of the last of these tiles.

    The tiles have one group of rows, two and so on; the function's first parameter is the number
    of rows, `tile_arguments` follow.
    """
    arguments = [("height", I64), *tile_arguments(len(tiles[0].extras))]
    parts = [
        _emit_part(module, f"{name}.{tile.height}", target, tile, plan, arguments) for tile in tiles
    ]
    f = Builder(module, name, arguments, target, inline=False)
    passed = [f.parameter(each) for each, _ in arguments]
    low, high = parts
    with f.if_else(f.less(TILE_ROWS, f.parameter("height"))) as (more, few):
        with more:
            f.call(high, *passed)
        with few:
            f.call(low, *passed)
    return f.ret()


def _emit_part(
    module: ir.Module,
    name: str,
    target: Target,
    tile: Tile,
    plan: TilePlan,
    arguments: list[tuple[str, ir.Type]],
) -> ir.Function:
    """Write a function of some of a tile's rows: all but those of its last group are there."""
    f = Builder(module, name, arguments, target, inline=False, noalias=True)
    block, height = _block(tile), f.parameter("height")
    configure_last(f, block.rows, plan.step, f.sub(height, block.groups[-1].first))
    _emit_block(f, tile, block, plan, height, restores=True)
    return f.ret()


def _block(tile: Tile) -> Block:
    size = tile.dtype.itemsize
    groups = row_groups(tile.x_rows)
    return Block(groups, tile.vectors, tile.sum, size, BF16_PAIRS, ahead=tile.ahead)


def _emit_block(
    f: Builder, tile: Tile, block: Block, plan: TilePlan, height: Number, *, restores: bool
) -> None:
    begin_sums(f, block, f.parameter("begin"), f.parameter("begin_step") if tile.blocked else 0)
    add_products(f, block, plan.step)
    if not tile.blocked:
        _finish(f, tile, block, height)
    else:
        with f.if_else(f.parameter("finish")) as (complete, partial):
            with complete:
                _finish(f, tile, block, height)
            with partial:
                store_sums(f, block, f.parameter("state"))
    if restores:
        configure(f, plan.standing, plan.step)


def _finish(f: Builder, tile: Tile, block: Block, height: Number) -> None:
    """Apply the epilogue to the sums, by way of the stack, and store."""
    memory = f.stack(tile.height * tile.vectors * ROW_BYTES)
    store_sums(f, block, memory)
    finish_rows(f, tile, memory, height)


def block_rows(most: int) -> int:
    """Return the rows of whole blocks, as many as `most` rows have room for, at the least one."""
    return max(1, most // FULL) * FULL
