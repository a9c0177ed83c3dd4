"""Any number of rows cut into register tiles of a few heights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import llvmlite.ir as ir

from engine.cpu.builder import I64, Builder, Value
from engine.cpu.kernels.tile import tile_arguments
from engine.cpu.target import Target
from engine.dtypes import DType

Call = Callable[[int, Value], None]


def tile_heights(target: Target, dtype: DType = DType.FLOAT32) -> tuple[int, ...]:
    """Return the heights of tiles that any number of rows is cut into, the full one first.

    Of float32, powers of two follow it. Dot products of bfloat16 keep more sums under way at once
    than a low tile has, so there rows are cut evenly, into tiles of every height.
    """
    if dtype is DType.BFLOAT16:
        return tuple(range(target.tile_rows, 0, -1))
    heights = [target.tile_rows]
    power = 1 << ((target.tile_rows - 1).bit_length() - 1)
    while power:
        heights.append(power)
        power >>= 1
    return tuple(heights)


def cut_rows(f: Builder, heights: tuple[int, ...], rows: tuple[Value, Value], call: Call) -> None:
    """Call for tiles of these heights that make up rows [first, last): full ones, then one of each
    lower height where it fits."""
    first, last = rows
    full = heights[0]
    count = f.sub(last, first)
    whole = f.mul(f.div(count, full), full)
    rest_begin = f.add(first, whole)
    with f.loop(first, rest_begin, full) as row:
        call(full, row.i)
    position = rest_begin
    for height in heights[1:]:
        left = f.sub(last, position)
        fits = f.b.icmp_signed(">=", left, I64(height))
        with f.if_(fits):
            call(height, position)
        position = f.choose(fits, f.add(position, height), position)


def cut_evenly(
    f: Builder, full: int, rows: tuple[Value, Value], call: Call, call_any: Callable[..., None]
) -> None:
    """Call for full tiles, then for what is less than two of them in halves as equal as can be.

    `call` takes a height that is a number, `call_any` one up to the full height that only a run
    tells.
    """
    first, last = rows
    count = f.sub(last, first)
    # All but the last two, unless the rows divide into full tiles.
    many = f.greatest(f.sub(f.div(count, full), 1), 0)
    many = f.choose(f.equals(f.rem(count, full), 0), f.div(count, full), many)
    rest = f.add(first, f.mul(many, full))
    with f.loop(first, rest, full) as row:
        call(full, row.i)
    left = f.sub(last, rest)
    parts = f.div(f.add(left, full - 1), full)
    with f.loop(0, parts) as part:
        begin = f.div(f.mul(left, part.i), parts)
        end = f.div(f.mul(left, f.add(part.i, 1)), parts)
        call_any(f.sub(end, begin), f.add(rest, begin))


def emit_chooser(
    module: ir.Module,
    name: str,
    target: Target,
    tiles: Mapping[int, ir.Function],
    extras: int,
) -> ir.Function:
    """Write a function that takes a height, then what the tile of that height takes."""
    arguments = tile_arguments(extras)
    f = Builder(module, name, [("height", I64), *arguments], target, inline=False)
    passed = [f.parameter(each) for each, _ in arguments]

    def choose(heights: list[int]) -> None:
        if len(heights) == 1:
            f.call(tiles[heights[0]], *passed)
            return
        half = len(heights) // 2
        with f.if_else(f.less(f.parameter("height"), heights[half])) as (low, high):
            with low:
                choose(heights[:half])
            with high:
                choose(heights[half:])

    choose(sorted(tiles))
    return f.ret()
