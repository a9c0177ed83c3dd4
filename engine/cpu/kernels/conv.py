"""Convolutions of pictures as products without an unfolded input.

Rows of the register tile are pixels of the result, columns are filters. A picture has its channels
last and a border of zeros, so what a pixel sums over is a few runs of neighbouring numbers at fixed
distances, and windows of every size, stride and dilation are one tile with other constants. Tiles
are rectangles that cut the picture as evenly as possible: no pixel is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import llvmlite.ir as ir

from engine.cpu.builder import I1, I64, Number, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.amx import FULL, TILE_ROWS, begin_tiles, end_tiles, step_quads
from engine.cpu.kernels.amx_tile import TilePlan, Work, emit_block, half_work
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.tile import Sum, Tile, emit_tile
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.types import Dim, ceildiv


@dataclass(frozen=True)
class ConvSchedule:
    """How a convolution is cut. Results do not depend on it.

    Attributes:
        block: Tiles that one task works on; tiles of all pictures are counted through.
        group: Panels of weights that one task works on.
        ahead: Bytes of the next panel to ask for per step of the sum.
        weights_first: Whether neighbouring tasks work with the same weights on other tiles, not on
            the same tiles with other weights.
    """

    block: int
    group: int
    ahead: int = 0
    weights_first: bool = False


@dataclass(frozen=True)
class Cut:
    """A length cut into `parts` parts as even as possible: the first `longer` are one longer."""

    length: int
    parts: int

    @property
    def short(self) -> int:
        """Size of a shorter part."""
        return self.length // self.parts

    @property
    def longer(self) -> int:
        """How many parts are one longer."""
        return self.length % self.parts

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that occur, the larger first."""
        return (self.short + 1, self.short) if self.longer else (self.short,)


@dataclass(frozen=True)
class ImageConv(Kernel):
    """y = epilogue(conv(x, weights) + bias, further operands), picture by picture.

    operands: y, x, packed weights, bias, further operands. numbers: pictures. Tasks: `tasks`.
    Weights are panels of a matrix (kernel rows x kernel columns x channels of a group, filters of a
    group), one group after the other; bias and other numbers per filter are padded to whole panels
    within each group.

    Attributes:
        x: The input; its border is at least what the windows reach into.
        y: The result.
        kernel: Rows and columns of the window.
        strides: From one window to the next.
        dilations: From one row or column of the window to the next.
        begins: Padding above and to the left.
        schedule: How the work is cut.
        groups: Groups of channels, each with filters of its own; with several, each one's filters
            are whole vectors.
        epilogue: Expression as text, or "".
        extras: Further operands of the expression: pictures like y, or None for a number per
            filter.
        pixels: Rows and columns of the result that are computed; None for all.
        spacing: From one computed pixel of the result, and of further operands, to the next.
        clears: Whether the border of the result is cleared.
    """

    x: ImageLayout
    y: ImageLayout
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    schedule: ConvSchedule
    groups: int = 1
    epilogue: str = ""
    extras: tuple[ImageLayout | None, ...] = ()
    pixels: tuple[int, int] | None = None
    spacing: tuple[int, int] = (1, 1)
    clears: bool = True

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One function per tile shape, and the loops over blocks, panels and tiles."""
        ConvEmitter(self, module, name, target).emit()

    def step(self, target: Target) -> int:
        """Return the quads of bytes of one step on tiles (AMX); 0 where it does not take them."""
        if self.x.dtype is not DType.BFLOAT16:
            return 0
        return step_quads(target, [self.sum.run * self.x.dtype.itemsize])

    def tasks(self, pictures: Dim, target: Target) -> Dim:
        """Return how many tasks there are for so many pictures."""
        groups = self.groups * -(-self.panels(target).count // self.schedule.group)
        return ceildiv(pictures * self.tiles(target), self.schedule.block) * groups

    def panels(self, target: Target) -> Panels:
        """Return how the filters of one group are cut."""
        columns = self.y.held if self.groups == 1 else self.y.channels // self.groups
        return Panels.of(columns, target)

    def tiles(self, target: Target) -> int:
        """Return the tiles of one picture."""
        rows, columns = self.cuts(target)
        return rows.parts * columns.parts

    def cuts(self, target: Target) -> tuple[Cut, Cut]:
        """Return how the rows and columns of a result are cut into tiles."""
        if self.step(target):
            return cut_for_tiles(*self.extent)
        return cut_picture(*self.extent, target)

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns that tiles are cut from: all in one row where nothing lies between."""
        if self.is_flat:
            return 1, self.y.height * self.y.width
        return self.pixels or (self.y.height, self.y.width)

    @property
    def is_flat(self) -> bool:
        """Whether pixels map one to one, with nothing between them in any of the pictures."""
        pictures = [self.x, self.y, *(e for e in self.extras if e is not None)]
        pointwise = self.kernel == self.strides == (1, 1) and self.begins == (0, 0)
        return pointwise and self.pixels is None and all(p.is_flat for p in pictures)

    @property
    def sum(self) -> Sum:
        """What every element of the result sums over."""
        x, (rows, columns), channels = self.x, self.kernel, self.x.channels // self.groups
        row_step = self.dilations[0] * x.row
        if columns > 1 and self.dilations[1] == 1 and x.pitch == channels:
            return Sum(columns * channels, rows, row_step)  # a row of the window is one run
        if rows == 1:  # one loop less
            return Sum(channels, columns, self.dilations[1] * x.pitch)
        return Sum(channels, rows, row_step, columns, self.dilations[1] * x.pitch)


