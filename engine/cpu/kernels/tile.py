"""The register tile: a few rows times a few vectors of columns, summed in registers.

Products and convolutions are one tile many times over. Rows of the tile are rows of the left matrix
or pixels, columns are columns of the right matrix or filters; the weights come packed, one panel of
`vectors` vectors after another. A tile is specialised to its rows: their offsets are constants in
the addressing modes, so that a step of the sum is nothing but loads and fused multiply-adds.

Blocking registers so, and panels of packed weights, follow Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication" (2008); a convolution's window as runs of a picture with its
channels last follows Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on
SIMD Architectures" (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import (
    BF16,
    F32,
    I1,
    I32,
    I64,
    MEMORY,
    PTR,
    VOID,
    Builder,
    Number,
    Value,
    suffix,
    vector,
)
from engine.cpu.expressions import emit_expr
from engine.cpu.kernels.rows import store_first
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr import LEAVES
from engine.ir.expr_text import read_expr

# Steps of an expression per vector above which it is applied in a loop over the rows: written out
# for every accumulator it would cost more to compile than the trip through the stack costs to run.
INLINE_STEPS = 5
COSTLY = frozenset({"exp", "expm1", "log", "log1p", "erf", "sin", "cos", "tan", "tanh", "pow"})


@dataclass(frozen=True)
class Sum:
    """What every element of a tile sums over: runs of neighbours, laid out as a grid.

    Attributes:
        run: Neighbouring elements in one run.
        rows: Rows of runs (of a convolution's window).
        row_step: Elements from one row of runs to the next.
        columns: Runs in a row.
        column_step: Elements from one run to the next.
    """

    run: int
    rows: int = 1
    row_step: int = 0
    columns: int = 1
    column_step: int = 0

    @property
    def terms(self) -> int:
        """How many products are summed."""
        return self.rows * self.columns * self.run


@dataclass(frozen=True)
class Tile:
    """One register tile.

    Attributes:
        x_rows: Where each row begins in the left operand, in elements.
        y_rows: Where each row's results go.
        extras: For each further operand of the epilogue where its rows are, or None for one that
            holds a number per column.
        vectors: Vectors in a row of the result.
        last_lanes: Lanes of the last vector that exist in memory.
        sum: What is summed.
        epilogue: Expression of the sum (x0) and the further operands, as text; "" for the sum.
        blocked: Whether the sum is done in parts, with the state in memory in between.
        ahead: Bytes of the next weights to ask for at each step of the sum.
        dtype: What both sides of the products are: FLOAT32, or BFLOAT16 taken in pairs.
        y_dtype: What the result is stored as.
        panels: Neighbouring panels of weights that the columns lie in.
        panel_step: Bytes from one of them to the next.
    """

    x_rows: tuple[int, ...]
    y_rows: tuple[int, ...]
    extras: tuple[tuple[int, ...] | None, ...]
    vectors: int
    last_lanes: int
    sum: Sum
    epilogue: str = ""
    blocked: bool = False
    ahead: int = 0
    dtype: DType = DType.FLOAT32
    y_dtype: DType = DType.FLOAT32
    panels: int = 1
    panel_step: int = 0

    @property
    def panel_vectors(self) -> int:
        """Vectors in one panel."""
        return self.vectors // self.panels

    @property
    def height(self) -> int:
        """Rows."""
        return len(self.x_rows)


def tile_arguments(extras: int) -> list[tuple[str, ir.Type]]:
    """Return the parameters of every tile function.

    `begin`: the numbers that sums begin at, `begin_step` bytes from one row's to the next's where
    the sum is done in parts; `finish`: whether it is complete, else it goes to `state`; `next`: the
    weights to ask for ahead of their use.
    """
    fixed = [(name, PTR) for name in ("x", "y", "w", "begin", "state", "next")]
    flags = [("begin_step", I64), ("finish", I1)]
    return [*fixed, *flags, *((f"e{i}", PTR) for i in range(extras))]


def emit_tile(module: ir.Module, name: str, target: Target, tile: Tile) -> ir.Function:
    """Write the function of a tile; its parameters are `tile_arguments`."""
    f = Builder(module, name, tile_arguments(len(tile.extras)), target, inline=False, noalias=True)
    sums = _sums(f, tile, _beginning(f, tile))
    if not tile.blocked:
        _finish(f, tile, sums)
        return f.ret()
    with f.if_else(f.parameter("finish")) as (complete, partial):
        with complete:
            _finish(f, tile, sums)
        with partial:
            for i, value in enumerate(sums):
                f.store(value, f.at(f.parameter("state"), i * f.lanes))
    return f.ret()


def _beginning(f: Builder, tile: Tile) -> list[Value]:
    """Return the first accumulators, row by row."""
    begin = f.parameter("begin")
    if not tile.blocked:
        return [f.load(f.at(begin, j * f.lanes)) for j in range(tile.vectors)] * tile.height
    rows = [
        f.at_bytes(begin, f.mul(f.parameter("begin_step"), r)) if r else begin
        for r in range(tile.height)
    ]
    return [f.load(f.at(row, j * f.lanes)) for row in rows for j in range(tile.vectors)]


def _sums(f: Builder, tile: Tile, begin: list[Value]) -> list[Value]:
    """Return the accumulators after the loops over the runs."""
    whole, pair = tile.sum, 2 if tile.dtype is DType.BFLOAT16 else 1
    steps, size = whole.run // pair, tile.dtype.itemsize
    w_step = tile.panel_vectors * f.lanes * size * pair
    unroll = _unrolling(tile, steps)
    carry = [f.parameter("w"), f.parameter("next"), *begin]
    with f.loop(0, whole.rows, carry=carry) as row:
        x_row = f.at_bytes(f.parameter("x"), f.mul(row.i, whole.row_step * size))
        with f.loop(0, whole.columns, carry=row.values) as column:
            x_run = f.at_bytes(x_row, f.mul(column.i, whole.column_step * size))
            with f.loop(0, steps, unroll, carry=column.values, unroll=False) as k:
                w, ahead, *sums = k.values
                for line in range(0, tile.ahead * unroll, 64):
                    f.prefetch(f.at_bytes(ahead, line), level=_asked_level(tile))
                ahead = f.at_bytes(ahead, tile.ahead * unroll)
                x = f.at_bytes(x_run, f.mul(k.i, size * pair))
                for u in range(unroll):
                    sums = _step(
                        f, tile, f.at_bytes(x, u * size * pair), f.at_bytes(w, u * w_step), sums
                    )
                k.next = [f.at_bytes(w, unroll * w_step), ahead, *sums]
            column.next = k.result
        row.next = column.result
    return row.result[2:]


def _asked_level(tile: Tile) -> int:
    """Return the cache that weights are asked into.

    What is asked into the second one comes at two thirds of the rate (Zen 5), and the first one
    hands on what it cannot hold. Weights of bfloat16, half the bytes, come in time: they leave it
    to the left side.
    """
    return 1 if tile.dtype is DType.FLOAT32 else 2


def _unrolling(tile: Tile, steps: int) -> int:
    """Small tiles hide the loop by unrolling; in a full one LLVM would hoist loads and spill."""
    return 2 if steps % 2 == 0 and tile.height * tile.vectors <= 8 else 1


def _step(f: Builder, tile: Tile, x: Value, w: Value, sums: Sequence[Value]) -> list[Value]:
    """Return the accumulators after one product (or pair of products) each."""
    n, done = tile.vectors, list(sums)
    places = [divmod(j, tile.panel_vectors) for j in range(n)]
    weights = [
        load_columns(f, f.at_bytes(w, panel * tile.panel_step + j * f.lanes * 4), tile.dtype)
        for panel, j in places
    ]
    for r, offset in enumerate(tile.x_rows):
        number = broadcast(f, f.at(x, offset, tile.dtype), tile.dtype)
        for j in range(n):
            place = r * n + j
            done[place] = multiply_add(f, number, weights[j], done[place], tile.dtype)
    return done


def load_columns(f: Builder, pointer: Value, dtype: DType) -> Value:
    """Return a vector of weights; of bfloat16 one of pairs."""
    if dtype is DType.BFLOAT16:
        return f.b.load(pointer, typ=vector(BF16, 2 * f.lanes), align=4)
    return f.load(pointer)


def broadcast(f: Builder, pointer: Value, dtype: DType) -> Value:
    """Return a number, or a pair of bfloat16, in every lane."""
    if dtype is DType.BFLOAT16:  # as one number of 32 bits
        pair = f.splat(f.b.load(pointer, typ=I32, align=2))
        return f.b.bitcast(pair, vector(BF16, 2 * f.lanes))
    return f.splat(f.b.load(pointer, typ=F32, align=4))


def multiply_add(f: Builder, x: Value, w: Value, total: Value, dtype: DType) -> Value:
    """Return the float32 sums with a product, or a pair of products, added."""
    if dtype is not DType.BFLOAT16:
        return f.fma(x, w, total)
    kind, pairs = vector(F32, f.lanes), vector(BF16, 2 * f.lanes)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * f.lanes}"
    return f.call(f.intrinsic(name, kind, [kind, pairs, pairs]), total, x, w)


# ---------------------------------------------------------------------- the end of a tile


def _finish(f: Builder, tile: Tile, sums: list[Value]) -> None:
    """Apply the epilogue and store."""
    if not _in_loop(tile):
        for r in range(tile.height):
            offsets = [rows[r] if rows else None for rows in tile.extras]
            row = sums[r * tile.vectors : (r + 1) * tile.vectors]
            _finish_row(f, tile, row, tile.y_rows[r], offsets)
        return
    memory = f.stack(tile.height * tile.vectors * f.lanes * 4)
    for i, value in enumerate(sums):
        f.store(value, f.at(memory, i * f.lanes))
    finish_rows(f, tile, memory, tile.height)


def finish_rows(f: Builder, tile: Tile, memory: Value, height: Number) -> None:
    """Apply the epilogue to the sums of `height` rows that lie in memory, and store."""
    n = tile.vectors
    moving = [rows for rows in (tile.y_rows, *tile.extras) if rows is not None]
    table = _table(f, list(zip(*moving, strict=True)))
    with f.loop(0, height, unroll=False) as turn:
        entry = f.at(table, f.mul(turn.i, len(moving)), DType.INT64)
        found = [
            f.b.load(f.at(entry, i, DType.INT64), typ=I64, align=8) for i in range(len(moving))
        ]
        places = iter(found[1:])
        row = [
            f.load(f.at(memory, f.add(f.mul(turn.i, n * f.lanes), j * f.lanes))) for j in range(n)
        ]
        offsets = [next(places) if rows is not None else None for rows in tile.extras]
        _finish_row(f, tile, row, found[0], offsets)


def _in_loop(tile: Tile) -> bool:
    return tile.height > 1 and is_costly(tile.epilogue)


def is_costly(text: str) -> bool:
    """Whether an epilogue is too long to be written out for every vector of a tile."""
    return bool(text) and _steps(text) > INLINE_STEPS


def emit_epilogue(
    f: Builder, text: str, operands: Sequence[Value], dtype: DType = DType.FLOAT32
) -> Value:
    """Return the sum, operand 0, with an epilogue applied; "" leaves it as it is.

    `dtype` is what the result is stored as next.
    """
    if not text:
        return operands[0]
    return emit_expr(f, read_expr(text), operands, coarse=dtype is DType.BFLOAT16)


def _steps(text: str) -> int:
    """Return roughly how many instructions an expression takes."""
    return sum(
        15 if node.op in COSTLY else 1 for node in read_expr(text).walk() if node.op not in LEAVES
    )


def _table(f: Builder, entries: Sequence[Sequence[int]]) -> Value:
    """Return a constant array of 64-bit numbers."""
    numbers = [number for entry in entries for number in entry]
    kind = ir.ArrayType(I64, len(numbers))
    table = ir.GlobalVariable(f.module, kind, f"{f.function.name}.rows")
    table.initializer, table.linkage = ir.Constant(kind, numbers), "internal"
    table.global_constant = True
    table.type = PTR  # llvmlite gives globals typed pointers; all others are opaque
    return table


def _finish_row(
    f: Builder,
    tile: Tile,
    row: Sequence[Value],
    y_offset: int | Value,
    offsets: Sequence[int | Value | None],
) -> None:
    """Apply the epilogue to one row and store it."""
    for j, value in enumerate(row):
        lanes = tile.last_lanes if j == tile.vectors - 1 else f.lanes
        operands = [value]
        for i, offset in enumerate(offsets):
            place = f.at(f.parameter(f"e{i}"), j * f.lanes)
            if offset is None:  # per column, padded to whole panels
                operands.append(f.load(place))
            else:
                operands.append(load_lanes(f, f.at(place, offset), lanes))
        value = emit_epilogue(f, tile.epilogue, operands, tile.y_dtype)
        place = f.at(f.parameter("y"), y_offset, tile.y_dtype)
        store_lanes(f, value, f.at(place, j * f.lanes, tile.y_dtype), lanes, tile.y_dtype)


def load_lanes(f: Builder, pointer: Value, lanes: int, dtype: DType = DType.FLOAT32) -> Value:
    """Return the first `lanes` numbers of a vector, zeros behind them; reads nothing more."""
    if lanes == f.lanes:
        return f.load(pointer, dtype)
    kind = vector(MEMORY[dtype], f.lanes)
    name = f"llvm.masked.load.{suffix(kind)}.p0"
    load = f.intrinsic(name, kind, [PTR, I32, vector(I1, f.lanes), kind])
    none = ir.Constant(kind, None)
    return f.widen(f.call(load, pointer, I32(dtype.itemsize), _mask(f, lanes), none), dtype)


def store_lanes(
    f: Builder, value: Value, pointer: Value, lanes: int, dtype: DType = DType.FLOAT32
) -> None:
    """Write the first `lanes` numbers of a vector, and nothing more."""
    if lanes == f.lanes:
        f.store(value, pointer, dtype)
        return
    if lanes == 1:
        store_first(f, value, pointer, dtype)
        return
    narrow = f.narrow(value, dtype)
    store = f.intrinsic(
        f"llvm.masked.store.{suffix(narrow.type)}.p0",
        VOID,
        [narrow.type, PTR, I32, vector(I1, f.lanes)],
    )
    f.call(store, narrow, pointer, I32(dtype.itemsize), _mask(f, lanes))


def _mask(f: Builder, lanes: int) -> Value:
    return ir.Constant(vector(I1, f.lanes), [int(i < lanes) for i in range(f.lanes)])
