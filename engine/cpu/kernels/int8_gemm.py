"""Products of a plain matrix of bytes, of any number of rows, with fixed, packed weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import llvmlite.ir as ir

from engine.cpu.builder import Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.amx import FULL, TILE_ROWS, begin_tiles, end_tiles, step_quads
from engine.cpu.kernels.amx_tile import TilePlan, emit_block, emit_rest, integer_work
from engine.cpu.kernels.gemm import ANY, FEW_ROWS
from engine.cpu.kernels.int8_products import QUAD, packed_row_bytes
from engine.cpu.kernels.int8_tile import IntegerTile, Rows, emit_integer_tile
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.row_cuts import cut_evenly, cut_rows, tile_heights
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
        signed: Whether x is signed. `lift` tells what it is taken higher by.
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
        panels, plan = Panels.of(self.n, target), TilePlan(self.step(target))
        shapes = {}
        if panels.whole:
            shapes["whole"] = (target.tile_vectors, target.lanes)
        if panels.tail_vectors:
            shapes["tail"] = (panels.tail_vectors, panels.tail_lanes)
        emit = self._emit_blocks if plan.step else self._emit_tiles
        tiles: dict[tuple[str, int], ir.Function] = {}
        for kind, shape in shapes.items():
            found = emit(module, f"{name}.{kind}", target, shape)
            tiles |= {(kind, height): function for height, function in found.items()}
        f = KernelBuilder(module, name, target)
        pointers = [f.operand(i) for i in range(5 + sum(o != "scalar" for o in self.operands))]
        rows, groups = f.number(0), -(-panels.count // self.group)
        if plan.step:
            begin_tiles(f, plan.standing, plan.step)
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
        if plan.step:
            end_tiles(f)
        f.ret()

    def step(self, target: Target) -> int:
        """Return the quads of one step on tiles (AMX); 0 where it does not take them."""
        return step_quads(target, [self.terms])

    def lift(self, target: Target) -> int:
        """Return what x is taken higher by, which `begin` must follow."""
        return 128 if self.signed and not self.step(target) else 0

    def height(self, target: Target) -> int:
        """Return the rows of a full tile."""
        return FULL if self.step(target) else target.tile_rows

    def _emit_tiles(
        self, module: ir.Module, name: str, target: Target, shape: tuple[int, int]
    ) -> dict[int, ir.Function]:
        """Write the functions of register tiles, by height."""
        return {
            height: emit_integer_tile(module, f"{name}{height}", target, self._tile(height, *shape))
            for height in tile_heights(target)
        }

    def _emit_blocks(
        self, module: ir.Module, name: str, target: Target, shape: tuple[int, int]
    ) -> dict[int, ir.Function]:
        """Write the functions of a full block on tiles, and of one of any height."""
        plan = TilePlan(self.step(target))
        full = integer_work(self._tile(FULL, *shape))
        silent = [replace(self._tile(height, *shape), ahead=0) for height in (TILE_ROWS, FULL)]
        rest = integer_work(silent[0]), integer_work(silent[1])
        return {
            FULL: emit_block(module, name, target, full, plan),
            ANY: emit_rest(module, f"{name}.rest", target, rest, plan),
        }

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
        panels, full = Panels.of(self.n, f.target), self.height(f.target)
        column = f.mul(panel, panels.width)
        panel_bytes = panels.width * self.parts * self.terms * packed_row_bytes(f.target)
        y, x, weights, begin, scalars, *others = pointers
        w = f.at_bytes(weights, f.mul(panel, panel_bytes))
        begin = f.at(begin, column)
        moved = [o for o in self.operands if o != "scalar"]
        starts: dict[str, Number] = {"column": column, "counts": column, "line": column}

        def call(height: int, row: Value, *first: Value) -> None:
            place = f.add(f.mul(row, self.n), column)
            starts["row"] = row
            extras = [
                f.at(pointer, place, o) if isinstance(o, DType) else f.at(pointer, starts.get(o, 0))
                for pointer, o in zip(others, moved, strict=True)
            ]
            done = f.div(f.sub(row, rows[0]), full)
            share = f.mul(done, self.ahead * self.parts * self.terms)
            f.call(
                tiles[kind, height],
                *first,
                f.at_bytes(x, f.mul(row, self.x_pitch)),
                f.at(y, place, self.y_dtype),
                w,
                begin,
                scalars,
                f.at_bytes(w, f.add(share, panel_bytes)),
                *extras,
            )

        if self.step(f.target):
            cut_evenly(f, full, rows, call, lambda height, row: call(ANY, row, height))
        else:
            cut_rows(f, tile_heights(f.target), rows, call)
