"""The register tile of integer products: bytes times bytes, summed in 32 bits, then an expression.

The shape is that of `engine.cpu.kernels.tile`: rows whose places are constants, columns in panels
of packed weights. What follows the sums is an expression that scales them, and as a rule rounds
them to bytes again; its operands are numbers per column, numbers for all (in one block, so that
they are broadcast from memory), and values of the result's shape in any type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import (
    F32,
    I32,
    I64,
    PTR,
    Builder,
    Number,
    Value,
    vector,
)
from engine.cpu.expressions import emit_expr
from engine.cpu.kernels.int8_products import (
    COLUMN_BYTES,
    add_products,
    load_terms,
    load_weights,
    terms_per_step,
)
from engine.cpu.kernels.tile import Sum, load_lanes, store_lanes
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr_text import read_expr

INLINE_ROWS = 2  # tiles this low apply the expression without a loop
SUMS_APART = 8  # so many sums at the least: fewer would wait for each other


@dataclass(frozen=True)
class Rows:
    """An operand of the result's shape.

    Attributes:
        places: Where each row of the tile lies, in elements.
        dtype: Its type.
        is_single: Whether it holds but one number per row, a float32.
    """

    places: tuple[int, ...]
    dtype: DType
    is_single: bool = False


@dataclass(frozen=True)
class IntegerTile:
    """One register tile.

    Attributes:
        x_rows: Where each row begins in the left operand, in bytes.
        y: Where each row's results go, and their type.
        operands: What the expression takes after the sum (x0): "column" for a number per column,
            "counts" for an int32 per column, "scalar" for the next one of the block of numbers,
            "number" for a number elsewhere, or rows.
        vectors: Vectors in a row of the result.
        last_lanes: Lanes of the last vector that exist in memory.
        sum: What is summed; runs are whole quads.
        epilogue: The expression; "" for the sum.
        signed: Whether the left operand is signed.
        parts: How many times the sum is done, over as many matrices of weights.
        ahead: Bytes of the next weights to ask for per term of the sum.
    """

    x_rows: tuple[int, ...]
    y: Rows
    operands: tuple[str | Rows, ...]
    vectors: int
    last_lanes: int
    sum: Sum
    epilogue: str = ""
    signed: bool = False
    parts: int = 1
    ahead: int = 0

    @property
    def height(self) -> int:
        """Rows."""
        return len(self.x_rows)

    @property
    def pointers(self) -> list[tuple[str, ir.Type]]:
        """Parameters of the tile's function.

        `begin`: the int32 that each column's sum begins at; `scalars`: the block of numbers;
        `next`: the weights to ask for ahead of their use; then one per operand that is no scalar.
        """
        own = [f"e{i}" for i, each in enumerate(self.operands) if each != "scalar"]
        return [(name, PTR) for name in ("x", "y", "w", "begin", "scalars", "next", *own)]


def emit_integer_tile(
    module: ir.Module, name: str, target: Target, tile: IntegerTile
) -> ir.Function:
    """Write the function of a tile; its parameters are `tile.pointers`."""
    f = Builder(module, name, tile.pointers, target, inline=False, noalias=True)
    begin = f.parameter("begin")
    first = [load_weights(f, f.at_bytes(begin, j * f.lanes * 4)) for j in range(tile.vectors)]
    _finish(f, tile, _sums(f, tile, first * tile.height))
    return f.ret()


def _sums(f: Builder, tile: IntegerTile, begin: list[Value]) -> list[Value]:
    """Return the accumulators after all parts of the sum."""
    carry = [f.parameter("w"), f.parameter("next"), *begin]
    if tile.parts == 1:
        return _sums_of_part(f, tile, carry)[2:]
    with f.loop(0, tile.parts, carry=carry, unroll=False) as part:
        part.next = _sums_of_part(f, tile, part.values)
    return part.result[2:]


def _sums_of_part(f: Builder, tile: IntegerTile, carry: list[Value]) -> list[Value]:
    """Return the places in the weights and the accumulators after the loops over the runs.

    A low tile sums every so many terms apart, which changes nothing: integers are exact.
    """
    whole, group = tile.sum, terms_per_step(f.target)
    steps, w_step = whole.run // group, tile.vectors * f.lanes * COLUMN_BYTES
    budget = 28 // (tile.height * tile.vectors)
    unroll = next((u for u in (8, 4, 2) if steps % u == 0 and u <= budget), 1)
    width = tile.height * tile.vectors
    chains = min(unroll, max(1, SUMS_APART // width))
    nothing = [f.integers(0)] * (width * (chains - 1))
    with f.loop(0, whole.rows, carry=[*carry, *nothing]) as row:
        x_row = f.at_bytes(f.parameter("x"), f.mul(row.i, whole.row_step))
        with f.loop(0, whole.columns, carry=row.values) as column:
            x_run = f.at_bytes(x_row, f.mul(column.i, whole.column_step))
            with f.loop(0, steps, unroll, carry=column.values, unroll=False) as k:
                w, ahead, *sums = k.values
                asked = tile.ahead * group * unroll
                for line in range(0, asked, 64):
                    f.prefetch(f.at_bytes(ahead, line))
                x = f.at_bytes(x_run, f.mul(k.i, group))
                for u in range(unroll):
                    at = f.at_bytes(x, u * group)
                    own = slice(u % chains * width, (u % chains + 1) * width)
                    sums[own] = _step(f, tile, at, f.at_bytes(w, u * w_step), sums[own])
                k.next = [f.at_bytes(w, unroll * w_step), f.at_bytes(ahead, asked), *sums]
            column.next = k.result
        row.next = column.result
    places, sums = row.result[:2], row.result[2:]
    for first in range(width, width * chains, width):
        more = sums[first : first + width]
        sums[:width] = [f.b.add(a, b) for a, b in zip(sums[:width], more, strict=True)]
    return [*places, *sums[:width]]


def _step(f: Builder, tile: IntegerTile, x: Value, w: Value, sums: Sequence[Value]) -> list[Value]:
    n, done = tile.vectors, list(sums)
    size = f.lanes * COLUMN_BYTES
    weights = [load_weights(f, f.at_bytes(w, j * size)) for j in range(n)]
    for r, offset in enumerate(tile.x_rows):
        terms = load_terms(f, f.at_bytes(x, offset), signed=tile.signed)
        for j in range(n):
            done[r * n + j] = add_products(f, done[r * n + j], terms, weights[j])
    return done


def _finish(f: Builder, tile: IntegerTile, sums: list[Value]) -> None:
    """Apply the expression and store: row by row in a loop, through the stack."""
    n = tile.vectors
    if tile.height <= INLINE_ROWS or not tile.epilogue:
        for r in range(tile.height):
            places = [e.places[r] for e in _moving(tile)]
            _finish_row(f, tile, sums[r * n : (r + 1) * n], places)
        return
    vector_bytes = f.lanes * 4
    memory = f.stack(tile.height * n * vector_bytes)
    for i, value in enumerate(sums):
        f.b.store(value, f.at_bytes(memory, i * vector_bytes), align=vector_bytes)
    finish_integer_rows(f, tile, memory, tile.height)


def finish_integer_rows(f: Builder, tile: IntegerTile, memory: Value, height: Number) -> None:
    """Apply the expression to the sums of `height` rows that lie in memory, and store."""
    n, vector_bytes = tile.vectors, f.lanes * 4
    moving = _moving(tile)
    table = _table(
        f, [place for row in zip(*(e.places for e in moving), strict=True) for place in row]
    )
    with f.loop(0, height, unroll=False) as turn:
        entry = f.at(table, f.mul(turn.i, len(moving)), DType.INT64)
        places = [
            f.b.load(f.at(entry, i, DType.INT64), typ=I64, align=8) for i in range(len(moving))
        ]
        line = f.at_bytes(memory, f.mul(turn.i, n * vector_bytes))
        kind = vector(I32, f.lanes)
        row = [
            f.b.load(f.at_bytes(line, j * vector_bytes), typ=kind, align=vector_bytes)
            for j in range(n)
        ]
        _finish_row(f, tile, row, places)


def _moving(tile: IntegerTile) -> list[Rows]:
    return [tile.y, *(e for e in tile.operands if isinstance(e, Rows))]


def _table(f: Builder, numbers: Sequence[int]) -> Value:
    """Return a constant array of 64-bit numbers."""
    kind = ir.ArrayType(I64, len(numbers))
    table = ir.GlobalVariable(f.module, kind, f"{f.function.name}.rows")
    table.initializer, table.linkage = ir.Constant(kind, list(numbers)), "internal"
    table.global_constant = True
    table.type = PTR  # llvmlite gives globals typed pointers; all others are opaque
    return table


def _finish_row(
    f: Builder, tile: IntegerTile, row: Sequence[Value], places: Sequence[int | Value]
) -> None:
    """Apply the expression to one row and store it; `places` are those of y and all other rows."""
    for j, value in enumerate(row):
        lanes = tile.last_lanes if j == tile.vectors - 1 else f.lanes
        operands, others, scalars = [value], iter(places[1:]), 0
        for i, each in enumerate(tile.operands):
            if each == "scalar":
                number = f.b.load(f.at(f.parameter("scalars"), scalars), typ=F32, align=4)
                operands.append(f.splat(number))
                scalars += 1
            elif each == "column":
                operands.append(f.load(f.at(f.parameter(f"e{i}"), j * f.lanes)))
            elif each == "counts":
                operands.append(load_weights(f, f.at(f.parameter(f"e{i}"), j * f.lanes)))
            elif each == "number":
                number = f.b.load(f.parameter(f"e{i}"), typ=F32, align=4)
                operands.append(f.splat(number))
            else:
                assert isinstance(each, Rows)
                at = f.at(f.parameter(f"e{i}"), next(others), each.dtype)
                if each.is_single:
                    operands.append(f.splat(f.b.load(at, typ=F32, align=4)))
                    continue
                at = f.at(at, j * f.lanes, each.dtype)
                operands.append(load_lanes(f, at, lanes, each.dtype))
        if tile.epilogue:
            value = emit_expr(f, read_expr(tile.epilogue), operands)
        at = f.at(f.parameter("y"), places[0], tile.y.dtype)
        store_lanes(f, value, f.at(at, j * f.lanes, tile.y.dtype), lanes, tile.y.dtype)
