"""Pictures of bytes: made of plain arrays, turned back, and pooled.

The border of such a picture holds the byte that stands for zero, a run-time number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import llvmlite.ir as ir

from engine.cpu.builder import I8, I32, Number, Value, vector
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.int8_products import QUAD
from engine.cpu.kernels.pooling import Taps
from engine.cpu.target import Target
from engine.dtypes import DType

UNROLLED: Final = 16  # taps of a window up to which it is unrolled


@dataclass(frozen=True)
class BytesToImage(Kernel):
    """operands: picture, bytes (N, C, H, W). numbers: byte of the border. Tasks: N times H.

    Attributes:
        layout: Of the picture.
        framed: Whether the byte of the border is a further operand instead.
    """

    computes: ClassVar[bool] = False
    layout: ImageLayout
    framed: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of pixels per task."""
        f, layout = KernelBuilder(module, name, target), self.layout
        pictures, planes = f.operand(0), f.operand(1)
        read = self.framed
        around = f.load(f.operand(2), DType.UINT8, 1) if read else f.b.trunc(f.number(0), I8)
        plane = layout.height * layout.width
        with f.loop(f.low, f.high) as task:
            n, y = f.divmod(task.i, layout.height)
            picture = f.at_bytes(pictures, f.mul(n, layout.picture))
            clear_border(f, picture, layout, y, layout.height, around)
            row = f.at_bytes(picture, f.add(f.mul(y, layout.row), layout.at(0, 0)))
            line = f.at_bytes(
                planes, f.add(f.mul(n, plane * layout.channels), f.mul(y, layout.width))
            )
            done: Number = 0
            if layout.pitch == layout.held == QUAD:
                done = _weave(f, layout, row, line)
            with f.loop(done, layout.width, unroll=False) as x:
                pixel = f.at_bytes(row, f.mul(x.i, layout.pitch))
                source = f.at_bytes(line, x.i)
                with f.loop(0, layout.channels, unroll=False) as c:
                    byte = f.load(f.at_bytes(source, f.mul(c.i, plane)), DType.UINT8, 1)
                    f.store(byte, f.at_bytes(pixel, c.i), DType.UINT8)
                f.clear(f.at_bytes(pixel, layout.channels), layout.held - layout.channels)
        f.ret()


def _weave(f: KernelBuilder, layout: ImageLayout, row: Value, line: Value) -> int:
    """Write whole vectors of pixels of up to four channels; return how many pixels are done."""
    whole, plane = layout.width // f.lanes * f.lanes, layout.height * layout.width
    kind = vector(I32, f.lanes)
    if whole:
        with f.loop(0, whole, f.lanes) as x:
            pixels = ir.Constant(kind, None)
            for c in range(layout.channels):
                at = f.at_bytes(line, f.add(x.i, c * plane))
                wide = f.b.zext(f.load(at, DType.UINT8), kind)
                pixels = f.b.or_(pixels, f.b.shl(wide, f.integers(8 * c)))
            f.b.store(pixels, f.at_bytes(row, f.mul(x.i, QUAD)), align=1)
    return whole


