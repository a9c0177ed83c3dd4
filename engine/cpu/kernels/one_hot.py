"""Ones at places named by index, zeros elsewhere (or any other two values)."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.gather import load_index
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class OneHot(Kernel):
    """operands: result (outer, depth, inner), indices (outer, inner), the values off and on.

    numbers: depth, inner. Tasks: outer.

    Attributes:
        index: The indices' type.
        dtype: Of the values; any of their width.
    """

    index: DType
    dtype: DType

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Fill a plane, then light what the indices name; one out of range lights nothing."""
        f = KernelBuilder(module, name, target)
        result, indices, values = (f.operand(k) for k in range(3))
        depth, inner = f.number(0), f.number(1)
        off = f.load(values, self.dtype, 1)
        on = f.load(f.at(values, 1, self.dtype), self.dtype, 1)
        plane = f.mul(depth, inner)
        with f.loop(f.low, f.high, unroll=False) as task:
            begin = f.at(result, f.mul(task.i, plane), self.dtype)
            with f.loop(0, plane) as each:
                f.store(off, f.at(begin, each.i, self.dtype), self.dtype)
            with f.loop(0, inner, unroll=False) as each:
                at = f.at(indices, f.add(f.mul(task.i, inner), each.i), self.index)
                index = load_index(f, at, self.index)
                index = f.choose(f.less(index, 0), f.add(index, depth), index)
                with f.if_(f.b.icmp_unsigned("<", index, depth)):
                    place = f.add(f.mul(index, inner), each.i)
                    f.store(on, f.at(begin, place, self.dtype), self.dtype)
        f.ret()
