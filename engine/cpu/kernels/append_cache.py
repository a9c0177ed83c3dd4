"""New keys or values of running generations, written into the static cache that holds them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I64
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.gather import load_index
from engine.cpu.target import Target
from engine.dtypes import DType

# Each looks at all new entries: enough for some threads, few against the entries' own cost.
PARTS: Final = 8


@dataclass(frozen=True)
class AppendCache(Kernel):
    """`cache[slot[n], position[n]] = new[n]`, and what was there before elsewhere.

    operands: cache, fault, cache before, new, slot, position. numbers: rows of `new`, rows of the
    cache, positions of a row, bytes of an entry. Tasks: `PARTS` of the cache's rows. Where both
    caches are the same memory nothing but the new entries is touched.

    Attributes:
        slot: The type of the slots.
        position: That of the positions.
    """

    slot: DType
    position: DType

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Copy a range of rows if need be, then write those entries that belong into it."""
        f = KernelBuilder(module, name, target)
        rows = f.number(1)
        part = f.div(f.add(rows, PARTS - 1), PARTS)
        low, high = (f.least(f.mul(end, part), rows) for end in (f.low, f.high))
        cache, fault, before, new, slots, positions = (f.operand(k) for k in range(6))
        count, length, size = (f.number(k) for k in (0, 2, 3))
        row_bytes = f.mul(length, size)
        apart = f.b.icmp_unsigned("!=", f.b.ptrtoint(cache, I64), f.b.ptrtoint(before, I64))
        with f.if_(f.b.and_(apart, f.less(low, high))):
            begin = f.mul(low, row_bytes)
            whole = f.mul(f.sub(high, low), row_bytes)
            f.copy(f.at_bytes(cache, begin), f.at_bytes(before, begin), whole)
        with f.loop(0, count, unroll=False) as n:
            slot = load_index(f, f.at(slots, n.i, self.slot), self.slot)
            with f.if_(f.b.icmp_unsigned(">=", slot, rows)):
                f.b.store(I64(1), fault, align=8)
            with f.if_(f.b.and_(f.b.not_(f.less(slot, low)), f.less(slot, high))):
                place = load_index(f, f.at(positions, n.i, self.position), self.position)
                with f.if_else(f.b.icmp_unsigned("<", place, length)) as (right, wrong):
                    with wrong:
                        f.b.store(I64(1), fault, align=8)
                    with right:
                        to = f.add(f.mul(slot, row_bytes), f.mul(place, size))
                        f.copy(f.at_bytes(cache, to), f.at_bytes(new, f.mul(n.i, size)), size)
        f.ret()