@dataclass(frozen=True)
class BytesToPlain(Kernel):
    """operands: bytes (N, C, H, W), picture. Tasks: N times H."""

    computes: ClassVar[bool] = False
    layout: ImageLayout

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of pixels per task."""
        f, layout = KernelBuilder(module, name, target), self.layout
        planes, pictures = f.operand(0), f.operand(1)
        plane = layout.height * layout.width
        with f.loop(f.low, f.high) as task:
            n, y = f.divmod(task.i, layout.height)
            picture = f.at_bytes(pictures, f.mul(n, layout.picture))
            row = f.at_bytes(picture, f.add(f.mul(y, layout.row), layout.at(0, 0)))
            line = f.at_bytes(
                planes, f.add(f.mul(n, plane * layout.channels), f.mul(y, layout.width))
            )
            with f.loop(0, layout.channels, unroll=False) as c:
                source, to = f.at_bytes(row, c.i), f.at_bytes(line, f.mul(c.i, plane))
                with f.loop(0, layout.width, unroll=False) as x:
                    byte = f.load(f.at_bytes(source, f.mul(x.i, layout.pitch)), DType.UINT8, 1)
                    f.store(byte, f.at_bytes(to, x.i), DType.UINT8)
        f.ret()


@dataclass(frozen=True)
class BytePool(Kernel):
    """The largest byte of each window.

    operands: picture, picture. numbers: byte of the border. Tasks: N times the height of the
    result. Padding is never read.

    Attributes:
        target: The result.
        source: The input.
        y: The window along the height.
        x: The window along the width.
    """

    target: ImageLayout
    source: ImageLayout
    y: Taps
    x: Taps

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of the result per task."""
        f, to, source = KernelBuilder(module, name, target), self.target, self.source
        around = f.b.trunc(f.number(0), I8)
        top, bottom = self.y.inside(source.height, to.height)
        left, right = self.x.inside(source.width, to.width)
        with f.loop(f.low, f.high) as task:
            n, oy = f.divmod(task.i, to.height)
            picture = f.at_bytes(f.operand(0), f.mul(n, to.picture))
            clear_border(f, picture, to, oy, to.height, around)
            row = f.at_bytes(picture, f.add(f.mul(oy, to.row), to.at(0, 0)))
            image = f.at_bytes(f.operand(1), f.add(f.mul(n, source.picture), source.at(0, 0)))
            is_inner = _between(f, oy, top, bottom)
            with f.loop(0, to.width) as ox:
                pixel = f.at_bytes(row, f.mul(ox.i, to.pitch))
                whole = f.b.and_(is_inner, _between(f, ox.i, left, right))
                with f.if_else(whole) as (inside, edge):
                    with inside:
                        self._inside(f, pixel, image, oy, ox.i)
                    with edge:
                        self._edge(f, pixel, image, oy, ox.i)
        f.ret()

    def _offset(self, f: KernelBuilder, y: Value, x: Value) -> Value:
        return f.add(f.mul(y, self.source.row), f.mul(x, self.source.pitch))

    def _inside(self, f: KernelBuilder, pixel: Value, image: Value, oy: Value, ox: Value) -> None:
        """All taps exist."""
        if self.y.kernel * self.x.kernel > UNROLLED:
            self._edge(f, pixel, image, oy, ox)
            return
        origin = f.at_bytes(image, self._offset(f, self.y.at(f, oy), self.x.at(f, ox)))

        def largest(channel: Value, lanes: int) -> Value:
            best = None
            for ky in range(self.y.kernel):
                for kx in range(self.x.kernel):
                    offset = ky * self.y.dilation * self.source.row
                    offset += kx * self.x.dilation * self.source.pitch
                    at = f.at_bytes(origin, f.add(channel, offset))
                    value = f.load(at, DType.UINT8, lanes)
                    best = value if best is None else self._larger(f, best, value)
            return best

        self._channels(f, pixel, largest)

    def _edge(self, f: KernelBuilder, pixel: Value, image: Value, oy: Value, ox: Value) -> None:
        """Only the taps that exist."""
        rows = self.y.bounds(f, oy, 0, self.source.height)
        columns = self.x.bounds(f, ox, 0, self.source.width)
        least = -128 if self.source.dtype is DType.INT8 else 0

        def largest(channel: Value, lanes: int) -> Value:
            start = f.integers(least, lanes, I8)
            with f.loop(*rows, carry=(start,)) as ky:
                with f.loop(*columns, carry=ky.values) as kx:
                    place = self._offset(f, self.y.at(f, oy, ky.i), self.x.at(f, ox, kx.i))
                    at = f.at_bytes(image, f.add(place, channel))
                    kx.next = [self._larger(f, kx.values[0], f.load(at, DType.UINT8, lanes))]
                ky.next = kx.result
            return ky.result[0]

        self._channels(f, pixel, largest)

    def _larger(self, f: KernelBuilder, x: Value, y: Value) -> Value:
        compare = f.b.icmp_signed if self.source.dtype is DType.INT8 else f.b.icmp_unsigned
        return f.choose(compare(">", x, y), x, y)

    def _channels(
        self, f: KernelBuilder, pixel: Value, largest: Callable[[Value, int], Value]
    ) -> None:
        held = self.target.held
        lanes = 4 * f.lanes if held % (4 * f.lanes) == 0 else f.lanes
        with f.loop(0, held, lanes, unroll=False) as c:
            f.store(largest(c.i, lanes), f.at_bytes(pixel, c.i), DType.UINT8)


def _between(f: KernelBuilder, value: Value, low: int, high: int) -> Value:
    return f.b.and_(f.less(low - 1, value), f.less(value, high))
