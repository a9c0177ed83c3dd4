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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Builder, Number, Value
from engine.cpu.kernels.amx import (
    BF16_PAIRS,
    GROUPS,
    QUAD_BYTES,
    ROW_BYTES,
    SIGNED_BYTES,
    TILE_ROWS,
    UNSIGNED_BYTES,
    configure,
    configure_last,
    left_tile,
    load_tile,
    multiply_tiles,
    right_tile,
    store_tile,
    sum_tile,
)
from engine.cpu.kernels.int8_tile import IntegerTile, finish_integer_rows
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


# ---------------------------------------------------------------------- functions of blocks


@dataclass(frozen=True)
class Work:
    """A block with what its function takes, and what becomes of its sums.

    Attributes:
        block: What is summed.
        arguments: The parameters of its function: x, w, begin, next and others.
        finish: Writes what follows the sums; it gets the number of rows.
        has_begin_step: Whether rows begin at numbers of their own, parameter `begin_step` apart.
    """

    block: Block
    arguments: Sequence[tuple[str, ir.Type]]
    finish: Callable[[Builder, Number], None]
    has_begin_step: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return sum(self.block.rows)


def emit_block(
    module: ir.Module, name: str, target: Target, work: Work, plan: TilePlan
) -> ir.Function:
    """Write the function of a block; tiles have the plan's standing shapes before and after it."""
    f = Builder(module, name, work.arguments, target, inline=False, noalias=True)
    own = work.block.rows != plan.standing
    if own:
        configure(f, work.block.rows, plan.step)
    _emit_work(f, work, plan, work.height)
    if own:
        configure(f, plan.standing, plan.step)
    return f.ret()


def emit_rest(
    module: ir.Module, name: str, target: Target, works: tuple[Work, Work], plan: TilePlan
) -> ir.Function:
    """Write a function for any number of rows up to those of the second block.

    The first block has one full group of rows, the second one two. The number of rows is the
    function's first parameter, those of the blocks follow.
    """
    few, more = (_emit_part(module, f"{name}.{work.height}", target, work, plan) for work in works)
    arguments = [("height", I64), *works[0].arguments]
    f = Builder(module, name, arguments, target, inline=False)
    passed = [f.parameter(each) for each, _ in arguments]
    with f.if_else(f.less(TILE_ROWS, f.parameter("height"))) as (two_groups, one_group):
        with two_groups:
            f.call(more, *passed)
        with one_group:
            f.call(few, *passed)
    return f.ret()


def _emit_part(
    module: ir.Module, name: str, target: Target, work: Work, plan: TilePlan
) -> ir.Function:
    """Write the function of a block of which rows of the last group are missing."""
    arguments = [("height", I64), *work.arguments]
    f = Builder(module, name, arguments, target, inline=False, noalias=True)
    height, groups = f.parameter("height"), work.block.groups
    configure_last(f, work.block.rows, plan.step, f.sub(height, groups[-1].first))
    _emit_work(f, work, plan, height)
    configure(f, plan.standing, plan.step)
    return f.ret()


def _emit_work(f: Builder, work: Work, plan: TilePlan, height: Number) -> None:
    step = f.parameter("begin_step") if work.has_begin_step else 0
    begin_sums(f, work.block, f.parameter("begin"), step)
    add_products(f, work.block, plan.step)
    work.finish(f, height)


# ---------------------------------------------------------------------- bfloat16 and bytes


def half_work(tile: Tile) -> Work:
    """Return a tile of bfloat16 as work on tiles; its function takes `tile_arguments`."""
    groups, size = row_groups(tile.x_rows), tile.dtype.itemsize
    block = Block(groups, tile.vectors, tile.sum, size, BF16_PAIRS, ahead=tile.ahead)

    def complete(f: Builder, height: Number) -> None:
        finish_rows(f, tile, _on_stack(f, block), height)

    def finish(f: Builder, height: Number) -> None:
        if not tile.blocked:
            complete(f, height)
            return
        with f.if_else(f.parameter("finish")) as (is_complete, is_partial):
            with is_complete:
                complete(f, height)
            with is_partial:
                store_sums(f, block, f.parameter("state"))

    return Work(block, tile_arguments(len(tile.extras)), finish, tile.blocked)


def integer_work(tile: IntegerTile) -> Work:
    """Return a tile of bytes as work on tiles; its function takes `tile.pointers`.

    A signed left side is taken as it is, not 128 higher.
    """
    block = Block(
        row_groups(tile.x_rows),
        tile.vectors,
        tile.sum,
        itemsize=1,
        instruction=SIGNED_BYTES if tile.signed else UNSIGNED_BYTES,
        parts=tile.parts,
        ahead=tile.ahead * QUAD_BYTES,
    )

    def finish(f: Builder, height: Number) -> None:
        finish_integer_rows(f, tile, _on_stack(f, block), height)

    return Work(block, tile.pointers, finish)


def _on_stack(f: Builder, block: Block) -> Value:
    """Return a copy of the sums in memory."""
    memory = f.stack(sum(block.rows) * block.vectors * ROW_BYTES)
    store_sums(f, block, memory)
    return memory
