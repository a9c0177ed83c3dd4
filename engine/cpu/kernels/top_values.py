"""The k largest or smallest elements along an axis, in order, with their places.

A heap of k candidates stands where the places go: 64 bits each, the element as a whole number that
sorts alike above, its place below, so that no two are equal and of equal elements the first is the
better. Elements that are no better than the worst candidate take one comparison of vectors; at the
end the heap is sorted where it stands (heapsort: J. W. J. Williams, CACM 7, 1964).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.builder import I1, I32, I64, PTR, Builder, Number, Value, lanes_of, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType

ABREAST: Final = 4  # vectors that are compared in one turn
MOST_PLACES: Final = 1 << 31  # elements that a line may have
LOW: Final = 0xFFFFFFFF  # the half of a candidate that holds its place, counted from here down
SIGN: Final = 0x7FFFFFFF  # all bits of a float but its sign; as a whole number above all of them
# Values are moved as they are: rounding to bfloat16 again would take denormals for zero.
BITS: Final = {1: DType.UINT8, 2: DType.UINT16, 4: DType.INT32}


@dataclass(frozen=True)
class TopValues(Kernel):
    """operands: values (outer, k, inner); places, the same in int64; x (outer, axis, inner).

    numbers: k, at least 1 and at most the axis; the sizes of the axis and of the inner axes. Tasks:
    outer times inner.

    Attributes:
        dtype: Of the values, up to 32 bits wide. What is no number comes behind the infinite.
        is_largest: Whether the largest are looked for, and come first.
        has_rows: Whether there are no inner axes: a line's elements are neighbours.
    """

    dtype: DType
    is_largest: bool
    has_rows: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Build a heap, offer it all other elements, sort it, and look the values up."""
        sift = _emit_sift(module, target)
        f = KernelBuilder(module, name, target)
        keep, axis, inner = (f.number(k) for k in range(3))
        step: Number = 1 if self.has_rows else inner
        with f.loop(f.low, f.high, unroll=False) as task:
            row, column = f.divmod(task.i, inner)
            begin = f.add(f.mul(f.mul(row, keep), inner), column)
            x = f.at(f.operand(2), f.add(f.mul(f.mul(row, axis), inner), column), self.dtype)
            heap = _Heap(f, sift, f.at(f.operand(1), begin, DType.INT64), keep, step)
            line = _Line(f, self, x, step)
            with f.loop(0, keep, unroll=False) as first:
                heap.put(first.i, line.candidate(first.i))
            heap.build()
            self._offer_all(f, heap, line, keep, axis)
            heap.sort()
            self._look_up(f, heap, line, f.at(f.operand(0), begin, self.dtype))
        f.ret()

    def _offer_all(
        self, f: KernelBuilder, heap: _Heap, line: _Line, begin: Value, end: Value
    ) -> None:
        if not self.has_rows or f.lanes == 1:
            with f.loop(begin, end, unroll=False) as each:
                heap.offer(line.candidate(each.i))
            return
        lanes = f.lanes
        stride = lanes * ABREAST
        many = f.add(begin, f.mul(f.div(f.sub(end, begin), stride), stride))
        with f.loop(begin, many, stride, unroll=False) as block:
            worst = f.splat(f.b.trunc(f.b.ashr(heap.worst(), I64(32)), I32))
            starts = [f.add(block.i, k * lanes) for k in range(ABREAST)]
            keys = [line.keys(at, lanes) for at in starts]
            masks = [_bits(f, f.b.icmp_signed(">", key, worst)) for key in keys]
            some = masks[0]
            for mask in masks[1:]:
                some = f.b.or_(some, mask)
            with f.if_(f.b.icmp_unsigned("!=", some, some.type(0)), likely=False):
                for at, mask in zip(starts, masks, strict=True):
                    self._offer_some(f, heap, line, at, mask)
        with f.loop(many, end, unroll=False) as each:
            heap.offer(line.candidate(each.i))

    def _offer_some(
        self, f: KernelBuilder, heap: _Heap, line: _Line, begin: Value, mask: Value
    ) -> None:
        """Offer the elements whose bits are set."""
        bits = f.b.zext(mask, I64)
        find = f.intrinsic("llvm.cttz.i64", I64, [I64, I1])
        with f.loop(0, f.call_intrinsic("ctpop", bits), carry=[bits], unroll=False) as each:
            left = each.values[0]
            heap.offer(line.candidate(f.add(begin, f.b.call(find, [left, I1(1)]))))
            each.next = [f.b.and_(left, f.sub(left, 1))]

    def _look_up(self, f: KernelBuilder, heap: _Heap, line: _Line, values: Value) -> None:
        with f.loop(0, heap.size, unroll=False) as each:
            place = f.sub(LOW, f.b.and_(heap.get(each.i), I64(LOW)))
            heap.put(each.i, place)
            to = f.at(values, f.mul(each.i, line.step), self.dtype)
            f.store(line.element(place, BITS[self.dtype.itemsize]), to, BITS[self.dtype.itemsize])


