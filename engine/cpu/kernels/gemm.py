"""Products of a plain matrix of any number of rows with fixed, packed weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I64, Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.amx import FULL, TILE_ROWS, begin_tiles, end_tiles, step_quads
from engine.cpu.kernels.amx_tile import TilePlan, Work, emit_block, emit_rest, half_work
from engine.cpu.kernels.panels import Panels, whole_pairs
from engine.cpu.kernels.row_cuts import cut_evenly, cut_rows, emit_chooser, tile_heights
from engine.cpu.kernels.tile import Sum, Tile, emit_tile, load_lanes
from engine.cpu.target import Target
from engine.dtypes import DType

FEW_ROWS: Final = 4  # tiles below this height read weights as fast as memory gives them
FURTHER: Final = -1  # stands for a full tile below the first one of its panel
ANY: Final = 0  # stands for the function that takes its height at run time


@dataclass(frozen=True)
class GemmSchedule:
    """How a product is cut. Results do not depend on it, but for `k_blocks`.

    Attributes:
        block_rows: Rows of the left matrix that one task works on at the most, whole tiles.
        group: Panels of weights that one task works on.
        k_blocks: Parts of the sum: cut where a block of rows would not stay in cache.
        ahead: Bytes of the next panel to ask for per step of the sum.
        ahead_once: Whether the first tile of a panel asks for all of the next one.
    """

    block_rows: int
    group: int
    k_blocks: int = 1
    ahead: int = 0
    ahead_once: bool = False


@dataclass(frozen=True)
class Gemm(Kernel):
    """y = epilogue(x @ weights + bias, further operands).

    operands: y, x, packed weights, bias, further operands. numbers: rows. Tasks:
    `tasks(rows)`.

    Attributes:
        k: Terms of the sum.
        n: Columns.
        x_pitch: Elements from one row of x to the next.
        y_pitch: Elements from one row of y to the next.
        schedule: How it is cut.
        epilogue: Expression as text, or "".
        extras: For each further operand the elements from one of its rows to the next, or None for
            a number per column. Such operands, and the bias, are padded to whole panels.
        dtype: What is multiplied, and in which the weights are packed: FLOAT32 or BFLOAT16; sums
            are float32 in either case.
        x_dtype: What x is. FLOAT32 is rounded block by block where BFLOAT16 is multiplied; an x of
            BFLOAT16 is read as it lies, an even number of terms.
        y_dtype: What the result is stored as.
    """

    k: int
    n: int
    x_pitch: int
    y_pitch: int
    schedule: GemmSchedule
    epilogue: str = ""
    extras: tuple[int | None, ...] = ()
    dtype: DType = DType.FLOAT32
    x_dtype: DType = DType.FLOAT32
    y_dtype: DType = DType.FLOAT32

    @property
    def k_block(self) -> int:
        """Terms of one part of the sum."""
        return -(-self.k // self.schedule.k_blocks)

    def scratch_bytes(self, target: Target) -> int:
        """Sums that are not finished yet, and a block of rows rounded to bfloat16."""
        copy = self.schedule.block_rows * self.copy_pitch(target) * self.dtype.itemsize
        return self.state_bytes(target) + (copy if self.rounds else 0)

    def state_bytes(self, target: Target) -> int:
        """Return the bytes of sums that are not finished: a block of rows by a group of panels."""
        if self.schedule.k_blocks == 1:
            return 0
        columns = self.schedule.group * target.tile_columns
        return self.schedule.block_rows * columns * 4

    @property
    def rounds(self) -> bool:
        """Whether x is rounded to the type that is multiplied."""
        return self.dtype is not self.x_dtype

    def copy_pitch(self, target: Target) -> int:
        """Return the elements from one rounded row to the next; not a multiple of a page."""
        pitch = target.whole_vectors(self.k_block)
        return pitch + (2 * target.lanes if pitch * self.dtype.itemsize % 4096 == 0 else 0)

    def step(self, target: Target) -> int:
        """Return the quads of bytes of one step on tiles (AMX); 0 where it does not take them."""
        if self.dtype is not DType.BFLOAT16:
            return 0
        return step_quads(target, [2 * whole_pairs(length, self.dtype) for length in self.lengths])

    def height(self, target: Target) -> int:
        """Return the rows of a full tile: blocks of rows are so many, or a multiple."""
        return FULL if self.step(target) else target.tile_rows

    @property
    def lengths(self) -> list[int]:
        """The terms of each part of the sum."""
        block = self.k_block
        return [min(block, self.k - first) for first in range(0, self.k, block)]

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One function per tile shape, and the loops over blocks, panels and rows.

        `ValueError` where the schedule's blocks of rows are not whole tiles.
        """
        if self.schedule.block_rows % self.height(target):
            raise ValueError(
                f"blocks have {self.schedule.block_rows} rows; expected whole tiles of "
                f"{self.height(target)}: ask `gemm_schedule` for the schedule"
            )
        emitter = _AmxEmitter if self.step(target) else _GemmEmitter
        emitter(self, module, name, target).emit()


