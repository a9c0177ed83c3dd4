"""Pooling over sliding windows of pictures: a vector of channels at a time.

Windows that lie inside the picture are unrolled; those at its edges loop over the taps that exist,
so that padding is never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, I1, Number, Value, vector
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.target import Target

UNROLLED: Final = 32  # taps of a window up to which it is unrolled


@dataclass(frozen=True)
class Taps:
    """One axis of a window."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    def bounds(self, f: KernelBuilder, place: Value, low: int, high: int) -> tuple[Value, Value]:
        """Return the first tap, and one past the last, that lie in [low, high) of the input."""
        start = f.sub(f.mul(place, self.stride), self.begin)

        def first_behind(edge: int) -> Value:
            """The first tap at or behind a place: distance over dilation, rounded up."""
            distance = f.greatest(f.sub(edge, start), 0)
            return f.least(f.div(f.add(distance, self.dilation - 1), self.dilation), self.kernel)

        return first_behind(low), first_behind(high)

    def at(self, f: KernelBuilder, place: Value, tap: Number = 0) -> Value:
        """Return where in the input a tap of a window lies."""
        moved = f.add(f.mul(place, self.stride), f.mul(tap, self.dilation))
        return f.sub(moved, self.begin)

    def inside(self, size: int, outputs: int) -> tuple[int, int]:
        """Return the range of places whose windows lie inside the input."""
        extent = (self.kernel - 1) * self.dilation + 1
        first = -(-self.begin // self.stride)
        behind = (size + self.begin - extent) // self.stride + 1
        return min(first, outputs), max(min(behind, outputs), min(first, outputs))


@dataclass(frozen=True)
class Pool(Kernel):
    """operands: picture, picture. Tasks: N times the height of the result.

    Attributes:
        target: The result.
        source: The input.
        y: The window along the height.
        x: The window along the width.
        mean: Whether the mean is wanted, else the largest value (NaN wins).
        counts_padding: Whether the mean counts the padding.
    """

    target: ImageLayout
    source: ImageLayout
    y: Taps
    x: Taps
    mean: bool
    counts_padding: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row of the result per task."""
        f = KernelBuilder(module, name, target)
        to, source = self.target, self.source
        top, bottom = self.y.inside(source.height, to.height)
        left, right = self.x.inside(source.width, to.width)
        with f.loop(f.low, f.high) as task:
            n, oy = f.divmod(task.i, to.height)
            picture = f.at(f.operand(0), f.mul(n, to.picture), to.dtype)
            clear_border(f, picture, to, oy, to.height)
            row = f.at(picture, f.add(f.mul(oy, to.row), to.at(0, 0)), to.dtype)
            offset = f.add(f.mul(n, source.picture), source.at(0, 0))
            image = f.at(f.operand(1), offset, source.dtype)
            with f.loop(0, to.width) as ox:
                pixel = _Pixel(self, f, f.at(row, f.mul(ox.i, to.pitch), to.dtype), image, oy, ox.i)
                whole = f.b.and_(_between(f, oy, top, bottom), _between(f, ox.i, left, right))
                if self.y.kernel * self.x.kernel > UNROLLED:
                    whole = I1(0)
                with f.if_else(whole) as (inside, edge):
                    with inside:
                        pixel.unrolled()
                    with edge:
                        pixel.looped()
        f.ret()


def _between(f: KernelBuilder, value: Value, low: int, high: int) -> Value:
    return f.b.and_(f.less(low - 1, value), f.less(value, high))


@dataclass(frozen=True)
class _Pixel:
    """One pixel of the result."""

    pool: Pool
    f: KernelBuilder
    to: Value
    image: Value
    oy: Value
    ox: Value

    def unrolled(self) -> None:
        """All taps exist."""
        f, pool = self.f, self.pool
        if pool.y.kernel * pool.x.kernel > UNROLLED:
            return
        origin = self._address(pool.y.at(f, self.oy), pool.x.at(f, self.ox))
        count = 1.0 / (pool.y.kernel * pool.x.kernel)

        def combine(channel: Number, lanes: int) -> Value:
            values = []
            for ky in range(pool.y.kernel):
                for kx in range(pool.x.kernel):
                    offset = ky * pool.y.dilation * pool.source.row
                    offset += kx * pool.x.dilation * pool.source.pitch
                    at = f.at(origin, f.add(channel, offset), pool.source.dtype)
                    values.append(f.load(at, pool.source.dtype, lanes))
            if pool.mean:
                return f.b.fmul(_sum(f, values), f.floats(count, lanes))
            return _largest(f, values, lanes)

        self._channels(combine)

    def looped(self) -> None:
        """Only the taps that exist."""
        f, pool = self.f, self.pool
        source = pool.source
        rows = pool.y.bounds(f, self.oy, 0, source.height)
        columns = pool.x.bounds(f, self.ox, 0, source.width)
        count = self._count(rows, columns)

        def combine(channel: Number, lanes: int) -> Value:
            start = f.floats(0.0 if pool.mean else -math.inf, lanes)
            seen = ir.Constant(vector(I1, lanes), 0 if lanes == 1 else [0] * lanes)
            with f.loop(*rows, carry=(start, seen)) as ky:
                with f.loop(*columns, carry=ky.values) as kx:
                    y, x = pool.y.at(f, self.oy, ky.i), pool.x.at(f, self.ox, kx.i)
                    at = f.at(self._address(y, x), channel, source.dtype)
                    value = f.load(at, source.dtype, lanes)
                    best, nan = kx.values
                    if pool.mean:
                        kx.next = [f.b.fadd(best, value), nan]
                    else:
                        kx.next = [_larger(f, best, value), f.b.or_(nan, _is_nan(f, value, value))]
                ky.next = kx.result
            best, nan = ky.result
            if pool.mean:
                return f.b.fdiv(best, f.splat(count, lanes))
            return f.choose(nan, f.floats(math.nan, lanes), best)

        self._channels(combine)

    def _count(self, rows: tuple[Value, Value], columns: tuple[Value, Value]) -> Value:
        """Return how many elements a mean is of: at least one, so that nothing divides by zero."""
        f, pool = self.f, self.pool
        if pool.counts_padding:
            rows = pool.y.bounds(f, self.oy, -pool.y.begin, pool.source.height + pool.y.end)
            columns = pool.x.bounds(f, self.ox, -pool.x.begin, pool.source.width + pool.x.end)
        count = f.mul(f.sub(rows[1], rows[0]), f.sub(columns[1], columns[0]))
        return f.b.sitofp(f.greatest(count, 1), F32)

    def _address(self, y: Value, x: Value) -> Value:
        source = self.pool.source
        offset = self.f.add(self.f.mul(y, source.row), self.f.mul(x, source.pitch))
        return self.f.at(self.image, offset, source.dtype)

    def _channels(self, combine: Callable[[Number, int], Value]) -> None:
        """Write all channels: whole vectors, then one by one, then zeros up to those held."""
        f, to = self.f, self.pool.target
        count = min(to.held, self.pool.source.held)
        whole = count // f.lanes * f.lanes
        for lanes, low, high in ((f.lanes, 0, whole), (1, whole, count)):
            if low < high:
                with f.loop(low, high, lanes, unroll=False) as c:
                    f.store(combine(c.i, lanes), f.at(self.to, c.i, to.dtype), to.dtype)
        if count < to.held:
            f.clear(f.at(self.to, count, to.dtype), (to.held - count) * to.dtype.itemsize)


def _sum(f: KernelBuilder, values: Sequence[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = f.b.fadd(total, value)
    return total


def _larger(f: KernelBuilder, x: Value, y: Value) -> Value:
    """One instruction; which of the two comes out for a NaN is the caller's care."""
    return f.choose(f.b.fcmp_ordered(">", x, y), x, y)


def _is_nan(f: KernelBuilder, x: Value, y: Value) -> Value:
    """Whether either is NaN."""
    return f.b.fcmp_unordered("uno", x, y)


def _largest(f: KernelBuilder, values: Sequence[Value], lanes: int) -> Value:
    best, nan = values[0], None
    for value in values[1:]:
        best = _larger(f, best, value)
    for k in range(0, len(values), 2):  # one comparison tells of two values
        pair = _is_nan(f, values[k], values[min(k + 1, len(values) - 1)])
        nan = pair if nan is None else f.b.or_(nan, pair)
    return f.choose(nan, f.floats(math.nan, lanes), best)
