"""Pictures between ONNX's order (N, C, H, W) and the order of convolutions, channels last.

One task turns as many neighbouring pixels as a vector has lanes, all channels of them: squares of
numbers are turned in registers, so that both sides are read and written in vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import llvmlite.ir as ir

from engine.cpu.builder import Number, Value
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.square import shuffled, transposed
from engine.cpu.target import Target

THIN = 4  # channels of a picture up to which whole rows are interleaved instead


@dataclass(frozen=True)
class ToImage(Kernel):
    """operands: picture, float32 (N, C, H, W). Tasks: N times `parts(target)`."""

    computes: ClassVar[bool] = False
    layout: ImageLayout

    def parts(self, target: Target) -> int:
        """Return the tasks of one picture."""
        if _interleaves(self.layout):
            return self.layout.height
        return _blocks(self.layout, target.lanes)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Read `lanes` pixels of each of `lanes` channels, turn them, write pixel by pixel."""
        f, layout = KernelBuilder(module, name, target), self.layout
        pictures, planes = f.operand(0), f.operand(1)
        parts = self.parts(target)
        with f.loop(f.low, f.high) as task:
            n, part = f.divmod(task.i, parts)
            picture = f.at(pictures, f.mul(n, layout.picture), layout.dtype)
            plane = f.at(planes, f.mul(n, _plane(layout) * layout.channels))
            clear_border(f, picture, layout, part, parts)
            if _interleaves(layout):
                _interleave_row(f, layout, picture, plane, part)
            elif _pixels(layout, f.lanes) < f.lanes:
                _few_pixels(f, layout, picture, plane, to_image=True)
            else:
                _block_to_image(f, layout, picture, plane, part)
        f.ret()