class _GemmEmitter:
    """Writes one kernel."""

    pairs_panels = True

    def __init__(self, spec: Gemm, module: ir.Module, name: str, target: Target) -> None:
        self.spec, self.module, self.name, self.target = spec, module, name, target
        self.panels = Panels.of(spec.n, target)
        self.heights = self._heights()
        self.cuts_evenly = spec.dtype is DType.BFLOAT16
        self.lengths = spec.lengths
        self.panel_size = self.panels.width * whole_pairs(spec.k, spec.dtype)
        self.x_pitch = spec.copy_pitch(target) if spec.rounds else spec.x_pitch
        self.whole = self._tiles(target.tile_vectors, target.lanes) if self.panels.whole else None
        # A lone row would wait for its own sums: of two panels there are twice as many.
        self.pair = None
        if self.pairs_panels and min(self.panels.whole, spec.schedule.group) > 1:
            self.pair = self._tiles(2 * target.tile_vectors, target.lanes, panels=2)
        self.tail = None
        if self.panels.tail_vectors:
            self.tail = self._tiles(self.panels.tail_vectors, self.panels.tail_lanes)

    def _heights(self) -> tuple[int, ...]:
        """Return the heights of tiles, the full one first."""
        return tile_heights(self.target, self.spec.dtype)

    def _tiles(
        self, vectors: int, last_lanes: int, panels: int = 1
    ) -> dict[tuple[int, int], ir.Function]:
        """Return the functions by (height, terms of the part of the sum)."""
        spec, found = self.spec, {}
        heights = self.heights if panels == 1 else (1,)
        once = spec.schedule.ahead_once and panels == 1
        for length in dict.fromkeys(self.lengths):
            for kind in (*heights, FURTHER) if once else heights:
                height = self.heights[0] if kind == FURTHER else kind
                asks = kind != FURTHER and (once or height >= FEW_ROWS)
                tile = self._tile(height, vectors, last_lanes, length, panels)
                tile = replace(tile, ahead=spec.schedule.ahead if asks else 0)
                label = f"{self.name}.{kind}x{vectors}x{last_lanes}x{length}"
                found[kind, length] = emit_tile(self.module, label, self.target, tile)
            if self.cuts_evenly and panels == 1:
                label = f"{self.name}.{vectors}x{last_lanes}x{length}"
                some = {height: found[height, length] for height in self.heights}
                extras = len(spec.extras)
                found[ANY, length] = emit_chooser(self.module, label, self.target, some, extras)
        return found

    def _tile(
        self, height: int, vectors: int, last_lanes: int, length: int, panels: int = 1
    ) -> Tile:
        spec = self.spec
        return Tile(
            x_rows=_rows(height, self.x_pitch),
            y_rows=_rows(height, spec.y_pitch),
            extras=tuple(None if p is None else _rows(height, p) for p in spec.extras),
            vectors=vectors,
            last_lanes=last_lanes,
            sum=Sum(whole_pairs(length, spec.dtype)),
            dtype=spec.dtype,
            y_dtype=spec.y_dtype,
            epilogue=spec.epilogue,
            blocked=spec.schedule.k_blocks > 1,
            panels=panels,
            panel_step=self.panel_size * spec.dtype.itemsize,
        )

    def emit(self) -> None:
        f = KernelBuilder(self.module, self.name, self.target)
        self._work(f)
        f.ret()

    def _work(self, f: KernelBuilder) -> None:
        plan = self.spec.schedule
        rows, groups = f.number(0), -(-self.panels.count // plan.group)
        pointers = self._pointers(f)
        with f.loop(f.low, f.high) as task:
            block, group = f.divmod(task.i, groups)
            first, last = self._block(f, block, rows)
            panel = f.mul(group, plan.group)
            end = f.least(f.add(panel, plan.group), self.panels.count)
            whole_end = f.least(end, self.panels.whole)
            done = 0
            for part, length in enumerate(self.lengths):
                place = (part, done, length)
                if self.spec.rounds:
                    self._round(f, pointers["x"], (first, last), place)
                begin: Value = panel
                if self.pair is not None:
                    pairs = f.div(f.sub(whole_end, panel), 2)
                    lone = f.equals(f.sub(last, first), 1)
                    begin = f.choose(lone, f.add(panel, f.mul(pairs, 2)), panel)
                    with f.loop(panel, begin, 2) as p:
                        self._sweep(f, pointers, self.pair, p.i, panel, (first, last), place)
                if self.whole is not None:
                    with f.loop(begin, whole_end) as p:
                        self._sweep(f, pointers, self.whole, p.i, panel, (first, last), place)
                if self.tail is not None:
                    with f.if_(f.equals(end, self.panels.count)):
                        self._sweep(
                            f, pointers, self.tail, self.panels.whole, panel, (first, last), place
                        )
                done += length

    def _block(self, f: KernelBuilder, block: Value, rows: Value) -> tuple[Value, Value]:
        """Return the rows of a block: whole tiles, as many as any other block has, or one more.

        All weights are read for each block: a few rows left over would cost as much as many.
        """
        full, most = self.heights[0], self.spec.schedule.block_rows
        tiles, blocks = f.div(f.add(rows, full - 1), full), f.div(f.add(rows, most - 1), most)
        begin = f.div(f.mul(block, tiles), blocks)
        end = f.div(f.mul(f.add(block, 1), tiles), blocks)
        return f.mul(begin, full), f.least(f.mul(end, full), rows)

    def _round(
        self,
        f: KernelBuilder,
        x: Value,
        rows: tuple[Value, Value],
        place: tuple[int, int, int],
    ) -> None:
        """Round a block of rows, for one part of the sum, into scratch memory."""
        _, done, length = place
        spec, whole = self.spec, length // f.lanes * f.lanes
        with f.loop(*rows) as row:
            source = f.at(x, f.add(f.mul(row.i, spec.x_pitch), done))
            copy = self._rounded(f, f.sub(row.i, rows[0]))
            with f.loop(0, whole, f.lanes) as k:
                f.store(f.load(f.at(source, k.i)), f.at(copy, k.i, spec.dtype), spec.dtype)
            if length > whole:
                rest = load_lanes(f, f.at(source, whole), length - whole)
                f.store(rest, f.at(copy, whole, spec.dtype), spec.dtype)

    def _rounded(self, f: KernelBuilder, row: Value) -> Value:
        """Return where a row of the block lies once it is rounded."""
        copies = f.at_bytes(f.scratch, self.spec.state_bytes(self.target))
        return f.at(copies, f.mul(row, self.x_pitch), self.spec.dtype)

    def _pointers(self, f: KernelBuilder) -> dict[str, Value]:
        fixed = ["y", "x", "w", "bias"]
        named = {key: f.operand(i) for i, key in enumerate(fixed)}
        for i in range(len(self.spec.extras)):
            named[f"e{i}"] = f.operand(len(fixed) + i)
        return named

    def _sweep(
        self,
        f: KernelBuilder,
        pointers: dict[str, Value],
        tiles: dict[tuple[int, int], ir.Function],
        panel: Number,
        first_panel: Value,
        rows: tuple[Value, Value],
        place: tuple[int, int, int],
    ) -> None:
        """Call the tiles of one panel (or pair) over a block of rows, for one part of the sum."""
        spec, width = self.spec, self.panels.width
        part, done, length = place
        vectors = self.panels.tail_vectors if tiles is self.tail else self.target.tile_vectors
        column = f.mul(panel, width)
        w = f.at(pointers["w"], f.mul(panel, self.panel_size), spec.dtype)
        w = f.at(w, done * vectors * f.lanes, spec.dtype)
        # Each tile asks for its share of the next panel, or the first one for all of it.
        once = spec.schedule.ahead_once and tiles is not self.pair
        following = f.at(w, self.panel_size, spec.dtype)
        steps = whole_pairs(length, spec.dtype) * spec.dtype.itemsize // 4
        bias = f.at(pointers["bias"], column)
        blocked = spec.schedule.k_blocks > 1
        state_panel = f.mul(f.sub(panel, first_panel), spec.schedule.block_rows * width)

        def call(height: int, row: Value, *first: Value) -> None:
            state = f.scratch
            if blocked:
                at = f.mul(f.sub(row, rows[0]), vectors * f.lanes)
                state = f.at(f.scratch, f.add(state_panel, at))
            ahead = 0 if once else spec.schedule.ahead * steps
            share = f.mul(f.div(f.sub(row, rows[0]), self.heights[0]), ahead)
            begin, step = (bias, 0) if part == 0 else (state, vectors * f.lanes * 4)  # bytes
            extras = [
                f.at(pointers[f"e{i}"], column if p is None else f.add(f.mul(row, p), column))
                for i, p in enumerate(spec.extras)
            ]
            if spec.rounds:
                x = self._rounded(f, f.sub(row, rows[0]))
            else:
                x = f.at(pointers["x"], f.add(f.mul(row, spec.x_pitch), done), spec.x_dtype)
            arguments = (
                *first,
                x,
                f.at(pointers["y"], f.add(f.mul(row, spec.y_pitch), column), spec.y_dtype),
                w,
                begin,
                state,
                f.at_bytes(following, share),
                I64(step),
                ir.Constant(ir.IntType(1), int(part == len(self.lengths) - 1)),
                *extras,
            )
            if not once or height != self.heights[0]:
                f.call(tiles[height, length], *arguments)
                return
            with f.if_else(f.equals(row, rows[0])) as (begins, goes_on):
                with begins:
                    f.call(tiles[height, length], *arguments)
                with goes_on:
                    f.call(tiles[FURTHER, length], *arguments)

        if self.cuts_evenly and tiles is not self.pair:
            full = self.heights[0]
            cut_evenly(f, full, rows, call, lambda height, row: call(ANY, row, height))
        else:
            cut_rows(f, (1,) if tiles is self.pair else self.heights, rows, call)


def _rows(height: int, pitch: int) -> tuple[int, ...]:
    return tuple(r * pitch for r in range(height))


class _AmxEmitter(_GemmEmitter):
    """Writes one kernel that multiplies tiles, whatever the number of rows."""

    pairs_panels = False  # a lone row takes tiles, too: it must have the bits it has among others

    def _heights(self) -> tuple[int, ...]:
        return (FULL,)

    def _tiles(
        self, vectors: int, last_lanes: int, panels: int = 1
    ) -> dict[tuple[int, int], ir.Function]:
        """Return the functions of full blocks, and of those whose height only a run tells."""
        schedule, found = self.spec.schedule, {}
        plan = TilePlan(self.spec.step(self.target))

        def work(height: int, length: int, ahead: int = 0) -> Work:
            tile = self._tile(height, vectors, last_lanes, length)
            return half_work(replace(tile, ahead=ahead))

        for length in dict.fromkeys(self.lengths):
            label = f"{self.name}.{vectors}x{last_lanes}x{length}"
            asking, silent = work(FULL, length, schedule.ahead), work(FULL, length)
            full = emit_block(self.module, label, self.target, asking, plan)
            found[FULL, length] = found[FURTHER, length] = full
            if schedule.ahead_once:
                further = emit_block(self.module, f"{label}.further", self.target, silent, plan)
                found[FURTHER, length] = further
            parts = work(TILE_ROWS, length), silent
            rest = emit_rest(self.module, f"{label}.rest", self.target, parts, plan)
            found[ANY, length] = rest
        return found

    def _work(self, f: KernelBuilder) -> None:
        plan = TilePlan(self.spec.step(self.target))
        begin_tiles(f, plan.standing, plan.step)
        super()._work(f)
        end_tiles(f)
