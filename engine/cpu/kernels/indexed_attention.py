"""Attention of rows of a running generation to static caches: their own past, and their source."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import llvmlite.ir as ir

from engine.cpu.builder import I64, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.gather import load_index
from engine.cpu.kernels.row_attention import RowAttention, RowHeads
from engine.cpu.target import Target
from engine.dtypes import DType


@dataclass(frozen=True)
class _RowKernel(Kernel):
    """What both kernels share."""

    heads: RowHeads

    def scratch_bytes(self, target: Target) -> int:
        """Places and scores of one block of positions."""
        return self.heads.scratch_bytes(target)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """One row and group of heads after the other."""
        f = KernelBuilder(module, name, target)
        with f.loop(f.low, f.high, unroll=False) as task:
            row, group = f.divmod(task.i, self.heads.tasks(target))
            self._emit_row(f, row, f.mul(group, self.heads.group(target)))
        f.ret()

    @abstractmethod
    def _emit_row(self, f: KernelBuilder, row: Value, head: Value) -> None:
        """Write the code of one row and the heads from `head` on."""


@dataclass(frozen=True)
class IndexedAttention(_RowKernel):
    """operands: y, fault, q, keys, values, history, slot, position, bias if any. numbers: rows of
    the caches, their positions; with a bias its elements from row to row and from head to head.
    Tasks: rows times groups of heads.

    Attributes:
        history: The type of the rows in the history.
        slot: That of the slots.
        position: That of the positions.
        bias: Whether there is one.
    """

    history: DType
    slot: DType
    position: DType
    bias: bool

    def _emit_row(self, f: KernelBuilder, row: Value, head: Value) -> None:
        rows, length = f.number(0), f.number(1)
        slot = load_index(f, f.at(f.operand(6), row, self.slot), self.slot)
        position = load_index(f, f.at(f.operand(7), row, self.position), self.position)
        good = f.b.and_(
            f.b.icmp_unsigned("<", slot, rows), f.b.icmp_unsigned("<", position, length)
        )
        past = f.at(f.operand(5), f.mul(slot, length), self.history)
        fault = f.operand(1)

        def cache_row(t: Value) -> Value:
            found = load_index(f, f.at(past, t, self.history), self.history)
            with f.if_(f.b.icmp_unsigned(">=", found, rows)):
                f.b.store(I64(1), fault, align=8)
            inside = f.choose(f.b.icmp_unsigned("<", found, rows), found, I64(0))
            return f.add(f.mul(inside, length), t)

        bias = None
        if self.bias:
            at = f.add(f.mul(row, f.number(2)), f.mul(head, f.number(3)))
            bias = f.at(f.operand(8), at), f.number(3)
        with f.if_else(good) as (right, wrong):
            with right:
                RowAttention(f, self.heads, row, head, cache_row, bias).run(f.add(position, 1))
            with wrong:
                f.b.store(I64(1), fault, align=8)


@dataclass(frozen=True)
class SourceAttention(_RowKernel):
    """operands: y, fault, q, keys, values, source, length of each source. numbers: sources,
    positions of a source. Tasks: rows times groups of heads. A source of no length gives zeros.

    Attributes:
        source: The type of the sources' numbers.
        length: That of their lengths.
    """

    source: DType
    length: DType

    def _emit_row(self, f: KernelBuilder, row: Value, head: Value) -> None:
        sources, positions = f.number(0), f.number(1)
        source = load_index(f, f.at(f.operand(5), row, self.source), self.source)
        known = f.b.icmp_unsigned("<", source, sources)
        place = f.choose(known, source, I64(0))
        count = load_index(f, f.at(f.operand(6), place, self.length), self.length)
        good = f.b.and_(known, f.b.icmp_unsigned("<=", count, positions))
        first = f.mul(source, positions)
        with f.if_else(good) as (right, wrong):
            with right:
                RowAttention(f, self.heads, row, head, lambda t: f.add(first, t), None).run(count)
            with wrong:
                f.b.store(I64(1), f.operand(1), align=8)
