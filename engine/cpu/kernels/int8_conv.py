"""Convolutions of pictures of bytes.

The loops are those of `engine.cpu.kernels.conv`; sums are of integers, and the border of a picture
holds its zero point, so that a number per filter accounts for zero points everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I8, Value
from engine.cpu.kernel import KernelBuilder
from engine.cpu.kernels.amx import step_quads
from engine.cpu.kernels.amx_tile import integer_work
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.conv import ConvEmitter, ImageConv
from engine.cpu.kernels.int8_products import QUAD, packed_row_bytes
from engine.cpu.kernels.int8_tile import IntegerTile, Rows, emit_integer_tile
from engine.cpu.kernels.tile import Sum
from engine.cpu.target import Target


@dataclass(frozen=True)
class IntegerConv(ImageConv):
    """y = epilogue(conv(x, weights) + begin, further operands), picture by picture.

    operands: y, x, packed weights, begin (int32 per filter), further operands that are no scalars,
    scalars. numbers: pictures, the byte around the result. Channels of a group are padded to whole
    quads in the packed weights, pixel by pixel.

    Attributes:
        operands: What the epilogue takes after the sum: "column", "counts", "scalar", "number" or
            "picture". `extras` has an entry for each that is no scalar.
        signed: Whether x is signed. `lift` tells what it is taken higher by.
        parts: How many matrices of weights are summed, one behind the other in each panel.
    """

    operands: tuple[str, ...] = ()
    signed: bool = False
    parts: int = 1

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Like convolutions of floats, with another tile."""
        _IntegerEmitter(self, module, name, target).emit()

    def step(self, target: Target) -> int:
        """Return the quads of one step on tiles (AMX); 0 where it does not take them."""
        return step_quads(target, [self.sum.run])

    def lift(self, target: Target) -> int:
        """Return what x is taken higher by, which `begin` must follow."""
        return 128 if self.signed and not self.step(target) else 0

    @property
    def sum(self) -> Sum:
        """Runs of whole quads."""
        x, (rows, columns) = self.x, self.kernel
        channels = quads(x.channels // self.groups)
        row_step = self.dilations[0] * x.row
        if columns > 1 and self.dilations[1] == 1 and x.pitch == channels:
            return Sum(columns * channels, rows, row_step)
        if rows == 1:
            return Sum(channels, columns, self.dilations[1] * x.pitch)
        return Sum(channels, rows, row_step, columns, self.dilations[1] * x.pitch)


def quads(channels: int) -> int:
    """Return channels rounded up to whole quads."""
    return -(-channels // QUAD) * QUAD


class _IntegerEmitter(ConvEmitter):
    """Writes one kernel."""

    spec: IntegerConv

    def tile(
        self,
        label: str,
        places: Sequence[tuple[int, ...] | None],
        vectors: int,
        last_lanes: int,
    ) -> ir.Function:
        """Write the function of a tile."""
        spec = self.spec
        assert places[0] is not None and places[1] is not None
        operands: list[str | Rows] = []
        extras = iter(zip(places[2:], spec.extras, strict=True))
        for kind in spec.operands:
            if kind == "scalar":
                operands.append(kind)
                continue
            rows, layout = next(extras)
            if rows is None or layout is None:
                operands.append(kind)
            else:
                operands.append(Rows(rows, layout.dtype))
        tile = IntegerTile(
            x_rows=places[0],
            y=Rows(places[1], spec.y.dtype),
            operands=tuple(operands),
            vectors=vectors,
            last_lanes=last_lanes,
            sum=spec.sum,
            epilogue=spec.epilogue,
            signed=spec.signed,
            parts=spec.parts,
            ahead=spec.schedule.ahead,
        )
        if spec.step(self.target):
            return self.block(label, integer_work(tile))
        return emit_integer_tile(self.module, label, self.target, tile)

    @property
    def bytes_per_column(self) -> int:
        """Bytes of packed weights for one column of a panel."""
        return self.spec.parts * self.spec.sum.terms * packed_row_bytes(self.target)

    def arguments(
        self, f: KernelBuilder, operands: Sequence[Value], w: Value, bias: Value, ahead: Value
    ) -> Sequence[Value]:
        """Return what a tile is called with."""
        x, y, *extras = operands
        scalars = f.operand(4 + len(self.spec.extras))
        kinds = (kind for kind in self.spec.operands if kind != "scalar")
        for i, kind in enumerate(kinds):
            if kind == "number":
                extras[i] = f.operand(4 + i)
        return (x, y, w, bias, scalars, ahead, *extras)

    def clear_border(self, f: KernelBuilder, y: Value, task: Value, tasks: Value) -> None:
        """Write the zero point around all pictures, a task's share of it."""
        if self.spec.y.border:
            byte = f.b.trunc(f.number(1), I8) if self.spec.y.dtype.itemsize == 1 else None
            with f.loop(0, f.number(0)) as picture:
                at = f.at_bytes(y, f.mul(picture.i, self.spec.y.picture_bytes))
                clear_border(f, at, self.spec.y, task, tasks, byte)
