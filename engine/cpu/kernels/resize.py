"""Pictures in other sizes: every pixel a weighted sum of a few others, by tables of both axes."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Number, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.target import Target


@dataclass(frozen=True)
class Resize(Kernel):
    """operands: picture, picture, places of rows, weights of rows, places of columns, weights of
    columns. Tasks: N times the height of the result.

    Places are elements from the first pixel of the input, (size of the axis, taps) int64; weights
    are float32 of the same shape.

    Attributes:
        target: The result.
        source: The input.
        rows: Rows of the input that a row of the result is made of.
        columns: Columns of the input that a column is made of.
    """

    target: ImageLayout
    source: ImageLayout
    rows: int
    columns: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of the result per task."""
        f = KernelBuilder(module, name, target)
        to, source = self.target, self.source
        with f.loop(f.low, f.high, unroll=False) as task:
            n, y = f.divmod(task.i, to.height)
            picture = f.at(f.operand(0), f.mul(n, to.picture), to.dtype)
            clear_border(f, picture, to, y, to.height)
            row = f.at(picture, f.add(f.mul(y, to.row), to.at(0, 0)), to.dtype)
            offset = f.add(f.mul(n, source.picture), source.at(0, 0))
            image = f.at(f.operand(1), offset, source.dtype)
            lines = self._taps(f, 2, y, self.rows)
            with f.loop(0, to.width, unroll=False) as x:
                places = self._taps(f, 4, x.i, self.columns)
                taps = [
                    (f.at(image, f.add(down, right), source.dtype), f.b.fmul(a, b))
                    for down, a in lines
                    for right, b in places
                ]
                self._pixel(f, f.at(row, f.mul(x.i, to.pitch), to.dtype), taps)
        f.ret()

    def _taps(
        self, f: KernelBuilder, operand: int, place: Value, count: int
    ) -> list[tuple[Value, Value]]:
        """Return where the taps of one place of an axis lie, and their weights."""
        found = []
        for k in range(count):
            index = f.add(f.mul(place, count), k)
            offset = f.b.load(f.at_bytes(f.operand(operand), f.mul(index, 8)), typ=I64, align=8)
            found.append((offset, f.load(f.at(f.operand(operand + 1), index), lanes=1)))
        return found

    def _pixel(self, f: KernelBuilder, to: Value, taps: list[tuple[Value, Value]]) -> None:
        """Write all channels: whole vectors, then one by one, then zeros up to those held."""
        layout, source = self.target, self.source
        count = min(layout.held, source.held)
        whole = count // f.lanes * f.lanes

        def weighted(channel: Number, lanes: int) -> Value:
            total = None
            for pixel, weight in taps:
                value = f.load(f.at(pixel, channel, source.dtype), source.dtype, lanes)
                if len(taps) == 1:  # the weight is 1
                    return value
                spread = f.splat(weight, lanes)
                total = f.b.fmul(value, spread) if total is None else f.fma(value, spread, total)
            return total

        for lanes, low, high in ((f.lanes, 0, whole), (1, whole, count)):
            if low < high:
                with f.loop(low, high, lanes, unroll=False) as c:
                    value = weighted(c.i, lanes)
                    f.store(value, f.at(to, c.i, layout.dtype), layout.dtype)
        if count < layout.held:
            size = (layout.held - count) * layout.dtype.itemsize
            f.clear(f.at(to, count, layout.dtype), size)
