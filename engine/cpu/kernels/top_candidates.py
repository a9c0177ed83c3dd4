"""The best next tokens of each row of logits, and their log-probabilities.

The portable definition is `engine/generation/selection.py`; the arrays are those of
`engine/generation/state.py`, which also numbers the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

import llvmlite.ir as ir

from engine.cpu import vmath
from engine.cpu.builder import F32, I64, PTR, Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.folding import fold_row
from engine.cpu.kernels.rows import Part
from engine.cpu.kernels.search_records import (
    BAN_COUNT,
    BANS,
    BEAMS,
    COLUMNS,
    END_COUNT,
    ENDS,
    FIRST,
    KEEP,
    LAST,
    LEAST,
    LENGTH,
    MOST,
    MOST_CANDIDATES,
    NO_TOKEN,
    Record,
    truncated,
    widened,
)
from engine.cpu.target import Target
from engine.dtypes import DType

ABREAST: Final = 4  # vectors that are compared at once
EDIT_COLUMNS: Final = 4
PENALIZED, PENALIZED_COUNT, BANNED, BANNED_COUNT = range(EDIT_COLUMNS)


@dataclass(frozen=True)
class TopCandidates(Kernel):
    """operands: token (R, 128) int32, value (R, 128), peak (R,), log_sum (R,), logits (R, V),
    edited in place; then owner (R,), numbers (R, 16), penalty (R,), edits (R, 4), V (1,).

    numbers: rows. Tasks: rows.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Two passes over the logits for the sum, one for the candidates."""
        f = KernelBuilder(module, name, target)
        token, value, peaks, sums, logits = (f.operand(k) for k in range(5))
        owner, numbers, penalties, edits, size = (f.operand(k) for k in range(5, 10))
        width = f.load(size, DType.INT64, 1)
        with f.loop(f.low, f.high, unroll=False) as task:
            row = task.i
            number = f.load(f.at(owner, row, DType.INT64), DType.INT64, 1)
            record = Record(f, f.at(numbers, f.mul(number, COLUMNS), DType.INT64))
            line = f.at(logits, f.mul(row, width))
            peak = _largest(f, line, width)
            log_sum = vmath.log(f, _sum(f, line, width, peak))
            f.store(peak, f.at(peaks, row))
            f.store(log_sum, f.at(sums, row))
            edit = Record(f, f.at(edits, f.mul(row, EDIT_COLUMNS), DType.INT64))
            penalty = f.load(f.at(penalties, number), lanes=1)
            _penalize(f, line, edit, (peak, log_sum, penalty), f.less(1, record[BEAMS]))
            _ban(f, line, record, edit)
            places = f.mul(row, MOST_CANDIDATES)
            best = _Best(f, f.at(token, places, DType.INT32), f.at(value, places), record[KEEP])
            best.clear()
            # Where a logit is not a number, no log-probability is one.
            total = f.b.fadd(peak, log_sum)
            with f.if_(f.b.fcmp_ordered("==", f.b.fsub(total, total), F32(0.0))):
                forced = _forced(f, record)
                with f.if_else(f.less(forced, 0)) as (free, otherwise):
                    with free:
                        best.scan(line, width)
                        best.as_logarithms(peak, log_sum)
                    with otherwise:
                        best.set(0, F32(0.0), forced)
        f.ret()


def _largest(f: KernelBuilder, line: Value, width: Value) -> Value:
    def term(part: Part) -> Value:
        return part.load(f, line, DType.FLOAT32)

    return fold_row(f, width, "max", DType.FLOAT32, term, skips_nan=True)


def _sum(f: KernelBuilder, line: Value, width: Value, peak: Value) -> Value:
    """Return the sum of e ** (logit - peak)."""
    every = f.splat(peak)

    def term(part: Part) -> Value:
        x = part.load(f, line, DType.FLOAT32)
        less = f.b.fsub(x, peak if part.lanes == 1 else every)
        return vmath.exp(f, less, bounded=(False, True), flush=True)

    return fold_row(f, width, "add", DType.FLOAT32, term)


def _penalize(
    f: KernelBuilder, line: Value, edit: Record, facts: tuple[Value, ...], is_beam: Value
) -> None:
    peak, log_sum, penalty = facts
    b = f.b
    with f.loop(0, edit[PENALIZED_COUNT], unroll=False) as each:
        at = f.at(line, _listed(f, edit[PENALIZED], each.i))
        x = f.load(at, lanes=1)
        score = b.select(is_beam, b.fsub(b.fsub(x, peak), log_sum), x)
        below = b.fcmp_ordered("<", score, F32(0.0))
        score = b.select(below, b.fmul(score, penalty), b.fdiv(score, penalty))
        f.store(b.select(is_beam, b.fadd(b.fadd(score, log_sum), peak), score), at)


def _ban(f: KernelBuilder, line: Value, record: Record, edit: Record) -> None:
    early = f.less(record[LENGTH], record[LEAST])
    ends = f.choose(early, record[END_COUNT], I64(0))
    lists = [
        (edit[BANNED], edit[BANNED_COUNT]),
        (record[BANS], record[BAN_COUNT]),
        (record[ENDS], ends),
    ]
    for address, count in lists:
        with f.loop(0, count, unroll=False) as each:
            f.store(F32(-inf), f.at(line, _listed(f, address, each.i)))


def _listed(f: KernelBuilder, address: Value, index: Value) -> Value:
    """Return a token of the list at an address."""
    pointer = f.at(f.b.inttoptr(address, PTR), index, DType.INT32)
    return widened(f, f.load(pointer, DType.INT32, 1))


def _forced(f: KernelBuilder, record: Record) -> Value:
    """Return the only token that may come, or a number below 0."""
    length, last = record[LENGTH], record[LAST]
    ends_here = f.b.and_(f.equals(length, f.sub(record[MOST], 1)), f.b.not_(f.less(last, 0)))
    first = f.choose(f.equals(length, 0), record[FIRST], I64(NO_TOKEN))
    return f.choose(ends_here, last, first)


class _Best:
    """The best tokens so far, in order, in memory; of equal ones the first that came is first."""

    def __init__(self, f: KernelBuilder, token: Value, value: Value, keep: Value) -> None:
        self.f, self.token, self.value, self.keep = f, token, value, keep
        self.last = f.at(value, f.sub(keep, 1))

    def set(self, place: Number, x: Value, token: Value) -> None:
        """Write one place."""
        f = self.f
        f.store(x, f.at(self.value, place))
        f.store(truncated(f, token), f.at(self.token, place, DType.INT32), DType.INT32)

    def clear(self) -> None:
        """Begin with no token."""
        with self.f.loop(0, self.keep, unroll=False) as each:
            self.set(each.i, F32(-inf), I64(NO_TOKEN))

    def scan(self, line: Value, width: Value) -> None:
        """Look at all logits; few are above the worst that is kept, so most take a comparison."""
        f = self.f
        step = f.lanes * ABREAST
        many = f.sub(width, f.rem(width, step))
        with f.loop(0, many, step, unroll=False) as block:
            parts = [f.load(f.at(line, f.add(block.i, k * f.lanes))) for k in range(ABREAST)]
            worst = f.splat(f.load(self.last, lanes=1))
            above = [self._bits(f.b.fcmp_ordered(">", part, worst)) for part in parts]
            some = above[0]
            for bits in above[1:]:
                some = f.b.or_(some, bits)
            with f.if_(f.b.icmp_unsigned("!=", some, some.type(0)), likely=False):
                for k, bits in enumerate(above):
                    self._offer_lanes(line, f.add(block.i, k * f.lanes), bits)
        with f.loop(many, width, unroll=False) as each:
            self._offer(line, each.i)

    def _bits(self, mask: Value) -> Value:
        lanes = self.f.lanes
        return mask if lanes == 1 else self.f.b.bitcast(mask, ir.IntType(lanes))

    def _offer_lanes(self, line: Value, first: Value, mask: Value) -> None:
        """Offer those elements whose bits are set, in their order."""
        f = self.f
        bits = f.b.zext(mask, I64)
        count = f.call_intrinsic("ctpop", bits)
        find = f.intrinsic("llvm.cttz.i64", I64, [I64, ir.IntType(1)])
        with f.loop(0, count, carry=[bits], unroll=False) as each:
            left = each.values[0]
            self._offer(line, f.add(first, f.b.call(find, [left, ir.IntType(1)(1)])))
            each.next = [f.b.and_(left, f.sub(left, 1))]

    def _offer(self, line: Value, index: Value) -> None:
        """Take a logit up if it is above the worst that is kept."""
        f = self.f
        x = f.load(f.at(line, index), lanes=1)
        with f.if_(f.b.fcmp_ordered(">", x, f.load(self.last, lanes=1))):
            with f.loop(0, self.keep, carry=[I64(0)], unroll=False) as each:
                kept = f.load(f.at(self.value, each.i), lanes=1)
                stays = f.b.zext(f.b.fcmp_ordered(">=", kept, x), I64)
                # Places without a token are minus infinity, so they come after all that stay.
                each.next = [f.add(each.values[0], stays)]
            place = each.result[0]
            with f.loop(0, f.sub(f.sub(self.keep, 1), place), unroll=False) as move:
                to = f.sub(f.sub(self.keep, 1), move.i)
                token = f.load(f.at(self.token, f.sub(to, 1), DType.INT32), DType.INT32, 1)
                self.set(to, f.load(f.at(self.value, f.sub(to, 1)), lanes=1), widened(f, token))
            self.set(place, x, index)

    def as_logarithms(self, peak: Value, log_sum: Value) -> None:
        """Turn logits into log-probabilities."""
        f = self.f
        with f.loop(0, self.keep, unroll=False) as each:
            at = f.at(self.value, each.i)
            f.store(f.b.fsub(f.b.fsub(f.load(at, lanes=1), peak), log_sum), at)
