"""Reductions over all pixels of a picture: one number per item and channel."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Value, vector
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.folding import combine, start
from engine.cpu.kernels.reduction import Stages
from engine.cpu.target import Target
from engine.dtypes import DType

CHAINS = 4  # partial results of one task, so that additions need not wait for each other
TASK = 1 << 13  # elements of one task


@dataclass(frozen=True)
class ImageReduce(Kernel):
    """operands: picture of one pixel (or a plain (N, C) array, which lies so), picture.

    Tasks: N times `parts(target)`. Pictures may be bfloat16.

    Attributes:
        stages: What is computed, float32, without a peak.
        target: How the results lie.
        source: How the picture lies; it holds whole vectors of channels.
    """

    stages: Stages
    target: ImageLayout
    source: ImageLayout

    def vectors(self, target: Target) -> int:
        """Vectors of channels of one task."""
        pixels = max(self.source.height * self.source.width, 1)
        wanted = max(1, TASK // (pixels * target.lanes))
        return min(wanted, self._all(target), CHAINS)

    def parts(self, target: Target) -> int:
        """Tasks of one item."""
        return -(-self._all(target) // self.vectors(target))

    def _all(self, target: Target) -> int:
        return max(1, -(-self.target.channels // target.lanes))

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A few vectors of channels, summed over rows of pixels."""
        f, to, source = KernelBuilder(module, name, target), self.target, self.source
        vectors, parts, lanes = self.vectors(target), self.parts(target), target.lanes
        with f.loop(f.low, f.high, unroll=False) as task:
            n, part = f.divmod(task.i, parts)
            picture = f.at(f.operand(0), f.mul(n, to.picture), to.dtype)
            clear_border(f, picture, to, part, parts)
            out = f.at(picture, to.at(0, 0), to.dtype)
            place = f.add(f.mul(n, source.picture), source.at(0, 0))
            first = f.at(f.operand(1), place, source.dtype)
            # The last task goes back over vectors that another has, too: both write the same.
            last = self._all(target) - vectors
            channel = f.mul(f.least(f.mul(part, vectors), last), lanes)
            totals = self._totals(f, f.at(first, channel, source.dtype), vectors)
            pixels = I64(source.height * source.width)
            for k, total in enumerate(totals):
                count = f.splat(pixels)
                value = self.stages.finished(f, total, count, None, lanes)
                self._store(f, value, out, f.add(channel, k * lanes))
        f.ret()

    def _totals(self, f: KernelBuilder, first: Value, vectors: int) -> list[Value]:
        source, how = self.source, self.stages.combine
        chains = max(1, CHAINS // vectors)
        empty = [start(f, how, DType.FLOAT32, f.lanes)] * (vectors * chains)
        rows, width = source.height, source.width
        if source.is_flat:
            rows, width = 1, rows * width
        with f.loop(0, rows, carry=empty, unroll=False) as y:
            line = f.at(first, f.mul(y.i, source.row), source.dtype)
            many = width // chains * chains
            with f.loop(0, many, chains, y.values, unroll=False) as x:
                x.next = [
                    self._added(f, value, line, f.add(x.i, k // vectors), k % vectors)
                    for k, value in enumerate(x.values)
                ]
            with f.loop(many, width, carry=x.result[:vectors], unroll=False) as rest:
                rest.next = [
                    self._added(f, value, line, rest.i, k) for k, value in enumerate(rest.values)
                ]
            y.next = [*rest.result, *x.result[vectors:]]
        totals: list[Value] = y.result[:vectors]
        for k in range(vectors, len(y.result)):
            j = k % vectors
            totals[j] = combine(f, how, DType.FLOAT32, totals[j], y.result[k])
        return totals

    def _added(self, f: KernelBuilder, total: Value, line: Value, x: Value, vector: int) -> Value:
        at = f.add(f.mul(x, self.source.pitch), vector * f.lanes)
        dtype = self.source.dtype
        x = f.load(f.at(line, at, dtype), dtype)
        value = self.stages.mapped(f, x, None, f.lanes)
        return combine(f, self.stages.combine, DType.FLOAT32, total, value)

    def _store(self, f: KernelBuilder, value: Value, out: Value, channel: Value) -> None:
        """Write a vector of results; zeros behind the last channel, and no more than is held."""
        lanes, to = f.lanes, self.target
        if to.channels % lanes == 0:
            f.store(value, f.at(out, channel, to.dtype), to.dtype)
            return
        numbers = ir.Constant(vector(I64, lanes), list(range(lanes)))
        left = f.splat(f.sub(to.channels, channel))
        mask = f.b.icmp_signed("<", numbers, left)
        value = f.b.select(mask, value, f.floats(0.0))
        if to.held % lanes == 0:
            f.store(value, f.at(out, channel, to.dtype), to.dtype)
            return
        with f.loop(channel, f.least(f.add(channel, lanes), to.channels), unroll=False) as c:
            place = f.b.trunc(f.sub(c.i, channel), ir.IntType(32))
            f.store(f.b.extract_element(value, place), f.at(out, c.i, to.dtype), to.dtype)
