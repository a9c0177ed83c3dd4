"""Elementwise operators on pictures: one expression of pictures, numbers per channel, and numbers
per item and channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I1, Number, Value, vector
from engine.cpu.expressions import emit_expr
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr import Expr
from engine.ir.expr_text import read_expr

TASK: Final = 1 << 13  # elements of one task
GROUP: Final = 4  # vectors of channels of a pixel that are computed together
LONG: Final = 24  # steps of an expression from which on they are not


@dataclass(frozen=True)
class ImageOperand:
    """An argument: a picture, a picture of one pixel that stands for all, or numbers per channel.

    Attributes:
        layout: How the picture lies; None for fixed numbers.
        is_single: Whether it is one number for all channels.
    """

    layout: ImageLayout | None = None
    is_single: bool = False


@dataclass(frozen=True)
class ImageElementwise(Kernel):
    """operands: picture, then the expression's arguments. Tasks: N times `parts`.

    The expression is float32; pictures may be bfloat16.

    Attributes:
        expression: What to compute, as text.
        target: The picture that is written.
        arguments: How each argument is read.
    """

    expression: str
    target: ImageLayout
    arguments: tuple[ImageOperand, ...]

    @property
    def rows(self) -> int:
        """Rows of the picture in one task."""
        row = max(self.target.width * self.target.held, 1)
        return max(1, min(TASK // row, self.target.height))

    @property
    def parts(self) -> int:
        """Tasks of one picture."""
        return -(-self.target.height // self.rows)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Clear a share of the border, then walk runs of pixels."""
        f, layout = KernelBuilder(module, name, target), self.target
        bases = [f.operand(k) for k in range(1 + len(self.arguments))]
        with f.loop(f.low, f.high, unroll=False) as task:
            n, part = f.divmod(task.i, self.parts)
            picture = f.at(bases[0], f.mul(n, layout.picture), layout.dtype)
            clear_border(f, picture, layout, part, self.parts)
            items = [
                _picture(f, base, n, kind.layout) if kind.layout else base
                for base, kind in zip(bases[1:], self.arguments, strict=True)
            ]
            top = f.mul(part, self.rows)
            bottom = f.least(f.add(top, self.rows), layout.height)
            if self._is_flat():
                count = f.mul(f.sub(bottom, top), layout.width)
                self._run(f, picture, items, top, count)
            else:
                with f.loop(top, bottom, unroll=False) as y:
                    self._run(f, picture, items, y.i, layout.width)
        f.ret()

    def _is_flat(self) -> bool:
        """Whether pixels follow each other from row to row, everywhere."""
        layouts = [self.target, *(a.layout for a in self.arguments if a.layout)]
        return all(layout.is_flat for layout in layouts)

    def _is_picture(self, kind: ImageOperand) -> bool:
        layout = kind.layout
        size = (self.target.height, self.target.width)
        return layout is not None and (layout.height, layout.width) == size

    def _run(
        self, f: KernelBuilder, picture: Value, items: list[Value], y: Value, count: Number
    ) -> None:
        """Compute `count` pixels from the beginning of row y on."""
        starts = [self._start(f, picture, self.target, y)]
        for item, kind in zip(items, self.arguments, strict=True):
            if kind.layout and self._is_picture(kind):
                starts.append(self._start(f, item, kind.layout, y))
            else:
                starts.append(item if kind.layout is None else _first_pixel(f, item, kind.layout))
        _Run(self, f, starts, count).emit()

    def _start(self, f: KernelBuilder, picture: Value, layout: ImageLayout, y: Value) -> Value:
        return f.at(picture, f.add(f.mul(y, layout.row), layout.at(0, 0)), layout.dtype)


class _Run:
    """A run of pixels, some vectors of channels after the other."""

    def __init__(
        self, kernel: ImageElementwise, f: KernelBuilder, starts: list[Value], count: Number
    ) -> None:
        self.kernel, self.f, self.count = kernel, f, count
        self.out, *self.starts = starts
        self.expr: Expr = read_expr(kernel.expression)

    def emit(self) -> None:
        f, layout, lanes = self.f, self.kernel.target, self.f.lanes
        steps = sum(1 for _ in self.expr.walk())
        group = 1 if steps > LONG else GROUP
        whole = min(layout.channels, layout.held) // lanes
        many = whole // group * group * lanes
        if many:
            with f.loop(0, many, group * lanes, unroll=False) as c:
                self._group(c.i, [lanes] * group)
        if whole * lanes > many:
            self._group(f.add(many), [lanes] * (whole - many // lanes))
        rest = layout.channels - whole * lanes
        if rest and layout.held >= (whole + 1) * lanes:
            self._group(f.add(whole * lanes), [lanes], meaning=rest)
        elif rest:  # a thin picture
            with f.loop(whole * lanes, layout.channels, unroll=False) as c:
                self._group(c.i, [1])
        written = -(-layout.channels // lanes) * lanes
        if written < layout.held:
            with f.loop(0, self.count, unroll=False) as x:
                pixel = f.at(self.out, f.add(f.mul(x.i, layout.pitch), written), layout.dtype)
                f.clear(pixel, (layout.held - written) * layout.dtype.itemsize)

    def _group(self, channel: Value, widths: list[int], meaning: int = 0) -> None:
        """Compute neighbouring vectors of channels of every pixel; only `meaning` of them count."""
        f, kernel, lanes = self.f, self.kernel, widths[0]
        places = [f.add(channel, k * lanes) for k in range(len(widths))]
        fixed = [self._fixed(k, places, lanes) for k in range(len(kernel.arguments))]
        with f.loop(0, self.count, unroll=False) as x:
            for j, place in enumerate(places):
                args = [
                    each[j] if each is not None else self._read(k, x.i, place, lanes)
                    for k, each in enumerate(fixed)
                ]
                coarse = kernel.target.dtype is DType.BFLOAT16
                value = emit_expr(f, self.expr, args, lanes=lanes, coarse=coarse)
                if meaning:
                    mask = ir.Constant(vector(I1, lanes), [int(k < meaning) for k in range(lanes)])
                    value = f.b.select(mask, value, f.floats(0.0, lanes))
                at = f.add(f.mul(x.i, kernel.target.pitch), place)
                dtype = kernel.target.dtype
                f.store(value, f.at(self.out, at, dtype), dtype)

    def _fixed(self, k: int, places: list[Value], lanes: int) -> list[Value] | None:
        """Return the registers of an argument that is the same for every pixel."""
        f, kind = self.f, self.kernel.arguments[k]
        if kind.is_single:
            return [f.load(self.starts[k], lanes=1)] * len(places)
        if self.kernel._is_picture(kind):
            return None
        dtype = kind.layout.dtype if kind.layout else DType.FLOAT32
        return [f.load(f.at(self.starts[k], place, dtype), dtype, lanes) for place in places]

    def _read(self, k: int, x: Value, place: Value, lanes: int) -> Value:
        layout = self.kernel.arguments[k].layout
        assert layout is not None
        at = self.f.add(self.f.mul(x, layout.pitch), place)
        return self.f.load(self.f.at(self.starts[k], at, layout.dtype), layout.dtype, lanes)


def _picture(f: KernelBuilder, base: Value, n: Value, layout: ImageLayout) -> Value:
    return f.at(base, f.mul(n, layout.picture), layout.dtype)


def _first_pixel(f: KernelBuilder, picture: Value, layout: ImageLayout) -> Value:
    return f.at(picture, layout.at(0, 0), layout.dtype)
