"""Products of matrices that are both computed, in batches, of sizes known only at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import F32, I1, I32, I64, PTR, VOID, Builder, Value, suffix, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.row_cuts import cut_rows, tile_heights
from engine.cpu.kernels.tile import emit_epilogue, is_costly
from engine.cpu.target import Target

BATCH_AXES = 3
ROWS_PER_TASK = 4  # full tiles
# What the numbers are, in order: sizes, then for each batch axis its length and how far the left
# and the right matrices of neighbouring entries lie apart (0 where one serves all), in elements.
SIZES = ("rows", "terms", "columns")


@dataclass(frozen=True)
class BatchedProduct(Kernel):
    """y[b] = epilogue(a[b] @ b[b], further operands) for plain matrices.

    operands: y, a, b, further operands. numbers: rows, terms, columns, then (length, step of a,
    step of b) of `BATCH_AXES` axes. Tasks: batch entries x blocks of rows x panels of columns.

    Attributes:
        epilogue: Expression as text, or "".
        extras: For each further operand whether it has the shape of y; else it is one number per
            column.
    """

    epilogue: str = ""
    extras: tuple[bool, ...] = ()

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Tiles for every height, once for whole panels and once for a narrower last one."""
        heights = tile_heights(target)
        whole = {h: self._tile(module, f"{name}.{h}", target, h, masked=False) for h in heights}
        tail = {h: self._tile(module, f"{name}.{h}.tail", target, h, masked=True) for h in heights}
        f = KernelBuilder(module, name, target)
        rows, terms, columns = (f.number(i) for i in range(len(SIZES)))
        y, a, b, *extras = [f.operand(i) for i in range(3 + len(self.extras))]
        width, block = target.tile_columns, rows_per_task(target)
        panels = f.div(f.add(columns, width - 1), width)
        blocks = f.div(f.add(rows, block - 1), block)
        with f.loop(f.low, f.high) as task:
            rest, panel = f.divmod(task.i, panels)
            entry, part = f.divmod(rest, blocks)
            a_at, b_at = self._matrices(f, entry)
            first = f.mul(part, block)
            last = f.least(f.add(first, block), rows)
            column = f.mul(panel, width)
            left = f.least(f.sub(columns, column), width)
            origin = f.mul(entry, f.mul(rows, columns))

            def call(height: int, row: Value) -> None:
                at = f.add(origin, f.mul(row, columns), column)
                others = [
                    f.at(pointer, at if full else column)
                    for pointer, full in zip(extras, self.extras, strict=True)
                ]
                arguments = (
                    f.at(y, at),
                    f.at(a, f.add(a_at, f.mul(row, terms))),
                    f.at(b, f.add(b_at, column)),
                    terms,
                    columns,
                    left,
                    *others,
                )
                with f.if_else(f.equals(left, width)) as (is_whole, is_tail):
                    with is_whole:
                        f.call(whole[height], *arguments)
                    with is_tail:
                        f.call(tail[height], *arguments)

            cut_rows(f, heights, (first, last), call)
        f.ret()

    def _matrices(self, f: KernelBuilder, entry: Value) -> tuple[Value, Value]:
        """Return where the matrices of a batch entry begin."""
        a_at: Value = I64(0)
        b_at: Value = I64(0)
        rest = entry
        for axis in reversed(range(BATCH_AXES)):
            length, a_step, b_step = (f.number(len(SIZES) + 3 * axis + i) for i in range(3))
            rest, index = f.divmod(rest, length)
            a_at, b_at = f.add(a_at, f.mul(index, a_step)), f.add(b_at, f.mul(index, b_step))
        return a_at, b_at

    def _tile(
        self, module: ir.Module, name: str, target: Target, height: int, *, masked: bool
    ) -> ir.Function:
        pointers = [(p, PTR) for p in ("y", "a", "b")]
        sizes = [(p, I64) for p in ("terms", "columns", "left")]
        others = [(f"e{i}", PTR) for i in range(len(self.extras))]
        f = Builder(module, name, [*pointers, *sizes, *others], target, inline=False, noalias=True)
        vectors = target.tile_vectors
        terms, columns = f.parameter("terms"), f.parameter("columns")
        masks = [_mask(f, j) if masked else None for j in range(vectors)]
        starts = [f.at(f.parameter("a"), f.mul(terms, r)) for r in range(height)]
        step = f.mul(columns, 4)
        zeros = [f.floats(0.0)] * (height * vectors)
        with f.loop(0, terms, carry=[f.parameter("b"), *zeros], unroll=False) as k:
            b, *sums = k.values
            weights = [_load(f, f.at(b, j * f.lanes), masks[j]) for j in range(vectors)]
            for r, start in enumerate(starts):
                number = f.splat(f.b.load(f.at(start, k.i), typ=F32, align=4))
                for j in range(vectors):
                    i = r * vectors + j
                    sums[i] = f.fma(number, weights[j], sums[i])
            k.next = [f.at_bytes(b, step), *sums]
        self._finish(f, k.result[1:], masks)
        return f.ret()

    def _finish(self, f: Builder, sums: Sequence[Value], masks: Sequence[Value | None]) -> None:
        vectors = len(masks)
        height = len(sums) // vectors
        columns = f.parameter("columns")
        if not is_costly(self.epilogue) or height == 1:
            for r in range(height):
                self._finish_row(f, sums[r * vectors : (r + 1) * vectors], f.mul(columns, r), masks)
            return
        memory = f.stack(len(sums) * f.lanes * 4)
        for i, value in enumerate(sums):
            f.store(value, f.at(memory, i * f.lanes))
        with f.loop(0, height, unroll=False) as turn:
            row = f.at(memory, f.mul(turn.i, vectors * f.lanes))
            values = [f.load(f.at(row, j * f.lanes)) for j in range(vectors)]
            self._finish_row(f, values, f.mul(columns, turn.i), masks)

    def _finish_row(
        self, f: Builder, row: Sequence[Value], at: Value, masks: Sequence[Value | None]
    ) -> None:
        for j, (value, mask) in enumerate(zip(row, masks, strict=True)):
            operands = [value]
            for i, full in enumerate(self.extras):
                place = f.at(f.parameter(f"e{i}"), j * f.lanes)
                operands.append(_load(f, f.at(place, at) if full else place, mask))
            value = emit_epilogue(f, self.epilogue, operands)
            _store(f, value, f.at(f.at(f.parameter("y"), j * f.lanes), at), mask)


