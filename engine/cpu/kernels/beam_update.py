"""Searches moved on by one token: candidates become beams, hypotheses, or the end.

The portable definition is `engine/generation/beams.py`; the arrays are those of
`engine/generation/state.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import llvmlite.ir as ir

from engine.cpu.builder import F32, I1, I32, I64, PTR, Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.search_records import (
    BEAMS,
    COLUMNS,
    DONE,
    EARLY,
    END_COUNT,
    ENDS,
    HOPED,
    KEEP,
    LEAST_SCORE,
    LENGTH,
    MOST,
    MOST_CANDIDATES,
    NO_TOKEN,
    SAMPLES,
    TOKEN,
    Record,
    truncated,
    widened,
)
from engine.cpu.target import Target
from engine.dtypes import DType

OPERANDS = (
    "numbers",
    "score",
    "token_at",
    "value_at",
    "history",
    "moved",
    "pool_score",
    "pool_length",
    "pool_token",
    "pool_value",
    "pool_history",
    "tokens",
    "position",
    "token",
    "value",
    "slot",
    "owner",
    "norm",
    "positions",
)


@dataclass(frozen=True)
class BeamUpdate(Kernel):
    """operands: as in `OPERANDS`, arrays of the search's state and slots; from "token" on they are
    only read. `positions` is (1,): T.

    numbers: rows. Tasks: rows; the first row of a search does all of it.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Go through the rows that begin a search."""
        f = KernelBuilder(module, name, target)
        arrays = {name: f.operand(k) for k, name in enumerate(OPERANDS)}
        memory = _Memory(f)
        with f.loop(f.low, f.high, unroll=False) as task:
            owner = f.load(f.at(arrays["owner"], task.i, DType.INT64), DType.INT64, 1)
            slot = f.load(f.at(arrays["slot"], task.i, DType.INT64), DType.INT64, 1)
            search = _Search(f, arrays, memory, task.i, owner)
            is_sampled = f.b.icmp_signed("!=", search.record[SAMPLES], I64(0))
            is_mine = f.b.and_(f.equals(owner, slot), f.b.not_(is_sampled))
            is_single = f.less(search.record[BEAMS], 2)
            with f.if_(is_mine), f.if_else(is_single) as (single, several):
                with single:
                    search.move_single()
                with several:
                    search.move_beams()
        f.ret()


class _Memory:
    """What one search needs while it moves on: a candidate is a place in these arrays.

    Attributes:
        head: The next candidate of each beam. int64
        beam, token: Of a candidate. int64
        sum, value: Its score and its token's log-probability.
        stops: Whether it does not go on. int64
        chosen: Places of the candidates that go on. int64
    """

    def __init__(self, f: KernelBuilder) -> None:
        wide, narrow = MOST_CANDIDATES * 8, MOST_CANDIDATES * 4
        self.head, self.beam, self.token = (f.stack(wide) for _ in range(3))
        self.stops, self.chosen = f.stack(wide), f.stack(wide)
        self.sum, self.value = f.stack(narrow), f.stack(narrow)


class _Search:
    """Code for one search.

    Attributes:
        first: Its first batch row.
        record: Its numbers.
        length: How many tokens it has with the new one.
    """

    def __init__(
        self,
        f: KernelBuilder,
        arrays: dict[str, Value],
        memory: _Memory,
        first: Value,
        number: Value,
    ) -> None:
        self.f, self.arrays, self.memory, self.first, self.number = f, arrays, memory, first, number
        numbers = f.at(arrays["numbers"], f.mul(number, COLUMNS), DType.INT64)
        self.record = Record(f, numbers)
        self.length = f.add(self.record[LENGTH], 1)
        self.positions = f.load(arrays["positions"], DType.INT64, 1)

    # ------------------------------------------------------------------ memory

    def _get(self, name: str, index: Number, dtype: DType = DType.FLOAT32) -> Value:
        x = self.f.load(self.f.at(self.arrays[name], index, dtype), dtype, 1)
        return widened(self.f, x) if dtype is DType.INT32 else x

    def _set(self, name: str, index: Number, x: Value, dtype: DType = DType.FLOAT32) -> None:
        f = self.f
        x = truncated(f, x) if dtype is DType.INT32 else x
        f.store(x, f.at(self.arrays[name], index, dtype), dtype)

    def _int(self, memory: Value, index: Number) -> Value:
        return self.f.load(self.f.at(memory, index, DType.INT64), DType.INT64, 1)

    def _keep(self, memory: Value, index: Number, x: Value) -> None:
        self.f.store(x, self.f.at(memory, index, DType.INT64), DType.INT64)

    def _float(self, memory: Value, index: Number) -> Value:
        return self.f.load(self.f.at(memory, index), lanes=1)

    def _row(self, beam: Number) -> Value:
        """Return the cache row of a beam."""
        return self._get("slot", self.f.add(self.first, beam), DType.INT64)

    def _cell(self, row: Value, column: Number) -> Value:
        return self.f.add(self.f.mul(row, self.positions), column)

    def _copy_history(self, to: str, to_row: Value, source: str, row: Value) -> None:
        """Copy where the tokens before the new one are."""
        f = self.f
        ends = [
            f.at(self.arrays[name], self._cell(number, 0), DType.INT32)
            for name, number in ((to, to_row), (source, row))
        ]
        f.copy(ends[0], ends[1], f.mul(self.length, 4))

    def _norm(self, length: Value) -> Value:
        """Return what a score of so many tokens is divided by."""
        columns = self.f.add(self.positions, 1)
        return self._get("norm", self.f.add(self.f.mul(self.number, columns), length))

    # ------------------------------------------------------------------ parts of both ways

    def _is_end(self, token: Value) -> Value:
        f = self.f
        pointer = f.b.inttoptr(self.record[ENDS], PTR)
        with f.loop(0, self.record[END_COUNT], carry=[I1(0)], unroll=False) as each:
            end = f.load(f.at(pointer, each.i, DType.INT32), DType.INT32, 1)
            each.next = [f.b.or_(each.values[0], f.equals(widened(f, end), token))]
        return each.result[0]

    def _append(self, beam: Number, row: Value, token: Value, value: Value) -> None:
        """Add a token to a beam, and feed it next."""
        cell = self._cell(row, self.length)
        self._set("token_at", cell, token, DType.INT32)
        self._set("value_at", cell, value)
        self._set("history", cell, row, DType.INT32)
        batch_row = self.f.add(self.first, beam)
        self._set("tokens", batch_row, token, DType.INT64)
        self._set("position", batch_row, self.length, DType.INT64)

    def _flag(self, condition: Value) -> Value:
        return self.f.b.zext(condition, I64)

    # ------------------------------------------------------------------ one beam

    def move_single(self) -> None:
        """Take the best token; without one the search is over as it was."""
        f, record = self.f, self.record
        place = f.mul(self.first, MOST_CANDIDATES)
        token, row = self._get("token", place, DType.INT32), self.number
        with f.if_else(f.less(token, 0)) as (nothing, found):
            with nothing:
                record[TOKEN], record[DONE] = I64(NO_TOKEN), I64(1)
                self._set("score", row, F32(-inf))
            with found:
                value = self._get("value", place)
                self._append(0, row, token, value)
                self._set("score", row, f.b.fadd(self._get("score", row), value))
                full = f.equals(self.length, record[MOST])
                done = f.b.or_(self._is_end(token), full)
                record[TOKEN], record[DONE] = token, self._flag(done)
                record[LENGTH] = self.length

    # ------------------------------------------------------------------ several beams

    def move_beams(self) -> None:
        """Merge the candidates of all beams; let them end, or take the beams."""
        f, record = self.f, self.record
        count = self._merge()
        self._finish_those_that_stop(count)
        running = self._choose_running(count)
        self._take_beams(running)
        best = f.choose(f.less(0, running), self._int(self.memory.chosen, 0), I64(0))
        some = f.less(0, count)
        best = f.choose(some, best, I64(0))
        token = f.choose(some, self._int(self.memory.token, best), I64(NO_TOKEN))
        record[TOKEN], record[LENGTH] = token, self.length
        record[DONE] = self._flag(self._is_done())

    def _merge(self) -> Value:
        """Put the best candidates over all beams in order; return how many there are."""
        f, memory, beams, keep = self.f, self.memory, self.record[BEAMS], self.record[KEEP]
        with f.loop(0, beams, unroll=False) as each:
            self._keep(memory.head, each.i, I64(0))
        with f.loop(0, keep, carry=[I64(0)], unroll=False) as turn:
            with f.loop(0, beams, carry=[F32(-inf), I64(0)], unroll=False) as each:
                x = self._sum(each.i, self._int(memory.head, each.i), keep)
                wins = f.b.fcmp_ordered(">", x, each.values[0])
                each.next = [
                    f.b.select(wins, x, each.values[0]),
                    f.b.select(wins, each.i, each.values[1]),
                ]
            best, beam = each.result
            lives = f.b.fcmp_ordered(">", best, F32(-inf))
            count = turn.values[0]
            with f.if_(lives):
                self._note_candidate(count, best, beam)
            turn.next = [f.add(count, self._flag(lives))]
        return turn.result[0]

    def _place(self, beam: Value, head: Value) -> Value:
        f = self.f
        return f.add(f.mul(f.add(self.first, beam), MOST_CANDIDATES), head)

    def _sum(self, beam: Value, head: Value, keep: Value) -> Value:
        """Return the score of a beam's next candidate; minus infinity if it has none."""
        f = self.f
        # A beam whose candidates are used up looks at its last again, and is then told apart.
        exists = f.less(head, keep)
        place = self._place(beam, f.least(head, f.sub(keep, 1)))
        token = self._get("token", place, DType.INT32)
        x = f.b.fadd(self._get("score", self._row(beam)), self._get("value", place))
        exists = f.b.and_(exists, f.b.not_(f.less(token, 0)))
        return f.b.select(exists, x, F32(-inf))

    def _note_candidate(self, count: Value, best: Value, beam: Value) -> None:
        f, memory = self.f, self.memory
        head = self._int(memory.head, beam)
        place = self._place(beam, head)
        token = self._get("token", place, DType.INT32)
        stops = f.b.or_(self._is_end(token), f.equals(self.length, self.record[MOST]))
        self._keep(memory.beam, count, beam)
        self._keep(memory.token, count, token)
        self._keep(memory.stops, count, self._flag(stops))
        f.store(best, f.at(memory.sum, count))
        f.store(self._get("value", place), f.at(memory.value, count))
        self._keep(memory.head, beam, f.add(head, 1))

    def _finish_those_that_stop(self, count: Value) -> None:
        f, memory = self.f, self.memory
        with f.loop(0, f.least(count, self.record[BEAMS]), unroll=False) as each:
            x = self._float(memory.sum, each.i)
            stops = f.less(0, self._int(memory.stops, each.i))
            with f.if_(f.b.and_(stops, f.b.fcmp_ordered(">", x, F32(LEAST_SCORE)))):
                score = f.b.fdiv(x, self._norm(self.length))
                worst, row = self._worst()
                with f.if_(f.b.fcmp_ordered(">", score, worst)):
                    self._become_hypothesis(each.i, score, row)

    def _worst(self) -> tuple[Value, Value]:
        """Return the score and cache row of the worst hypothesis, of equal ones the last."""
        f = self.f
        with f.loop(0, self.record[BEAMS], carry=[F32(inf), I64(0)], unroll=False) as each:
            row = self._row(each.i)
            x = self._get("pool_score", row)
            wins = f.b.fcmp_ordered("<=", x, each.values[0])
            each.next = [
                f.b.select(wins, x, each.values[0]),
                f.b.select(wins, row, each.values[1]),
            ]
        worst, row = each.result
        return worst, row

    def _become_hypothesis(self, place: Value, score: Value, row: Value) -> None:
        memory = self.memory
        self._set("pool_score", row, score)
        self._set("pool_length", row, self.length, DType.INT32)
        self._set("pool_token", row, self._int(memory.token, place), DType.INT32)
        self._set("pool_value", row, self._float(memory.value, place))
        parent = self._row(self._int(memory.beam, place))
        self._copy_history("pool_history", row, "history", parent)

    def _choose_running(self, count: Value) -> Value:
        """Note the first candidates that go on; return how many, at most as many as beams."""
        f, memory, beams = self.f, self.memory, self.record[BEAMS]
        with f.loop(0, count, carry=[I64(0)], unroll=False) as each:
            running = each.values[0]
            goes_on = f.equals(self._int(memory.stops, each.i), 0)
            goes_on = f.b.and_(goes_on, f.less(running, beams))
            with f.if_(goes_on):
                self._keep(memory.chosen, running, each.i)
            each.next = [f.add(running, self._flag(goes_on))]
        return each.result[0]

    def _take_beams(self, running: Value) -> None:
        """Let the candidates that go on take the beams; a beam without one is dead."""
        f, memory, beams = self.f, self.memory, self.record[BEAMS]

        def parent(beam: Value) -> Value:
            place = self._chosen(beam, running)
            return f.choose(f.less(beam, running), self._int(memory.beam, place), I64(0))

        for to, source in (("moved", "history"), ("history", "moved")):
            with f.loop(0, beams, unroll=False) as each:
                other = parent(each.i)
                with f.if_(f.b.not_(f.equals(other, each.i))):
                    row = self._row(each.i)
                    came = self._row(other) if to == "moved" else row
                    self._copy_history(to, row, source, came)
        filler = self._filler()
        with f.loop(0, beams, unroll=False) as each:
            alive = f.less(each.i, running)
            place = self._chosen(each.i, running)
            row = self._row(each.i)
            token = f.choose(alive, self._int(memory.token, place), filler)
            value = f.b.select(alive, self._float(memory.value, place), F32(0.0))
            self._set("score", row, f.b.select(alive, self._float(memory.sum, place), F32(-inf)))
            self._append(each.i, row, token, value)

    def _chosen(self, beam: Value, running: Value) -> Value:
        """Return the candidate of a beam; of a dead one any."""
        f = self.f
        return f.choose(f.less(beam, running), self._int(self.memory.chosen, beam), I64(0))

    def _filler(self) -> Value:
        """Return what a dead beam is fed."""
        f = self.f
        with f.loop(0, f.least(self.record[END_COUNT], 1), carry=[I32(0)], unroll=False) as each:
            pointer = f.b.inttoptr(self.record[ENDS], PTR)
            each.next = [f.load(pointer, DType.INT32, 1)]
        return widened(f, each.result[0])

    def _is_done(self) -> Value:
        f, record = self.f, self.record
        with f.loop(0, record[BEAMS], carry=[F32(inf), I1(1)], unroll=False) as each:
            row = self._row(each.i)
            x = self._get("pool_score", row)
            lower = f.b.fcmp_ordered("<", x, each.values[0])
            taken = f.less(0, self._get("pool_length", row, DType.INT32))
            each.next = [
                f.b.select(lower, x, each.values[0]),
                f.b.and_(each.values[1], taken),
            ]
        worst, full = each.result
        hoped = record[HOPED]
        hoped = f.choose(f.less(0, hoped), hoped, self.length)
        possible = f.b.fdiv(self._get("score", self._row(0)), self._norm(hoped))
        over = f.b.not_(f.b.fcmp_ordered(">", possible, worst))
        early = f.b.and_(f.less(0, record[EARLY]), full)
        return f.b.or_(f.b.or_(over, early), f.equals(self.length, record[MOST]))
