"""Elements and slices written by index, alone or combined with what is there.

Updates of the same place come in their order, whatever the threads: a task has places of its own.
An index out of range is told of, never followed.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import combine
from engine.cpu.kernels.gather import in_range, load_index
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.target import Target
from engine.dtypes import DType

REPLACE = ""  # the update takes the place of what is there


@dataclass(frozen=True)
class ScatterElements(Kernel):
    """operands: result (outer, size, inner), which holds the data; fault; indices and updates
    (outer, count, inner).

    numbers: count, size, inner, columns of the inner axes in a task. Tasks: outer times blocks of
    columns.

    Attributes:
        index: The indices' type.
        dtype: Of the elements; where they are replaced, any of their width.
        how: "add", "mul", "max", "min", or `REPLACE`.
    """

    index: DType
    dtype: DType
    how: str = REPLACE

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Along the axis, columns innermost."""
        f, (result, fault, indices, updates) = _begin(module, name, target)
        count, size, inner, columns = (f.number(k) for k in range(4))
        blocks = f.div(f.add(inner, f.sub(columns, 1)), columns)
        with f.loop(f.low, f.high, unroll=False) as task:
            outer, block = f.divmod(task.i, blocks)
            left, right = _columns(f, block, columns, inner)
            with f.loop(0, count, unroll=False) as k:
                line = f.mul(f.add(f.mul(outer, count), k.i), inner)
                with f.loop(left, right, unroll=False) as column:
                    at = f.add(line, column.i)
                    index = load_index(f, f.at(indices, at, self.index), self.index)
                    with in_range(f, index, size, fault) as place:
                        to = f.add(f.mul(f.add(f.mul(outer, size), place), inner), column.i)
                        one = Part(I64(0), 1)
                        update = f.at(updates, at, self.dtype)
                        _update(f, self.how, self.dtype, one, f.at(result, to, self.dtype), update)
        f.ret()


@dataclass(frozen=True)
class ScatterSlices(Kernel):
    """operands: result, which holds the data; fault; indices (tuples, depth); updates (tuples,
    slice).

    numbers: elements of a slice, columns of it in a task, tuples, then the size of each axis that
    the tuples index. Tasks: blocks of columns.

    Attributes:
        index: The indices' type.
        depth: How many axes a tuple indexes.
        dtype: Of the elements; where they are replaced, any of their width.
        how: "add", "mul", "max", "min", or `REPLACE`.
    """

    index: DType
    depth: int
    dtype: DType
    how: str = REPLACE

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Every task goes through all tuples, and writes its columns of their slices."""
        f, (result, fault, indices, updates) = _begin(module, name, target)
        width, columns, tuples = (f.number(k) for k in range(3))
        sizes = [f.number(3 + k) for k in range(self.depth)]
        with f.loop(f.low, f.high, unroll=False) as task:
            left, right = _columns(f, task.i, columns, width)
            span = f.sub(right, left)
            with f.loop(0, tuples, unroll=False) as each:
                good, place = self._place(f, indices, each.i, sizes)
                with f.if_else(good) as (inside, outside):
                    with inside:
                        to = f.at(result, f.add(f.mul(place, width), left), self.dtype)
                        source = f.at(updates, f.add(f.mul(each.i, width), left), self.dtype)
                        self._slice(f, to, source, span)
                    with outside:
                        f.b.store(I64(1), fault, align=8)
        f.ret()

    def _place(
        self, f: KernelBuilder, indices: Value, number: Value, sizes: list[Value]
    ) -> tuple[Value, Value]:
        """Return whether a tuple is in range, and which slice it names."""
        good, place = ir.Constant(ir.IntType(1), 1), I64(0)
        for k, size in enumerate(sizes):
            at = f.at(indices, f.add(f.mul(number, self.depth), k), self.index)
            index = load_index(f, at, self.index)
            index = f.choose(f.less(index, 0), f.add(index, size), index)
            good = f.b.and_(good, f.b.icmp_unsigned("<", index, size))
            place = f.add(f.mul(place, size), index)
        return good, place

    def _slice(self, f: KernelBuilder, to: Value, source: Value, span: Value) -> None:
        if self.how == REPLACE:
            f.copy(to, source, f.mul(span, self.dtype.itemsize))
            return

        def update(part: Part, _: list[Value]) -> list[Value]:
            _update(f, self.how, self.dtype, part, to, source)
            return []

        each_part(f, span, (), update)


def _begin(
    module: ir.Module, name: str, target: Target
) -> tuple[KernelBuilder, tuple[Value, Value, Value, Value]]:
    """Begin a kernel that writes by index; its operands are result, fault, indices, updates."""
    f = KernelBuilder(module, name, target)
    return f, (f.operand(0), f.operand(1), f.operand(2), f.operand(3))


def _columns(f: KernelBuilder, block: Value, columns: Value, width: Value) -> tuple[Value, Value]:
    """Return the first of a block's columns, and the one behind its last."""
    left = f.mul(block, columns)
    return left, f.least(f.add(left, columns), width)


def _update(f: KernelBuilder, how: str, dtype: DType, part: Part, to: Value, source: Value) -> None:
    x = part.load(f, source, dtype)
    if how != REPLACE:
        x = combine(f, how, dtype, part.load(f, to, dtype), x)
    part.store(f, x, to, dtype)