def cut_picture(height: int, width: int, target: Target) -> tuple[Cut, Cut]:
    """Return how rows and columns are cut into tiles of at most the target's rows."""
    columns = Cut(width, -(-width // target.tile_rows))
    tall = max(1, target.tile_rows // columns.sizes[0])
    return Cut(height, -(-height // tall)), columns


def cut_for_tiles(height: int, width: int) -> tuple[Cut, Cut]:
    """Return how rows and columns are cut for processors with tiles (AMX).

    A block's pixels lie in two groups, each of them in one row: a long row is cut into blocks, and
    of short ones two make a block.
    """
    columns = Cut(width, -(-width // FULL))
    return Cut(height, -(-height // (2 if width <= TILE_ROWS else 1))), columns


class ConvEmitter:
    """Writes one kernel. Kernels for other types of elements replace the tile and its operands."""

    def __init__(self, spec: ImageConv, module: ir.Module, name: str, target: Target) -> None:
        self.spec, self.module, self.name, self.target = spec, module, name, target
        self.panels = spec.panels(target)
        self.rows, self.columns = spec.cuts(target)
        self.plan: TilePlan | None = None  # of the first block on tiles, where they are taken

    @cached_property
    def pictures(self) -> list[ImageLayout | None]:
        """The layouts that tiles move over: input, result, further operands."""
        return [self.spec.x, self.spec.y, *self.spec.extras]

    def _tiles(self, vectors: int, last_lanes: int) -> list[ir.Function]:
        """Return the functions by (size of rows, size of columns)."""
        found = []
        for tall in self.rows.sizes:
            for wide in self.columns.sizes:
                pixels = [(y, x) for y in range(tall) for x in range(wide)]
                places = [
                    None if p is None else tuple(self._offset(i, y, x) for y, x in pixels)
                    for i, p in enumerate(self.pictures)
                ]
                label = f"{self.name}.{tall}x{wide}x{vectors}x{last_lanes}"
                found.append(self.tile(label, places, vectors, last_lanes))
        return found

    def tile(
        self,
        label: str,
        places: Sequence[tuple[int, ...] | None],
        vectors: int,
        last_lanes: int,
    ) -> ir.Function:
        """Write the function of a tile; `places`: of its rows in every picture."""
        assert places[0] is not None and places[1] is not None
        spec = self.spec
        tile = Tile(
            x_rows=places[0],
            y_rows=places[1],
            extras=tuple(places[2:]),
            vectors=vectors,
            last_lanes=last_lanes,
            sum=spec.sum,
            epilogue=spec.epilogue,
            ahead=spec.schedule.ahead,
            dtype=spec.x.dtype,
            y_dtype=spec.y.dtype,
        )
        if spec.step(self.target):
            return self.block(label, half_work(tile))
        return emit_tile(self.module, label, self.target, tile)

    def block(self, label: str, work: Work) -> ir.Function:
        """Write the function of a block on tiles; they stay in the shapes of the first one."""
        if self.plan is None:
            self.plan = TilePlan(self.spec.step(self.target), work.block.rows)
        return emit_block(self.module, label, self.target, work, self.plan)

    @property
    def bytes_per_column(self) -> int:
        """Bytes of packed weights for one column of a panel."""
        terms, dtype = self.spec.sum.terms, self.spec.x.dtype
        return (terms + terms % 2 if dtype is DType.BFLOAT16 else terms) * dtype.itemsize

    def arguments(
        self, f: KernelBuilder, operands: Sequence[Value], w: Value, bias: Value, ahead: Value
    ) -> Sequence[Value]:
        """Return what a tile is called with; `operands`: x, y and further ones at their places."""
        x, y, *extras = operands
        return (x, y, w, bias, bias, ahead, I64(0), I1(1), *extras)

    def _steps(self, picture: int) -> tuple[int, int]:
        """Return the elements from one row of the result, and one column, to the next."""
        layout = self.pictures[picture]
        assert layout is not None
        if self.spec.is_flat:
            return 0, layout.pitch
        if picture == 0:
            return self.spec.strides[0] * layout.row, self.spec.strides[1] * layout.pitch
        down, right = self.spec.spacing
        return down * layout.row, right * layout.pitch

    def _offset(self, picture: int, y: int, x: int) -> int:
        rows, columns = self._steps(picture)
        return y * rows + x * columns

    def _corner(self, picture: int) -> int:
        """Return where pixel (0, 0) of the result lies, or what its window begins with."""
        layout = self.pictures[picture]
        assert layout is not None
        if self.spec.is_flat:
            return 0
        above, left = self.spec.begins if picture == 0 else (0, 0)
        return layout.at(-above, -left)

    def emit(self) -> None:
        target, panels, plan = self.target, self.panels, self.spec.schedule
        whole = self._tiles(target.tile_vectors, target.lanes) if panels.whole else []
        tail = self._tiles(panels.tail_vectors, panels.tail_lanes) if panels.tail_vectors else []
        f = KernelBuilder(self.module, self.name, target)
        pointers = [f.operand(i) for i in range(4 + len(self.spec.extras))]
        count = f.mul(f.number(0), self.rows.parts * self.columns.parts)
        shares = -(-panels.count // plan.group)
        per_block = self.spec.groups * shares
        blocks = f.div(f.add(count, plan.block - 1), plan.block)
        if self.plan is not None:
            begin_tiles(f, self.plan.standing, self.plan.step)
        with f.loop(f.low, f.high) as task:
            self.clear_border(f, pointers[0], task.i, f.mul(blocks, per_block))
            if plan.weights_first:
                rest, block = f.divmod(task.i, blocks)
            else:
                block, rest = f.divmod(task.i, per_block)
            group, share = f.divmod(rest, shares)
            first = f.mul(block, plan.block)
            tiles = first, f.least(f.add(first, plan.block), count)
            panel = f.mul(share, plan.group)
            end = f.least(f.add(panel, plan.group), panels.count)
            if whole:
                with f.loop(panel, f.least(end, panels.whole)) as p:
                    self._sweep(f, pointers, whole, target.tile_vectors, (group, p.i), tiles)
            if tail:
                with f.if_(f.equals(end, panels.count)):
                    last = (group, panels.whole)
                    self._sweep(f, pointers, tail, panels.tail_vectors, last, tiles)
        if self.plan is not None:
            end_tiles(f)
        f.ret()

    def clear_border(self, f: KernelBuilder, y: Value, task: Value, tasks: Value) -> None:
        """Clear a task's share of the borders of all pictures."""
        if self.spec.y.border and self.spec.clears:
            with f.loop(0, f.number(0)) as picture:
                at = f.at_bytes(y, f.mul(picture.i, self.spec.y.picture_bytes))
                clear_border(f, at, self.spec.y, task, tasks)

    def _sweep(
        self,
        f: KernelBuilder,
        pointers: Sequence[Value],
        functions: Sequence[ir.Function],
        vectors: int,
        panel: tuple[Value, Number],
        tiles: tuple[Value, Value],
    ) -> None:
        """Call the tiles of one panel over a block of tiles."""
        spec, panels, column_bytes = self.spec, self.panels, self.bytes_per_column
        group, number = panel
        matrix = (panels.whole * panels.width + panels.tail_vectors * panels.lanes) * column_bytes
        panel_bytes = panels.width * column_bytes
        w = f.at_bytes(pointers[2], f.add(f.mul(group, matrix), f.mul(number, panel_bytes)))
        following = f.at_bytes(w, panel_bytes)
        column = f.add(f.mul(group, panels.columns), f.mul(number, panels.width))
        padded = f.add(f.mul(group, panels.padded), f.mul(number, panels.width))
        starts = [f.mul(group, spec.x.channels // spec.groups), *[column] * (1 + len(spec.extras))]
        per_picture = self.rows.parts * self.columns.parts
        with f.loop(*tiles) as tile:
            picture, place = f.divmod(tile.i, per_picture)
            corner, kind = self._place(f, place)
            steps = spec.sum.terms * spec.x.dtype.itemsize // 4
            share = f.mul(place, spec.schedule.ahead * steps)
            operands = []
            for i, layout in enumerate(self.pictures):
                pointer = pointers[(1, 0)[i] if i < 2 else i + 2]
                if layout is None:
                    operands.append(f.at(pointer, padded))
                    continue
                rows, columns = self._steps(i)
                at = f.add(
                    f.mul(picture, layout.picture),
                    f.mul(corner[0], rows),
                    f.mul(corner[1], columns),
                    starts[i],
                    self._corner(i),
                )
                operands.append(f.at(pointer, at, layout.dtype))
            bias = f.at(pointers[3], padded)
            ahead = f.at_bytes(following, share) if spec.schedule.ahead else following
            self._dispatch(f, functions, kind, self.arguments(f, operands, w, bias, ahead))

    def _place(self, f: KernelBuilder, place: Value) -> tuple[tuple[Value, Value], list[Value]]:
        """Return where a tile begins, and for both axes whether it is a shorter part."""
        tile_y, tile_x = f.divmod(place, self.columns.parts)
        starts, shorter = [], []
        for cut, i in ((self.rows, tile_y), (self.columns, tile_x)):
            starts.append(f.add(f.mul(i, cut.short), f.least(i, cut.longer)))
            if cut.longer:
                shorter.append(f.b.icmp_signed(">=", i, I64(cut.longer)))
        return (starts[0], starts[1]), shorter

    def _dispatch(
        self,
        f: KernelBuilder,
        functions: Sequence[ir.Function],
        shorter: Sequence[Value],
        arguments: Sequence[Value],
    ) -> None:
        """Call the function of the tile's shape; the second half has the first axis shorter."""
        if not shorter:
            f.call(functions[0], *arguments)
            return
        half = len(functions) // 2
        with f.if_else(shorter[0]) as (yes, no):
            with yes:
                self._dispatch(f, functions[half:], shorter[1:], arguments)
            with no:
                self._dispatch(f, functions[:half], shorter[1:], arguments)