def rows_per_task(target: Target) -> int:
    """Return how many rows one task works on."""
    return ROWS_PER_TASK * target.tile_rows


def _mask(f: Builder, j: int) -> Value:
    """Return which lanes of a panel's vector j exist, `left` columns being left."""
    left = f.b.trunc(f.sub(f.parameter("left"), j * f.lanes), I32)
    lanes = ir.Constant(vector(I32, f.lanes), list(range(f.lanes)))
    return f.b.icmp_signed("<", lanes, f.splat(left))


def _load(f: Builder, pointer: Value, mask: Value | None) -> Value:
    if mask is None:
        return f.load(pointer)
    kind = vector(F32, f.lanes)
    load = f.intrinsic(
        f"llvm.masked.load.{suffix(kind)}.p0", kind, [PTR, I32, vector(I1, f.lanes), kind]
    )
    return f.call(load, pointer, I32(4), mask, f.floats(0.0))


def _store(f: Builder, value: Value, pointer: Value, mask: Value | None) -> None:
    if mask is None:
        f.store(value, pointer)
        return
    kind = vector(F32, f.lanes)
    store = f.intrinsic(
        f"llvm.masked.store.{suffix(kind)}.p0", VOID, [kind, PTR, I32, vector(I1, f.lanes)]
    )
    f.call(store, value, pointer, I32(4), mask)