@dataclass(frozen=True)
class ToPlain(Kernel):
    """operands: float32 (N, C, H, W), picture. Tasks: N times `parts(target)`."""

    computes: ClassVar[bool] = False
    layout: ImageLayout

    def parts(self, target: Target) -> int:
        """Return the tasks of one picture."""
        return _blocks(self.layout, target.lanes)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Read `lanes` channels of each of `lanes` pixels, turn them, write planes."""
        f, layout = KernelBuilder(module, name, target), self.layout
        planes, pictures = f.operand(0), f.operand(1)
        parts = self.parts(target)
        with f.loop(f.low, f.high) as task:
            n, part = f.divmod(task.i, parts)
            picture = f.at(pictures, f.mul(n, layout.picture), layout.dtype)
            plane = f.at(planes, f.mul(n, _plane(layout) * layout.channels))
            if _pixels(layout, f.lanes) < f.lanes or layout.held % f.lanes:
                _few_pixels(f, layout, picture, plane, to_image=False, part=part)
            else:
                _block_to_plain(f, layout, picture, plane, part)
        f.ret()


def _plane(layout: ImageLayout) -> int:
    return layout.height * layout.width


def _pixels(layout: ImageLayout, lanes: int) -> int:
    """Pixels of one task."""
    return min(_plane(layout), lanes)


def _blocks(layout: ImageLayout, lanes: int) -> int:
    return max(1, -(-_plane(layout) // lanes))


def _interleaves(layout: ImageLayout) -> bool:
    return layout.channels <= THIN and layout.held == layout.pitch == layout.channels


def _first_pixel(f: KernelBuilder, layout: ImageLayout, part: Value) -> Value:
    """The last block begins so that it ends with the picture; what it repeats is the same."""
    return f.least(f.mul(part, f.lanes), _plane(layout) - f.lanes)


def _places(f: KernelBuilder, layout: ImageLayout, picture: Value, first: Value) -> list[Value]:
    """Return where each pixel of a block lies."""
    places = []
    for k in range(f.lanes):
        y, x = f.divmod(f.add(first, k), layout.width)
        offset = f.add(f.mul(y, layout.row), f.mul(x, layout.pitch), layout.at(0, 0))
        places.append(f.at(picture, offset, layout.dtype))
    return places


def _block_to_image(
    f: KernelBuilder, layout: ImageLayout, picture: Value, plane: Value, part: Value
) -> None:
    first = _first_pixel(f, layout, part)
    places = _places(f, layout, picture, first)
    source = f.at(plane, first)
    pixels = _plane(layout)

    def turn(channel: Number, count: int, written: int) -> None:
        """Turn `count` channels from `channel` on; write `written`, zeros behind them."""
        rows = [
            f.load(f.at(source, f.mul(f.add(channel, k), pixels))) if k < count else f.floats(0.0)
            for k in range(f.lanes)
        ]
        for place, value in zip(places, transposed(f, rows), strict=True):
            at = f.at(place, channel, layout.dtype)
            if written == f.lanes:
                f.store(value, at, layout.dtype)
            else:
                _store_lanes(f, value, at, written, layout)

    whole = layout.channels // f.lanes * f.lanes
    if whole:
        with f.loop(0, whole, f.lanes) as c:
            turn(c.i, f.lanes, f.lanes)
    if whole < layout.held:
        turn(whole, layout.channels - whole, min(layout.held - whole, f.lanes))
    for channel in range(whole + f.lanes, layout.held, f.lanes):
        turn(channel, 0, min(layout.held - channel, f.lanes))


def _store_lanes(
    f: KernelBuilder, value: Value, at: Value, count: int, layout: ImageLayout
) -> None:
    for k in range(count):
        number = f.b.extract_element(value, ir.Constant(ir.IntType(32), k))
        f.store(number, f.at(at, k, layout.dtype), layout.dtype)


def _block_to_plain(
    f: KernelBuilder, layout: ImageLayout, picture: Value, plane: Value, part: Value
) -> None:
    first = _first_pixel(f, layout, part)
    places = _places(f, layout, picture, first)
    target = f.at(plane, first)
    pixels = _plane(layout)

    def turn(channel: Number, count: int) -> None:
        rows = [f.load(f.at(place, channel, layout.dtype), layout.dtype) for place in places]
        for k, value in enumerate(transposed(f, rows)[:count]):
            f.store(value, f.at(target, f.mul(f.add(channel, k), pixels)))

    whole = layout.channels // f.lanes * f.lanes
    if whole:
        with f.loop(0, whole, f.lanes) as c:
            turn(c.i, f.lanes)
    if whole < layout.channels:
        turn(whole, layout.channels - whole)


def _few_pixels(
    f: KernelBuilder,
    layout: ImageLayout,
    picture: Value,
    plane: Value,
    *,
    to_image: bool,
    part: Value | None = None,
) -> None:
    """Element by element, for what a square of registers does not fit."""
    pixels = _plane(layout)
    low: Number = 0 if part is None else f.mul(part, f.lanes)
    high: Number = pixels if part is None else f.least(f.add(low, f.lanes), pixels)
    with f.loop(low, high) as p:
        y, x = f.divmod(p.i, layout.width)
        offset = f.add(f.mul(y, layout.row), f.mul(x, layout.pitch), layout.at(0, 0))
        pixel = f.at(picture, offset, layout.dtype)
        with f.loop(0, layout.channels) as c:
            inside = f.at(pixel, c.i, layout.dtype)
            outside = f.at(plane, f.add(f.mul(c.i, pixels), p.i))
            if to_image:
                f.store(f.load(outside, lanes=1), inside, layout.dtype)
            else:
                f.store(f.load(inside, layout.dtype, 1), outside)
        if to_image:
            size = layout.dtype.itemsize
            rest = f.at(pixel, layout.channels, layout.dtype)
            f.clear(rest, (layout.held - layout.channels) * size)


def _interleave_row(
    f: KernelBuilder, layout: ImageLayout, picture: Value, plane: Value, y: Value
) -> None:
    """Weave the few channels of one row together."""
    width, channels, lanes = layout.width, layout.channels, f.lanes
    row = f.at(picture, f.add(f.mul(y, layout.row), layout.at(0, 0)), layout.dtype)
    source = f.at(plane, f.mul(y, width))
    whole = width // lanes * lanes
    if whole:
        with f.loop(0, whole, lanes) as x:
            lines = [f.load(f.at(source, f.add(x.i, c * _plane(layout)))) for c in range(channels)]
            for j in range(channels):
                at = f.add(f.mul(x.i, channels), j * lanes)
                f.store(woven(f, lines, j), f.at(row, at, layout.dtype), layout.dtype)
    with f.loop(whole, width) as x:
        for c in range(channels):
            number = f.load(f.at(source, f.add(x.i, c * _plane(layout))), lanes=1)
            f.store(number, f.at(row, f.add(f.mul(x.i, channels), c), layout.dtype), layout.dtype)


def woven(f: KernelBuilder, lines: list[Value], part: int) -> Value:
    """Return the `part`-th vector of the lines woven together."""
    lanes, count = f.lanes, len(lines)
    wanted = [divmod(part * lanes + lane, count) for lane in range(lanes)]  # (pixel, channel)
    value = shuffled(f, lines[0], lines[0], [pixel for pixel, _ in wanted])
    for c in range(1, count):
        picks = [
            lanes + pixel if channel == c else lane for lane, (pixel, channel) in enumerate(wanted)
        ]
        value = shuffled(f, value, lines[c], picks)
    return value
