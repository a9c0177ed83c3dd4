"""Slices and elements picked by index. An index out of range is told of, never followed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I8, I16, I32, I64, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType

_ELEMENTS = {1: I8, 2: I16, 4: I32, 8: I64}


@dataclass(frozen=True)
class Gather(Kernel):
    """operands: result, fault, data, indices. numbers: indices, size of the axis, bytes of a slice,
    indices per task. Tasks: outer slices times blocks of indices.

    Attributes:
        index: The indices' type.
        element: Bytes of a slice of a single element, 0 for slices of any size.
    """

    index: DType
    element: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Copy one slice per index."""
        f = KernelBuilder(module, name, target)
        result, fault, data, indices = (f.operand(k) for k in range(4))
        count, size, slice_bytes, block = (f.number(k) for k in range(4))
        blocks = f.div(f.add(count, f.sub(block, 1)), block)
        with f.loop(f.low, f.high) as task:
            outer, part = f.divmod(task.i, blocks)
            low = f.mul(part, block)
            with f.loop(low, f.least(f.add(low, block), count), unroll=False) as i:
                index = load_index(f, f.at(indices, i.i, self.index), self.index)
                with in_range(f, index, size, fault) as place:
                    to = f.add(f.mul(outer, count), i.i)
                    source = f.add(f.mul(outer, size), place)
                    if self.element:
                        copy_element(f, result, to, data, source, self.element)
                    else:
                        f.copy(
                            f.at_bytes(result, f.mul(to, slice_bytes)),
                            f.at_bytes(data, f.mul(source, slice_bytes)),
                            slice_bytes,
                        )
        f.ret()


@dataclass(frozen=True)
class GatherElements(Kernel):
    """operands: result, fault, data, indices. numbers: size of the indices' axis, size of the
    data's, elements behind the axis. Tasks: outer slices times the indices' axis.
    """

    index: DType
    element: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One element per index."""
        f = KernelBuilder(module, name, target)
        result, fault, data, indices = (f.operand(k) for k in range(4))
        count, size, inner = (f.number(k) for k in range(3))
        with f.loop(f.low, f.high) as task:
            outer = f.div(task.i, count)
            with f.loop(0, inner, unroll=False) as i:
                to = f.add(f.mul(task.i, inner), i.i)
                index = load_index(f, f.at(indices, to, self.index), self.index)
                with in_range(f, index, size, fault) as place:
                    source = f.add(f.mul(f.add(f.mul(outer, size), place), inner), i.i)
                    copy_element(f, result, to, data, source, self.element)
        f.ret()


@dataclass(frozen=True)
class GatherND(Kernel):
    """operands: result, fault, data, indices. numbers: bytes of a slice, tuples of one batch (all
    where there are no batches), then the size of each axis that the tuples index. Tasks: tuples.
    """

    index: DType
    depth: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One slice per tuple."""
        f = KernelBuilder(module, name, target)
        result, fault, data, indices = (f.operand(k) for k in range(4))
        slice_bytes, tuples = f.number(0), f.number(1)
        sizes = [f.number(2 + k) for k in range(self.depth)]
        with f.loop(f.low, f.high) as task:
            good, place = ir.Constant(ir.IntType(1), 1), f.div(task.i, tuples)
            for k, size in enumerate(sizes):
                at = f.add(f.mul(task.i, self.depth), k)
                index = load_index(f, f.at(indices, at, self.index), self.index)
                index = f.choose(f.less(index, 0), f.add(index, size), index)
                good = f.b.and_(good, f.b.icmp_unsigned("<", index, size))
                place = f.add(f.mul(place, size), index)
            with f.if_else(good) as (right, wrong):
                with right:
                    f.copy(
                        f.at_bytes(result, f.mul(task.i, slice_bytes)),
                        f.at_bytes(data, f.mul(place, slice_bytes)),
                        slice_bytes,
                    )
                with wrong:
                    f.b.store(I64(1), fault, align=8)
        f.ret()


def load_index(f: KernelBuilder, pointer: Value, dtype: DType) -> Value:
    """Return an index as an int64."""
    index = f.load(pointer, dtype, 1)
    return index if dtype is DType.INT64 else f.b.sext(index, I64)


@contextmanager
def in_range(f: KernelBuilder, index: Value, size: Value, fault: Value) -> Iterator[Value]:
    """Run the block with an index counted from the front; tell of one that is out of range."""
    place = f.choose(f.less(index, 0), f.add(index, size), index)
    with f.if_else(f.b.icmp_unsigned("<", place, size)) as (right, wrong):
        with wrong:
            f.b.store(I64(1), fault, align=8)
        with right:
            yield place


def copy_element(
    f: KernelBuilder, result: Value, to: Value, data: Value, source: Value, size: int
) -> None:
    """Copy one element of some bytes."""
    number = f.b.load(f.at_bytes(data, f.mul(source, size)), typ=_ELEMENTS[size], align=size)
    f.b.store(number, f.at_bytes(result, f.mul(to, size)), align=size)
