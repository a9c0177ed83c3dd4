"""Quantization by the range of the values themselves, found in the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import F32, I8, I32, Builder, Value, vector
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType

PIECE: Final = 1 << 14  # elements of one task
STEPS: Final = 255.0  # of the unsigned byte


@dataclass(frozen=True)
class FindRange(Kernel):
    """operands: (pieces, 2) float32, values. numbers: elements. Tasks: one per `PIECE` elements.

    Each piece's least and largest value and zero; NaN wins.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Whole vectors, then one by one."""
        f = KernelBuilder(module, name, target)
        found, values = f.operand(0), f.operand(1)
        with f.loop(f.low, f.high) as task:
            low, high = _piece(f, task.i)
            whole = f.sub(high, f.rem(f.sub(high, low), f.lanes))
            zero = f.floats(0.0)
            with f.loop(low, whole, f.lanes, carry=(zero, zero), unroll=False) as i:
                value = f.load(f.at(values, i.i))
                i.next = list(_wider(f, i.values, value, value))
            least, most = (_folded(f, part, k) for k, part in enumerate(i.result))
            with f.loop(whole, high, carry=(least, most), unroll=False) as i:
                value = f.load(f.at(values, i.i), lanes=1)
                i.next = list(_wider(f, i.values, value, value))
            place = f.at(found, f.mul(task.i, 2))
            f.store(i.result[0], place)
            f.store(i.result[1], f.at(place, 1))
        f.ret()


@dataclass(frozen=True)
class ScaleOfRange(Kernel):
    """operands: scale (float32), zero point (uint8), ranges (pieces, 2). numbers: pieces. One task.

    The scale that divides is never zero: that one is kept as it is, and 1 divides.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One by one: there are few."""
        f = KernelBuilder(module, name, target)
        scale, zero_point, ranges = (f.operand(i) for i in range(3))
        nothing = F32(0.0)
        with f.loop(f.low, f.high):
            with f.loop(0, f.number(0), carry=(nothing, nothing), unroll=False) as i:
                place = f.at(ranges, f.mul(i.i, 2))
                bounds = f.load(place, lanes=1), f.load(f.at(place, 1), lanes=1)
                i.next = list(_wider(f, i.values, *bounds))
            low, high = i.result
            step = f.b.fdiv(f.b.fsub(high, low), F32(STEPS))
            f.store(step, scale)
            shift = f.b.fdiv(f.b.fneg(low), divisor(f, step))
            shift = vmath.minimum(f, vmath.maximum(f, shift, nothing), F32(STEPS))
            rounded = f.call_intrinsic("roundeven", shift)
            f.store(f.b.trunc(f.b.fptosi(rounded, I32), I8), zero_point, DType.UINT8)
        f.ret()


@dataclass(frozen=True)
class QuantizeByRange(Kernel):
    """operands: bytes, values, scale, zero point. numbers: elements. Tasks: one per `PIECE`."""

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Whole vectors, then one by one."""
        f = KernelBuilder(module, name, target)
        to, values = f.operand(0), f.operand(1)
        by = divisor(f, f.load(f.operand(2), lanes=1))
        zero = f.b.uitofp(f.load(f.operand(3), DType.UINT8, 1), F32)
        with f.loop(f.low, f.high) as task:
            low, high = _piece(f, task.i)
            whole = f.sub(high, f.rem(f.sub(high, low), f.lanes))
            for begin, end, lanes in ((low, whole, f.lanes), (whole, high, 1)):
                with f.loop(begin, end, lanes, unroll=False) as i:
                    value = f.load(f.at(values, i.i), lanes=lanes)
                    byte = _quantized(f, value, f.splat(by, lanes), f.splat(zero, lanes), lanes)
                    f.store(byte, f.at_bytes(to, i.i), DType.UINT8)
        f.ret()


def divisor(f: Builder, step: Value) -> Value:
    """Return what values are divided by."""
    return f.choose(f.b.fcmp_ordered("==", step, F32(0.0)), F32(1.0), step)


@dataclass(frozen=True)
class SumsTimesZero(Kernel):
    """operands: begin (int32), sums of columns (int32), zero point (a byte). numbers: columns.

    begin = -(zero + lift) * sums: what sums of products begin at. One task.

    Attributes:
        signed: Whether the zero point is signed.
        lift: What kernels take the left side higher by.
    """

    signed: bool
    lift: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Whole vectors: columns are padded."""
        f = KernelBuilder(module, name, target)
        begin, sums = f.operand(0), f.operand(1)
        byte = f.load(f.operand(2), DType.UINT8, 1)
        zero = f.b.sext(byte, I32) if self.signed else f.b.zext(byte, I32)
        factor = f.splat(f.b.neg(f.b.add(zero, I32(self.lift))))
        with f.loop(f.low, f.high), f.loop(0, f.number(0), f.lanes, unroll=False) as i:
            value = f.b.load(f.at(sums, i.i), typ=vector(I32, f.lanes), align=4)
            f.b.store(f.b.mul(value, factor), f.at(begin, i.i), align=4)
        f.ret()


def _piece(f: KernelBuilder, task: Value) -> tuple[Value, Value]:
    low = f.mul(task, PIECE)
    return low, f.least(f.add(low, PIECE), f.number(0))


def _wider(f: Builder, bounds: list[Value], low: Value, high: Value) -> tuple[Value, Value]:
    return vmath.minimum(f, bounds[0], low), vmath.maximum(f, bounds[1], high)


def _folded(f: Builder, value: Value, which: int) -> Value:
    """Return the least (0) or the largest (1) lane."""
    choose = vmath.maximum if which else vmath.minimum
    best = f.b.extract_element(value, I32(0))
    for lane in range(1, f.lanes):
        best = choose(f, best, f.b.extract_element(value, I32(lane)))
    return best


def _quantized(f: Builder, value: Value, by: Value, zero: Value, lanes: int) -> Value:
    whole = f.call_intrinsic("roundeven", f.b.fdiv(value, by))
    shifted = f.b.fadd(whole, zero)
    low, high = f.floats(0.0, lanes), f.floats(STEPS, lanes)
    held = f.choose(f.b.fcmp_ordered(">", shifted, low), shifted, low)
    held = f.choose(f.b.fcmp_ordered("<", held, high), held, high)
    return f.b.trunc(f.b.fptosi(held, vector(I32, lanes)), vector(I8, lanes))
