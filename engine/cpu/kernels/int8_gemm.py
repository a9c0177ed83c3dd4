"""Products of a plain matrix of bytes, of any number of rows, with fixed, packed weights."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.gemm import FEW_ROWS
from engine.cpu.kernels.int8_products import QUAD, packed_row_bytes
from engine.cpu.kernels.int8_tile import IntegerTile, Rows, emit_integer_tile
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.row_cuts import cut_rows, tile_heights
from engine.cpu.kernels.tile import Sum
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class IntegerGemm(Kernel):
    """y = epilogue(x @ weights + begin, further operands).

    operands: y, x, packed weights, begin (int32 per column), scalars, then one per operand of the
    expression that is no scalar. numbers: rows. Tasks: blocks of rows times groups of panels.

    Attributes:
        k: Terms of the sum; whole quads of bytes are read from each row, what lies behind the terms
            counts nothing.
        n: Columns.
        x_pitch: Bytes from one row of x to the next.
        block_rows: Rows that one task works on.
        group: Panels of weights that one task works on.
        epilogue: Expression as text, or "" for the sums.
        operands: What it takes: the type of a matrix like y, "line" for one row of numbers that
            every row of y takes, "row" for one number per row, or a word of
            `IntegerTile.operands`.
        y_dtype: Type of the result.
        signed: Whether x is signed.
        parts: How many matrices of weights are summed, one behind the other in each panel.
        ahead: Bytes of the next panel to ask for per term of the sum.
    """

    k: int
    n: int
    x_pitch: int
    block_rows: int
    group: int
    epilogue: str = ""
    operands: tuple[str | DType, ...] = ()
    y_dtype: DType = DType.INT32
    signed: bool = False
    parts: int = 1
    ahead: int = 0

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One function per tile shape, and the loops over blocks, panels and rows."""
        panels, heights = Panels.of(self.n, target), tile_heights(target)
        shapes = {}
        if panels.whole:
            shapes["whole"] = (target.tile_vectors, target.lanes)
        if panels.tail_vectors:
            shapes["tail"] = (panels.tail_vectors, panels.tail_lanes)
        tiles = {
            (kind, height): emit_integer_tile(
                module, f"{name}.{kind}{height}", target, self._tile(height, *shape)
            )
            for kind, shape in shapes.items()
            for height in heights
        }
        f = KernelBuilder(module, name, target)
        pointers = [f.operand(i) for i in range(5 + sum(o != "scalar" for o in self.operands))]
        rows, groups = f.number(0), -(-panels.count // self.group)
        with f.loop(f.low, f.high) as task:
            block, share = f.divmod(task.i, groups)
            first = f.mul(block, self.block_rows)
            place = first, f.least(f.add(first, self.block_rows), rows)
            panel = f.mul(share, self.group)
            end = f.least(f.add(panel, self.group), panels.count)
            if panels.whole:
                with f.loop(panel, f.least(end, panels.whole)) as p:
                    self._sweep(f, pointers, tiles, "whole", p.i, place)
            if panels.tail_vectors:
                with f.if_(f.equals(end, panels.count)):
                    self._sweep(f, pointers, tiles, "tail", panels.whole, place)
        f.ret()

    @property
    def terms(self) -> int:
        """Terms with whole quads."""
        return -(-self.k // QUAD) * QUAD

    def _tile(self, height: int, vectors: int, last_lanes: int) -> IntegerTile:
        places = tuple(r * self.n for r in range(height))
        return IntegerTile(
            x_rows=tuple(r * self.x_pitch for r in range(height)),
            y=Rows(places, self.y_dtype),
            operands=tuple(self._operand(o, places) for o in self.operands),
            vectors=vectors,
            last_lanes=last_lanes,
            sum=Sum(self.terms),
            parts=self.parts,
            ahead=self.ahead if height >= FEW_ROWS else 0,
            epilogue=self.epilogue,
            signed=self.signed,
        )

    def _operand(self, operand: str | DType, places: tuple[int, ...]) -> str | Rows:
        if operand == "line":
            return Rows((0,) * len(places), DType.FLOAT32)
        if operand == "row":
            return Rows(tuple(range(len(places))), DType.FLOAT32, is_single=True)
        return operand if isinstance(operand, str) else Rows(places, operand)

    def _sweep(
        self,
        f: KernelBuilder,
        pointers: list[Value],
        tiles: dict[tuple[str, int], ir.Function],
        kind: str,
        panel: Number,
        rows: tuple[Value, Value],
    ) -> None:
        """Call the tiles of one panel over a block of rows."""
        panels = Panels.of(self.n, f.target)
        column = f.mul(panel, panels.width)
        panel_bytes = panels.width * self.parts * self.terms * packed_row_bytes(f.target)
        y, x, weights, begin, scalars, *others = pointers
        w = f.at_bytes(weights, f.mul(panel, panel_bytes))
        begin = f.at(begin, column)
        moved = [o for o in self.operands if o != "scalar"]
        starts: dict[str, Number] = {"column": column, "counts": column, "line": column}

        def call(height: int, row: Value) -> None:
            place = f.add(f.mul(row, self.n), column)
            starts["row"] = row
            extras = [
                f.at(pointer, place, o) if isinstance(o, DType) else f.at(pointer, starts.get(o, 0))
                for pointer, o in zip(others, moved, strict=True)
            ]
            done = f.div(f.sub(row, rows[0]), f.target.tile_rows)
            share = f.mul(done, self.ahead * self.parts * self.terms)
            f.call(
                tiles[kind, height],
                f.at_bytes(x, f.mul(row, self.x_pitch)),
                f.at(y, place, self.y_dtype),
                w,
                begin,
                scalars,
                f.at_bytes(w, f.add(share, panel_bytes)),
                *extras,
            )

        cut_rows(f, tile_heights(f.target), rows, call)
