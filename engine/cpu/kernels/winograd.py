"""Convolutions by 3 x 3 windows with fewer products, after Winograd.

A tile of m x m results needs (m + 2)^2 products per channel and filter instead of 9 m^2: pixels and
weights are transformed, multiplied place by place (a matrix product over the channels for each of
the (m + 2)^2 places), and the sums are transformed back (`winograd_transforms.py`). A block of
tiles goes through all three stages while it is in cache.

What is transformed may be rounded to bfloat16 and multiplied in pairs. With m of 2 that costs about
1.6 times the error of a direct convolution of such numbers; with m of 4 it would be ten times.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from engine.cpu.builder import I1, I64, Builder, Number, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.panels import Panels, pack_panels, whole_pairs
from engine.cpu.kernels.tile import Sum, Tile, emit_epilogue, emit_tile
from engine.cpu.kernels.winograd_transforms import PIXELS, RESULTS, WEIGHTS, both_ways
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.types import Dim, ceildiv

PACKED_AT_ONCE = 32  # channels


@dataclass(frozen=True)
class WinogradSchedule:
    """How the work is cut. Results do not depend on it.

    Attributes:
        block: Tiles of one task; tiles of all pictures are counted through.
        rows: Tiles in one register tile of the products.
        group: Panels of filters of one task; the pixels are transformed once per group.
        ahead: Bytes of the next panel to ask for per step of a product.
    """

    block: int
    rows: int
    group: int
    ahead: int = 0


@dataclass(frozen=True)
class Winograd(Kernel):
    """y = epilogue(conv(x, 3 x 3 weights, stride 1, padding 1) + bias, further operands).

    operands: y, x, transformed weights (`pack_winograd`), bias, further operands. numbers:
    pictures. Tasks: `tasks`.

    Attributes:
        x: The input, of whole vectors, with a border.
        y: The result, of the same height and width.
        m: Results of a tile in each direction, 2 or 4.
        schedule: How the work is cut.
        epilogue: Expression as text, or "".
        extras: Further operands of the expression: pictures like y, or None for a number per
            filter.
        dtype: What is multiplied: FLOAT32, or BFLOAT16, to which transformed pixels are rounded.
    """

    x: ImageLayout
    y: ImageLayout
    m: int
    schedule: WinogradSchedule
    epilogue: str = ""
    extras: tuple[ImageLayout | None, ...] = ()
    dtype: DType = DType.FLOAT32

    @property
    def terms(self) -> int:
        """Channels that are multiplied."""
        return whole_pairs(self.x.channels, self.dtype)

    @property
    def places(self) -> int:
        """Products per tile, channel and filter."""
        return (self.m + 2) ** 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.y.height // self.m), -(-self.y.width // self.m)

    @property
    def tiles(self) -> int:
        """Tiles of one picture."""
        return self.grid[0] * self.grid[1]

    def shares(self, target: Target) -> int:
        """Return into how many groups of panels the filters are cut."""
        return -(-Panels.of(self.y.held, target).count // self.schedule.group)

    def tasks(self, pictures: Dim, target: Target) -> Dim:
        """Return how many tasks there are for so many pictures."""
        return ceildiv(pictures * self.tiles, self.schedule.block) * self.shares(target)

    def scratch_bytes(self, target: Target) -> int:
        """A block's transformed pixels and sums, and zeros that sums begin at."""
        pixels, sums = self.strides(target)
        return self.places * (pixels * self.dtype.itemsize + sums * 4) + target.tile_columns * 4

    def strides(self, target: Target) -> tuple[int, int]:
        """Return elements from one place's pixels to the next's, and from sums to sums.

        A line more than needed: equal places of all of them would meet in one set of the cache.
        """
        plan = self.schedule
        tiles = -(-plan.block // plan.rows) * plan.rows
        columns = min(plan.group * target.tile_columns, self.y.held)
        line = 64 // self.dtype.itemsize
        return tiles * self.x_pitch(target) + line, tiles * columns + 16

    def x_pitch(self, target: Target) -> int:
        """Return elements from one tile's transformed pixels to the next's."""
        return target.whole_vectors(self.x.channels)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """The three stages, block by block."""
        _WinogradEmitter(self, module, name, target).emit()


def pack_winograd(
    weights: np.ndarray,
    m: int,
    columns: int,
    group: int,
    target: Target,
    dtype: DType = DType.FLOAT32,
) -> np.ndarray:
    """Return (filters, channels, 3, 3) weights transformed.

    Order: groups of panels, places, panels, channels, filters.
    """
    g = np.array(WEIGHTS[m])
    both = np.kron(g, g)  # (places, 9)
    filters, channels = weights.shape[:2]
    taps = weights.reshape(filters, channels, 9)
    wide = np.zeros((len(both), channels, columns), np.float32)
    for k in range(0, channels, PACKED_AT_ONCE):  # what is moved about stays in the cache
        some = np.ascontiguousarray(taps[:, k : k + PACKED_AT_ONCE])
        turned = np.ascontiguousarray(some.reshape(filters, -1).T, np.float64)  # (c * 9, filters)
        made = both @ turned.reshape(-1, 9, filters)  # (c, places, filters)
        wide[:, k : k + PACKED_AT_ONCE, :filters] = made.transpose(1, 0, 2)
    step = group * target.tile_columns
    pieces = []
    for first in range(0, columns, step):
        part = wide[:, :, first : first + step]
        panels = Panels.of(part.shape[2], target)
        pieces += [pack_panels(place, panels, dtype) for place in part]
    return np.concatenate(pieces)


class _WinogradEmitter:
    """Writes one kernel."""

    def __init__(self, spec: Winograd, module: ir.Module, name: str, target: Target) -> None:
        self.spec, self.module, self.name, self.target = spec, module, name, target
        self.panels = Panels.of(spec.y.held, target)
        self.x_pitch = spec.x_pitch(target)
        self.y_pitch = min(spec.schedule.group * self.panels.width, spec.y.held)
        self.v_stride, self.m_stride = spec.strides(target)

    def emit(self) -> None:
        spec, plan, target = self.spec, self.spec.schedule, self.target
        whole = self._product(target.tile_vectors) if self.panels.whole else None
        tail = self._product(self.panels.tail_vectors) if self.panels.tail_vectors else None
        f = KernelBuilder(self.module, self.name, target)
        pointers = [f.operand(i) for i in range(4 + len(spec.extras))]
        count, shares = f.mul(f.number(0), spec.tiles), spec.shares(target)
        tasks = f.mul(f.div(f.add(count, plan.block - 1), plan.block), shares)
        v = f.scratch
        m = f.at(v, spec.places * self.v_stride, spec.dtype)
        zeros = f.at(m, spec.places * self.m_stride)
        f.clear(zeros, target.tile_columns * 4)
        with f.loop(f.low, f.high) as task:
            if spec.y.border:
                with f.loop(0, f.number(0)) as picture:
                    at = f.at_bytes(pointers[0], f.mul(picture.i, spec.y.picture_bytes))
                    clear_border(f, at, spec.y, task.i, tasks)
            block, share = f.divmod(task.i, shares)
            first = f.mul(block, plan.block)
            tiles = f.sub(f.least(f.add(first, plan.block), count), first)
            with f.loop(0, tiles) as tile:
                self._pixels(f, pointers[1], v, f.add(first, tile.i), tile.i)
            panel = f.mul(share, plan.group)
            end = f.least(f.add(panel, plan.group), self.panels.count)
            columns = f.sub(
                f.least(f.mul(end, self.panels.width), spec.y.held), f.mul(panel, self.panels.width)
            )
            w = f.at(
                pointers[2],
                f.mul(share, plan.group * self.panels.width * spec.terms * spec.places),
                spec.dtype,
            )
            with f.loop(0, spec.places) as place:
                sides = (
                    f.at(v, f.mul(place.i, self.v_stride), spec.dtype),
                    f.at(m, f.mul(place.i, self.m_stride)),
                    f.at(w, f.mul(f.mul(place.i, columns), spec.terms), spec.dtype),
                    zeros,
                )
                if whole is not None:
                    whole_panels = f.sub(f.least(end, self.panels.whole), panel)
                    with f.loop(0, whole_panels) as p:
                        self._multiply(f, whole, sides, p.i, tiles)
                if tail is not None:
                    with f.if_(f.equals(end, self.panels.count)):
                        self._multiply(f, tail, sides, f.sub(self.panels.whole, panel), tiles)
            column = f.mul(panel, self.panels.width)
            with f.loop(0, tiles) as tile:
                self._results(f, pointers, m, f.add(first, tile.i), tile.i, (column, columns))
        f.ret()

    # ------------------------------------------------------------------ products

    def _product(self, vectors: int) -> ir.Function:
        spec, rows = self.spec, range(self.spec.schedule.rows)
        tile = Tile(
            x_rows=tuple(r * self.x_pitch for r in rows),
            y_rows=tuple(r * self.y_pitch for r in rows),
            extras=(),
            vectors=vectors,
            last_lanes=self.target.lanes,
            sum=Sum(spec.terms),
            ahead=spec.schedule.ahead,
            dtype=spec.dtype,
        )
        return emit_tile(self.module, f"{self.name}.x{vectors}", self.target, tile)

    def _multiply(
        self,
        f: Builder,
        function: ir.Function,
        sides: tuple[Value, Value, Value, Value],
        panel: Number,
        tiles: Value,
    ) -> None:
        """Multiply a block's pixels of one place with one panel."""
        spec, plan, width = self.spec, self.spec.schedule, self.panels.width
        v, m, w, zeros = sides
        w = f.at(w, f.mul(panel, width * spec.terms), spec.dtype)
        following = f.at(w, width * spec.terms, spec.dtype)
        steps = spec.terms * spec.dtype.itemsize // 4
        out = f.at(m, f.mul(panel, width))
        with f.loop(0, tiles, plan.rows) as row:
            share = f.mul(f.div(row.i, plan.rows), plan.ahead * steps)
            f.call(
                function,
                f.at(v, f.mul(row.i, self.x_pitch), spec.dtype),
                f.at(out, f.mul(row.i, self.y_pitch)),
                w,
                zeros,
                zeros,
                f.at_bytes(following, share),
                I64(0),
                I1(1),
            )

    # ------------------------------------------------------------------ transforms

    def _place(self, f: Builder, tile: Value) -> tuple[Value, Value, Value]:
        """Return a tile's picture, and the row and column that it begins at."""
        picture, place = f.divmod(tile, self.spec.tiles)
        row, column = f.divmod(place, self.spec.grid[1])
        return picture, f.mul(row, self.spec.m), f.mul(column, self.spec.m)

    def _pixels(self, f: Builder, x: Value, v: Value, tile: Value, index: Value) -> None:
        """Transform the pixels of one tile, channel vector by channel vector."""
        spec, layout, size = self.spec, self.spec.x, self.spec.m + 2
        picture, top, left = self._place(f, tile)
        x = f.at(x, f.mul(picture, layout.picture), layout.dtype)
        rows = self._positions(f, top, size, layout.height, layout.row)
        columns = self._positions(f, left, size, layout.width, layout.pitch)
        base = f.at(x, f.add(rows[0], columns[0], layout.at(-1, -1)), layout.dtype)
        out = f.at(v, f.mul(index, self.x_pitch), spec.dtype)
        with f.loop(0, self.x_pitch, f.lanes, unroll=False) as channel:
            source = f.at(base, channel.i, layout.dtype)
            pixels = [
                [
                    f.load(f.at(source, f.add(row, column), layout.dtype), layout.dtype)
                    for column in [0, *columns[1:]]
                ]
                for row in [0, *rows[1:]]
            ]
            done = both_ways(f, pixels, PIXELS[spec.m])
            for i, value in enumerate(v for row in done for v in row):
                place = f.add(channel.i, i * self.v_stride)
                f.store(value, f.at(out, place, spec.dtype), spec.dtype)

    def _positions(
        self, f: Builder, first: Value, count: int, size: int, pitch: int
    ) -> list[Number]:
        """Return where the first of `count` rows (or columns) lies, and the others from there.

        What a last tile would read beyond the border is read in the border: zeros, too.
        """
        begin = f.mul(first, pitch)
        if size % self.spec.m == 0:
            return [begin, *(i * pitch for i in range(1, count))]
        last = f.sub(size + 1, first)
        return [begin, *(f.mul(f.least(i, last), pitch) for i in range(1, count))]

    def _results(
        self,
        f: Builder,
        pointers: Sequence[Value],
        m: Value,
        tile: Value,
        index: Value,
        columns: tuple[Value, Value],
    ) -> None:
        """Transform the sums of one tile back, apply the epilogue and store."""
        spec, size = self.spec, self.spec.m + 2
        first, count = columns
        picture, top, left = self._place(f, tile)
        outs: list[Value] = []
        for pointer, layout in zip(
            (pointers[0], *pointers[4:]), (spec.y, *spec.extras), strict=True
        ):
            at: Number = first
            if layout is not None:
                at = f.add(
                    first,
                    f.mul(picture, layout.picture),
                    f.mul(top, layout.row),
                    f.mul(left, layout.pitch),
                    layout.at(0, 0),
                )
            outs.append(f.at(pointer, at, DType.FLOAT32 if outs else spec.y.dtype))
        source = f.at(m, f.mul(index, self.y_pitch))
        bias = f.at(pointers[3], first)
        with f.loop(0, count, f.lanes, unroll=False) as channel:
            sums = [
                [
                    f.load(f.at(source, f.add(channel.i, (i * size + j) * self.m_stride)))
                    for j in range(size)
                ]
                for i in range(size)
            ]
            done = both_ways(f, sums, RESULTS[spec.m])
            added = f.load(f.at(bias, channel.i))
            here = [
                f.at(outs[0], channel.i, spec.y.dtype),
                *(f.at(out, channel.i) for out in outs[1:]),
            ]
            for i, row in enumerate(done):
                for j, value in enumerate(row):
                    with self._inside(f, f.add(top, i), f.add(left, j), i, j):
                        self._store(f, f.b.fadd(value, added), here, i, j)

    def _inside(
        self, f: Builder, y: Value, x: Value, i: int, j: int
    ) -> AbstractContextManager[None]:
        """Run a block if a pixel is one of the picture."""
        conditions = []
        if i and self.spec.y.height % self.spec.m:
            conditions.append(f.less(y, self.spec.y.height))
        if j and self.spec.y.width % self.spec.m:
            conditions.append(f.less(x, self.spec.y.width))
        if not conditions:
            return nullcontext()
        return f.if_(conditions[0] if len(conditions) == 1 else f.b.and_(*conditions))

    def _store(self, f: Builder, value: Value, here: Sequence[Value], i: int, j: int) -> None:
        spec = self.spec
        operands = [value]
        for pointer, layout in zip(here[1:], spec.extras, strict=True):
            at = 0 if layout is None else i * layout.row + j * layout.pitch
            operands.append(f.load(f.at(pointer, at)))
        value = emit_epilogue(f, spec.epilogue, operands, spec.y.dtype)
        place = f.at(here[0], i * spec.y.row + j * spec.y.pitch, spec.y.dtype)
        f.store(value, place, spec.y.dtype)