class _Line:
    """The elements of one line, and the whole numbers that sort as they do."""

    def __init__(self, f: KernelBuilder, kernel: TopValues, x: Value, step: Number) -> None:
        self.f, self.kernel, self.x, self.step = f, kernel, x, step

    def element(self, place: Value, dtype: DType) -> Value:
        return self.f.load(self.f.at(self.x, self.f.mul(place, self.step), dtype), dtype, 1)

    def keys(self, place: Value, lanes: int) -> Value:
        """Return neighbours as 32-bit numbers; the better is the larger."""
        dtype = self.kernel.dtype
        return self._key(self.f.load(self.f.at(self.x, place, dtype), dtype, lanes))

    def candidate(self, place: Value) -> Value:
        f = self.f
        key = f.b.sext(self._key(self.element(place, self.kernel.dtype)), I64)
        return f.b.or_(f.b.shl(key, I64(32)), f.sub(LOW, place))

    def _key(self, x: Value) -> Value:
        b, dtype, lanes = self.f.b, self.kernel.dtype, lanes_of(x)
        whole = vector(I32, lanes)

        def every(number: int) -> Value:
            return self.f.integers(number, lanes)

        if dtype.is_float:
            # Both zeros are equal: adding 0 makes one of them.
            bits = b.bitcast(b.fadd(x, self.f.floats(0.0, lanes)), whole)
            negative = b.and_(b.ashr(bits, every(31)), every(SIGN))
            key = b.select(b.fcmp_unordered("uno", x, x), every(SIGN), b.xor(bits, negative))
        elif dtype is DType.UINT32:
            key = b.xor(x, every(-SIGN - 1))
        elif dtype.bits == 32:
            key = x
        else:
            key = (b.sext if dtype.is_signed else b.zext)(x, whole)
        return key if self.kernel.is_largest else b.xor(key, every(-1))


class _Heap:
    """Candidates in memory, the worst in front."""

    def __init__(
        self, f: KernelBuilder, sift: Any, memory: Value, size: Value, step: Number
    ) -> None:
        self.f, self._sift, self._memory, self.size, self._step = f, sift, memory, size, step

    def _at(self, place: Number) -> Value:
        return self.f.at(self._memory, self.f.mul(place, self._step), DType.INT64)

    def get(self, place: Number) -> Value:
        return self.f.load(self._at(place), DType.INT64, 1)

    def put(self, place: Number, candidate: Value) -> None:
        self.f.store(candidate, self._at(place), DType.INT64)

    def worst(self) -> Value:
        return self.get(0)

    def build(self) -> None:
        """Order what was put there."""
        f, half = self.f, self.f.div(self.size, 2)
        with f.loop(0, half, unroll=False) as each:
            place = f.sub(f.sub(half, 1), each.i)
            self._settle(place, self.size, self.get(place))

    def offer(self, candidate: Value) -> None:
        """Take a candidate up in place of the worst if it is better."""
        with self.f.if_(self.f.less(self.worst(), candidate), likely=False):
            self._settle(I64(0), self.size, candidate)

    def sort(self) -> None:
        """Bring the best to the front, by moving the worst behind the rest again and again."""
        f, last = self.f, self.f.sub(self.size, 1)
        with f.loop(0, last, unroll=False) as each:
            end = f.sub(last, each.i)
            moved = self.get(end)
            self.put(end, self.worst())
            self._settle(I64(0), end, moved)

    def _settle(self, hole: Value, size: Value, candidate: Value) -> None:
        self.f.call(self._sift, self._memory, hole, size, candidate, self.f.add(self._step))


def _bits(f: Builder, mask: Value) -> Value:
    return f.b.bitcast(mask, ir.IntType(f.lanes))


def _emit_sift(module: ir.Module, target: Target) -> Any:
    """Emit a function that puts a candidate into a heap, at a hole or below it."""
    parameters = (("heap", PTR), ("hole", I64), ("size", I64), ("candidate", I64), ("step", I64))
    f = Builder(module, "sift", parameters, target)
    b = f.b
    heap, start, size, candidate, step = (f.parameter(name) for name, _ in parameters)

    def at(place: Value) -> Value:
        return f.at(heap, f.mul(place, step), DType.INT64)

    turn, below, end = (b.append_basic_block(part) for part in ("turn", "below", "end"))
    b.branch(turn)
    b.position_at_end(turn)
    hole = b.phi(I64)
    hole.add_incoming(start, f.entry)
    left = f.add(f.mul(hole, 2), 1)
    b.cbranch(f.less(left, size), below, end)
    b.position_at_end(below)
    # Without a right child the left one stands for both.
    right = f.least(f.add(left, 1), f.sub(size, 1))
    x, y = f.load(at(left), DType.INT64, 1), f.load(at(right), DType.INT64, 1)
    is_right = f.less(y, x)
    child, worse = f.choose(is_right, right, left), f.choose(is_right, y, x)
    # Written in any case: where nothing is worse than the candidate, it comes here after all.
    sinks = f.less(worse, candidate)
    f.store(f.choose(sinks, worse, candidate), at(hole), DType.INT64)
    hole.add_incoming(child, b.block)
    done = b.append_basic_block("done")
    b.cbranch(sinks, turn, done)
    b.position_at_end(done)
    b.ret_void()
    b.position_at_end(end)
    f.store(candidate, at(hole), DType.INT64)
    return f.ret()
