"""Convolutions in which every channel has one filter of its own.

Lanes are channels: neighbouring results of one row (or two) stay in registers while the window
passes over what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from engine.cpu.builder import I64, PTR, Builder, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.conv import Cut
from engine.cpu.kernels.tile import emit_epilogue, is_costly
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.types import Dim

SMALL_WINDOW = 9  # taps up to which the window is written out; larger ones loop over its rows


@dataclass(frozen=True)
class DepthwiseSchedule:
    """How a depthwise convolution is cut. Results do not depend on it.

    Attributes:
        block: Rows of tiles that one task works on.
        vectors: Vectors of channels that one task works on.
    """

    block: int
    vectors: int


@dataclass(frozen=True)
class DepthwiseConv(Kernel):
    """y = epilogue(depthwise(x, weights) + bias, further operands).

    operands: y, x, weights as (vectors of channels, taps, lanes), bias, further operands. numbers:
    pictures. Tasks: `tasks`.

    Attributes:
        x: The input, of whole vectors; its border is at least what the windows reach into.
        y: The result.
        kernel: Rows and columns of the window.
        strides: From one window to the next.
        dilations: From one row or column of the window to the next.
        begins: Padding above and to the left.
        schedule: How the work is cut.
        epilogue: Expression as text, or "".
        extras: Further operands of the expression: pictures like y, or None for a number per
            channel.
    """

    x: ImageLayout
    y: ImageLayout
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    schedule: DepthwiseSchedule
    epilogue: str = ""
    extras: tuple[ImageLayout | None, ...] = ()

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One function per tile shape, and the loops over rows of tiles."""
        DepthwiseEmitter(self, module, name, target).emit()

    def tasks(self, pictures: Dim, target: Target) -> Dim:
        """Return how many tasks there are for so many pictures."""
        return pictures * self._row_blocks(target) * self._channel_groups(target)

    def _row_blocks(self, target: Target) -> int:
        return -(-self.cuts(target)[0].parts // self.schedule.block)

    def _channel_groups(self, target: Target) -> int:
        return -(-self.y.held // target.lanes // self.schedule.vectors)

    @property
    def is_small(self) -> bool:
        """Whether the window is written out."""
        return self.kernel[0] * self.kernel[1] <= SMALL_WINDOW

    def cuts(self, target: Target) -> tuple[Cut, Cut]:
        """Return how rows and columns are cut into tiles."""
        tall = 2 if self.is_small else 1
        wide = target.tile_rows // tall
        rows, columns = -(-self.y.height // tall), -(-self.y.width // wide)
        return Cut(self.y.height, rows), Cut(self.y.width, columns)


def pack_depthwise(weights: np.ndarray, lanes: int) -> np.ndarray:
    """Return weights (channels, 1, rows, columns) as (vectors of channels, taps, lanes)."""
    flat = weights.reshape(weights.shape[0], -1)
    flat = np.pad(flat, ((0, -flat.shape[0] % lanes), (0, 0)))
    return np.ascontiguousarray(flat.reshape(-1, lanes, flat.shape[1]).transpose(0, 2, 1))


class DepthwiseEmitter:
    """Writes one kernel. Kernels for other types of elements replace sums, ends and borders."""

    def __init__(self, spec: DepthwiseConv, module: ir.Module, name: str, target: Target) -> None:
        self.spec, self.module, self.name, self.target = spec, module, name, target
        self.rows, self.columns = spec.cuts(target)
        self.outs = [spec.y, *spec.extras]

    def emit(self) -> None:
        spec = self.spec
        functions = {
            (tall, wide): self._tile(tall, wide)
            for tall in self.rows.sizes
            for wide in self.columns.sizes
        }
        f = KernelBuilder(self.module, self.name, self.target)
        lanes = f.lanes
        row_blocks, groups = spec._row_blocks(self.target), spec._channel_groups(self.target)
        y, x, w, bias, *extras = [f.operand(i) for i in range(4 + len(spec.extras))]
        with f.loop(f.low, f.high) as task:
            rest, group = f.divmod(task.i, groups)
            picture, block = f.divmod(rest, row_blocks)
            y_picture = f.at_bytes(y, f.mul(picture, spec.y.picture_bytes))
            if spec.y.border:
                with f.if_(f.equals(group, 0)):
                    self.clear_border(f, y_picture, block, row_blocks)
            first = f.mul(block, spec.schedule.block)
            last = f.least(f.add(first, spec.schedule.block), self.rows.parts)
            vector = f.mul(group, spec.schedule.vectors)
            end = f.least(f.add(vector, spec.schedule.vectors), spec.y.held // lanes)
            channel = f.mul(vector, lanes)
            x_picture = f.at(x, f.add(f.mul(picture, spec.x.picture), channel), spec.x.dtype)
            places = [f.at(y_picture, channel, spec.y.dtype)]
            for pointer, layout in zip(extras, spec.extras, strict=True):
                at = channel if layout is None else f.add(f.mul(picture, layout.picture), channel)
                kind = DType.FLOAT32 if layout is None else layout.dtype
                places.append(f.at(pointer, at, kind))
            fixed = [
                f.at(w, f.mul(channel, spec.kernel[0] * spec.kernel[1])),
                f.at(bias, channel),
                f.sub(end, vector),
                *self.shared(f),
            ]
            with f.loop(first, last) as row:
                self._row(f, functions, row.i, x_picture, places, fixed)
        f.ret()

    def clear_border(self, f: KernelBuilder, picture: Value, block: Value, row_blocks: int) -> None:
        """Clear a block's share of the border of one picture."""
        clear_border(f, picture, self.spec.y, block, row_blocks)

    def shared(self, f: KernelBuilder) -> list[Value]:
        """Return further pointers that every tile gets, after the number of vectors."""
        return []

    def _row(
        self,
        f: Builder,
        functions: dict[tuple[int, int], ir.Function],
        tile_y: Value,
        x: Value,
        places: Sequence[Value],
        fixed: Sequence[Value],
    ) -> None:
        """Call the tiles of one row of tiles."""

        def run(tall: int) -> None:
            top = f.add(f.mul(tile_y, self.rows.short), f.least(tile_y, self.rows.longer))
            first = 0
            for wide in self.columns.sizes:
                is_long = wide > self.columns.short
                count = self.columns.longer if is_long else self.columns.parts - self.columns.longer
                with f.loop(0, count) as tile:
                    left = f.add(f.mul(tile.i, wide), first)
                    pointers = [self._input_at(f, x, top, left)]
                    for place, layout in zip(places, self.outs, strict=True):
                        pointers.append(
                            place if layout is None else _at(f, place, layout, top, left)
                        )
                    f.call(functions[tall, wide], *pointers, *fixed)
                first += wide * count

        if not self.rows.longer:
            run(self.rows.short)
            return
        with f.if_else(f.less(tile_y, self.rows.longer)) as (longer, shorter):
            with longer:
                run(self.rows.short + 1)
            with shorter:
                run(self.rows.short)

    def _input_at(self, f: Builder, x: Value, top: Value, left: Value) -> Value:
        layout, (down, right) = self.spec.x, self.spec.strides
        above, before = self.spec.begins
        at = f.add(
            f.mul(top, down * layout.row),
            f.mul(left, right * layout.pitch),
            layout.at(-above, -before),
        )
        return f.at(x, at, layout.dtype)

    # ------------------------------------------------------------------ one tile

    def _tile(self, tall: int, wide: int) -> ir.Function:
        """Write the function of a tile: all its vectors of channels, one after another."""
        spec = self.spec
        names = ["x", "y", *(f"e{i}" for i in range(len(spec.extras))), "w", "bias"]
        f = Builder(
            self.module,
            f"{self.name}.{tall}x{wide}",
            [*((name, PTR) for name in names), ("vectors", I64), *self.shared_names],
            self.target,
            inline=False,
            noalias=True,
        )
        taps = spec.kernel[0] * spec.kernel[1]
        with f.loop(0, f.parameter("vectors"), unroll=False) as vector:
            channel = f.mul(vector.i, f.lanes)
            x = f.at(f.parameter("x"), channel, spec.x.dtype)
            w = f.at(f.parameter("w"), f.mul(channel, taps))
            begin = [self.begin(f, f.at(f.parameter("bias"), channel))] * (tall * wide)
            sums = self._window(f, x, w, begin, tall, wide)
            self._finish(f, sums, channel, wide)
        return f.ret()

    @property
    def shared_names(self) -> list[tuple[str, ir.Type]]:
        """The parameters for what `shared` returns."""
        return []

    def begin(self, f: Builder, pointer: Value) -> Value:
        """Return what the sums of a vector of channels begin at."""
        return f.load(pointer)

    def load_input(self, f: Builder, pointer: Value) -> Value:
        """Return a vector of channels, ready to be multiplied."""
        return f.load(pointer, self.spec.x.dtype)

    def load_weights(self, f: Builder, pointer: Value) -> Value:
        """Return the weights of a vector of channels at one tap."""
        return f.load(pointer)

    def multiply_add(self, f: Builder, total: Value, x: Value, w: Value) -> Value:
        """Return a sum with one product more."""
        return f.fma(x, w, total)

    def _window(
        self, f: Builder, x: Value, w: Value, sums: list[Value], tall: int, wide: int
    ) -> list[Value]:
        spec, (rows, columns) = self.spec, self.spec.kernel
        step = spec.dilations[0] * spec.x.row
        if spec.is_small:
            return self._taps(f, x, w, sums, (tall, wide), range(rows))
        with f.loop(0, rows, carry=sums, unroll=False) as row:
            x_row = f.at(x, f.mul(row.i, step), spec.x.dtype)
            w_row = f.at(w, f.mul(row.i, columns * f.lanes))
            row.next = self._taps(f, x_row, w_row, row.values, (tall, wide), range(1))
        return row.result

    def _taps(
        self,
        f: Builder,
        x: Value,
        w: Value,
        sums: Sequence[Value],
        tile: tuple[int, int],
        rows: range,
    ) -> list[Value]:
        """Add some rows of the window to a tile; what windows share is loaded once."""
        spec, (tall, wide), done = self.spec, tile, list(sums)
        columns, layout = spec.kernel[1], spec.x
        (down, right), (apart_y, apart_x) = spec.strides, spec.dilations
        weights = {
            (ky, kx): self.load_weights(f, f.at(w, (ky * columns + kx) * f.lanes))
            for ky in rows
            for kx in range(columns)
        }
        by_row: dict[int, list[tuple[int, int]]] = {}  # row of the input: (row of the tile, tap)
        for oy in range(tall):
            for ky in rows:
                by_row.setdefault(oy * down + ky * apart_y, []).append((oy, ky))
        for y in sorted(by_row):
            loaded: dict[int, Value] = {}
            for ox in range(wide):
                for kx in range(columns):
                    q = ox * right + kx * apart_x
                    if q not in loaded:
                        at = f.at(x, y * layout.row + q * layout.pitch, layout.dtype)
                        loaded[q] = self.load_input(f, at)
                    for oy, ky in by_row[y]:
                        i = oy * wide + ox
                        done[i] = self.multiply_add(f, done[i], loaded[q], weights[ky, kx])
        return done

    def _finish(self, f: Builder, sums: Sequence[Value], channel: Value, wide: int) -> None:
        """Apply the epilogue and store: in a loop where writing it out would be long."""
        spec = self.spec
        if not is_costly(spec.epilogue):
            for i, value in enumerate(sums):
                self.finish_one(f, value, channel, [i // wide, i % wide])
            return
        memory = f.stack(len(sums) * f.lanes * 4)
        for i, value in enumerate(sums):
            f.b.store(value, f.at(memory, i * f.lanes), align=4 * f.lanes)
        with f.loop(0, len(sums), unroll=False) as turn:
            at = f.at(memory, f.mul(turn.i, f.lanes))
            value = f.b.load(at, typ=sums[0].type, align=4 * f.lanes)
            self.finish_one(f, value, channel, list(f.divmod(turn.i, wide)))

    def finish_one(self, f: Builder, value: Value, channel: Value, pixel: Sequence[Value]) -> None:
        """Apply the epilogue to one vector and store it."""
        spec, operands = self.spec, [value]
        for i, layout in enumerate(spec.extras):
            at = f.at(f.parameter(f"e{i}"), channel)
            if layout is not None:
                at = f.at(at, f.add(f.mul(pixel[0], layout.row), f.mul(pixel[1], layout.pitch)))
            operands.append(f.load(at))
        value = emit_epilogue(f, spec.epilogue, operands, spec.y.dtype)
        out = f.at(f.parameter("y"), channel, spec.y.dtype)
        at = f.add(f.mul(pixel[0], spec.y.row), f.mul(pixel[1], spec.y.pitch))
        f.store(value, f.at(out, at, spec.y.dtype), spec.y.dtype)


def _at(f: Builder, picture: Value, layout: ImageLayout, top: Value, left: Value) -> Value:
    at = f.add(f.mul(top, layout.row), f.mul(left, layout.pitch), layout.at(0, 0))
    return f.at(picture, at, layout.dtype)
