"""A program of native steps, ready to run: one contiguous table, and the call that walks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from struct import Struct
from time import perf_counter_ns
from typing import Any, Final

import numpy as np

from engine.cpu.runtime.entry import native_entry
from engine.cpu.runtime.layout import (
    MAX_OPERANDS,
    QUEUE_WORDS,
    STAMPS,
    WORD,
    ContextWord,
    GroupWord,
    Header,
    Status,
    StepWord,
    Words,
    aligned_words,
)
from engine.cpu.runtime.pool import Pool, shared_pool
from engine.cpu.runtime.walker import WALK

_NEVER: Final = int(np.iinfo(np.int64).max)
TRIALS: Final = 24  # runs of a prepared program by which its cores are chosen
SETTLED_RUNS: Final = 5000  # for which the choice holds
WORTH: Final = 0.95  # of the time on one core: more cores must save this much


@dataclass(frozen=True)
class ResolvedStep:
    """A step with all symbols replaced by numbers.

    Attributes:
        address: The kernel's function.
        operands: Per operand the number of its base, the byte offset there, and the bytes to add
            per item where the step's group runs item by item. Base 0 is the worker's own memory.
        numbers: The kernel's run-time numbers.
        tasks: How many tasks there are: of one item where the group runs item by item.
        chunk: Tasks that a worker takes at a time; 0 chooses from what is left and the gang.
        barrier: Whether all earlier steps must be done before this one begins.
    """

    address: int
    operands: tuple[tuple[int, int, int], ...]
    numbers: tuple[int, ...]
    tasks: int
    chunk: int = 0
    barrier: bool = True


@dataclass(frozen=True)
class Group:
    """Steps that run in one manner.

    Attributes:
        first: Number of the first step.
        count: How many steps.
        items: 0 shares the tasks of each step. Any other number runs all the steps item by item,
            each item on one worker, and shares only the items that do not go round; then base 0 is
            `local_bytes` of the worker's own. (Leave the group out where there may be no items.)
        local_bytes: Size of the worker's own memory.
    """

    first: int
    count: int
    items: int = 0
    local_bytes: int = 0


class CancelFlag:
    """Stops a run from any thread; give `words` to `NativeProgram.run`. One per run."""

    __slots__ = ("address", "words")

    def __init__(self) -> None:
        self.words: Words = aligned_words(1)
        self.address = int(self.words.ctypes.data)

    def set(self) -> None:
        """Make the run end before its next piece of work."""
        self.words[0] = 1


class _Context:
    """The shared words of one run at a time."""

    __slots__ = ("address", "base_buffer", "buffer", "head", "pack_bases", "words")

    def __init__(self, program: int, base_count: int, cores: int) -> None:
        queues_at = -(-(int(ContextWord.SLOTS) + cores) // QUEUE_WORDS) * QUEUE_WORDS
        bases_at = queues_at + cores * QUEUE_WORDS
        self.words = aligned_words(bases_at + base_count)
        self.address = int(self.words.ctypes.data)
        self.words[ContextWord.PROGRAM] = program
        self.words[ContextWord.QUEUES] = self.address + queues_at * WORD
        self.words[ContextWord.BASES] = self.address + bases_at * WORD
        self.buffer = self.words.data.cast("B")
        self.base_buffer = self.buffer[bases_at * WORD :]
        self.pack_bases = Struct(f"={base_count}q").pack_into


_GANG_STAMPS_CANCEL: Final = Struct("=3q").pack_into
_AT: Final = int(ContextWord.GANG) * WORD
_SLOTS_AT: Final = int(ContextWord.SLOTS) * WORD
_SLOT: Final = Struct("=q").pack_into


@cache
def _slots(count: int) -> Callable[..., None]:
    """Return what writes so many slots' addresses."""
    return Struct(f"={count}q").pack_into


class NativeProgram:
    """Steps as native code reads them. Thread-safe: every run has a context of its own.

    Attributes:
        width: How many threads can have something to do at once.
    """

    def __init__(
        self,
        steps: Sequence[ResolvedStep],
        groups: Sequence[Group] | None = None,
        scratch_bytes: int = 0,
        *,
        pool: Pool | None = None,
    ) -> None:
        """Pack the steps; `groups` cover them in order, by default as one that shares tasks.

        Raises:
            ValueError: Groups leave steps out, or a step has more operands than the loop takes.
        """
        self._groups = [Group(0, len(steps))] if groups is None else list(groups)
        _check(steps, self._groups)
        self._steps = len(steps)
        self._scratch_bytes = scratch_bytes
        self._local_bytes = max((g.local_bytes for g in self._groups), default=0)
        self._base_count = 1 + max((o[0] for s in steps for o in s.operands), default=0)
        self.width = max((_width(steps, g) for g in self._groups), default=1)
        self._table = _pack(steps, self._groups)
        self._pool = pool or shared_pool()
        self._entry = native_entry()
        self._idle: list[_Context] = []

    def run(
        self,
        bases: Sequence[int] | Words,
        threads: int,
        stamps: np.ndarray[Any, np.dtype[np.int64]] | None = None,
        cancel: CancelFlag | None = None,
    ) -> int:
        """Run all steps; return 0, or 1 when the run was cancelled.

        Args:
            bases: The addresses that operands count from, by number; entry 0 is not looked at.
            threads: Cores to use at the most; the pool may give fewer, at least one.
            stamps: (steps, 2 or 3) for the profile, in ns of `time.monotonic_ns`: when a step's
                first task began, when its last one ended, time spent on it by all threads together.
                In a group with items, begin and end are such that they do not overlap.
            cancel: Set by another thread, it ends the run early.
        """
        try:
            context = self._idle.pop()
        except IndexError:
            context = _Context(int(self._table.ctypes.data), self._base_count, self._pool.cores)
        if len(bases) < self._base_count or threads < 1:
            raise ValueError(
                f"expected {self._base_count} bases and at least one thread, "
                f"got {len(bases)} bases and {threads} threads"
            )
        context.pack_bases(context.base_buffer, 0, *bases[: self._base_count])
        if stamps is not None:
            return self._run_stamped(context, threads, stamps, cancel)
        status = self.walk(context, threads, 0, cancel)
        self._idle.append(context)
        return status

    def scratch_bytes(self, threads: int) -> int:
        """Return the cores' own memory that a run on up to `threads` of them takes."""
        return min(threads, self.width, self._pool.cores) * (
            self._scratch_bytes + self._local_bytes
        )

    def prepare(self, bases: Sequence[int], threads: int, alive: object = None) -> PreparedRun:
        """Return a run over the same memory again and again, which `alive` is kept for."""
        context = _Context(int(self._table.ctypes.data), self._base_count, self._pool.cores)
        context.pack_bases(context.base_buffer, 0, *bases[: self._base_count])
        return PreparedRun(self, context, threads, alive)

    @property
    def has_company(self) -> bool:
        """Whether other runs compute at this moment."""
        return self._pool.lent > 0

    def walk(
        self, context: _Context, threads: int, stamps: int = 0, cancel: CancelFlag | None = None
    ) -> int:
        """Run all steps in a context that nobody else uses meanwhile."""
        pool = self._pool
        slots = pool.acquire(
            threads if threads < self.width else self.width,
            self._scratch_bytes,
            self._local_bytes,
            None if cancel is None else cancel.words,
        )
        if not slots:
            return int(Status.CANCELLED)
        try:
            flag = 0 if cancel is None else cancel.address
            gang = len(slots)
            _GANG_STAMPS_CANCEL(context.buffer, _AT, gang, stamps, flag)
            if gang == 1:
                _SLOT(context.buffer, _SLOTS_AT, slots[0].address)
            else:
                _slots(gang)(context.buffer, _SLOTS_AT, *[slot.address for slot in slots])
            return self._entry(context.address, WALK)
        finally:
            pool.release(slots)

    def _run_stamped(
        self,
        context: _Context,
        threads: int,
        stamps: np.ndarray[Any, np.dtype[np.int64]],
        cancel: CancelFlag | None,
    ) -> int:
        table = np.zeros((self._steps, STAMPS), np.int64)
        table[:, 0] = _NEVER
        status = self.walk(context, threads, int(table.ctypes.data), cancel)
        self._idle.append(context)
        never = table[:, 0] == _NEVER  # steps without tasks: as if they took no time at the start
        table[never, :2] = table[:, 0].min(initial=_NEVER) if not never.all() else 0
        for group in self._groups:
            if group.items:
                _lay_apart(table[group.first : group.first + group.count])
        stamps[...] = table[:, : stamps.shape[1]]
        return status


class PreparedRun:
    """A program with everything that one run after the other needs. Not thread-safe.

    Where several cores are allowed it finds out whether they pay: a step of some tens of
    microseconds may take longer on two cores than on one. Now and then it asks again. While other
    runs compute it keeps to one core: runs side by side, each on its own, do more than runs that
    wait for all cores in turn and meet after every kernel.
    """

    __slots__ = ("_alive", "_context", "_left", "_most", "_program", "_threads", "_times")

    def __init__(
        self, program: NativeProgram, context: _Context, threads: int, alive: object
    ) -> None:
        self._program, self._context, self._alive = program, context, alive
        self._most = self._threads = min(threads, program.width)
        self._left = 0 if self._most > 1 else _NEVER  # runs until it asks again
        self._times: list[int] = []

    def __call__(self) -> None:
        """Run all steps."""
        if self._most > 1 and self._program.has_company:
            self._program.walk(self._context, 1)
            return
        self._left -= 1
        if self._left >= 0:
            self._program.walk(self._context, self._threads)
        else:
            self._try()

    def _try(self) -> None:
        """Run on all cores and on one in turn, with a clock; in the end decide."""
        start = perf_counter_ns()
        self._program.walk(self._context, 1 if len(self._times) % 2 else self._most)
        self._times.append(perf_counter_ns() - start)
        if len(self._times) == TRIALS:
            together, alone = median(self._times[::2]), median(self._times[1::2])
            self._threads = self._most if together < WORTH * alone else 1
            self._left = SETTLED_RUNS
            self._times.clear()


def _lay_apart(rows: Words) -> None:
    """Give the steps of a group with items times one after the other, as long as they took.

    They ran over and over again, item by item, so that first beginnings and last ends tell nothing.
    """
    if not len(rows):
        return
    begin, end = rows[:, 0].min(), rows[:, 1].max()
    ends = np.cumsum(rows[:, 2]) * ((end - begin) / max(1, rows[:, 2].sum()))
    rows[:, 1] = begin + ends.astype(np.int64)
    rows[0, 0], rows[1:, 0] = begin, rows[:-1, 1]


def _check(steps: Sequence[ResolvedStep], groups: Sequence[Group]) -> None:
    at = 0
    for group in groups:
        if group.first != at or group.count < 0 or group.items < 0:
            raise ValueError(f"groups must cover the steps in order; expected step {at}: {group}")
        at += group.count
    if at != len(steps):
        raise ValueError(f"groups cover {at} of {len(steps)} steps")
    for number, step in enumerate(steps):
        if len(step.operands) > MAX_OPERANDS or step.tasks < 0 or step.chunk < 0:
            raise ValueError(
                f"step {number}: expected at most {MAX_OPERANDS} operands and no negative counts, "
                f"got {len(step.operands)} operands, {step.tasks} tasks, chunk {step.chunk}"
            )


def _width(steps: Sequence[ResolvedStep], group: Group) -> int:
    """Return how many threads can have something to do at once."""
    mine = steps[group.first : group.first + group.count]
    # Steps without a barrier between them may run side by side.
    tasks = sum(s.tasks for s in mine) if any(not s.barrier for s in mine) else 0
    return max(1, group.items, tasks, max((s.tasks for s in mine), default=1))


def _pack(steps: Sequence[ResolvedStep], groups: Sequence[Group]) -> Words:
    """Return header, groups, steps, operands and numbers in one array."""
    groups_at = int(Header.WORDS)
    steps_at = groups_at + len(groups) * int(GroupWord.WORDS)
    at = steps_at + len(steps) * int(StepWord.WORDS)
    total = at + sum(3 * len(s.operands) + len(s.numbers) for s in steps)
    words = aligned_words(total + 1)  # one more: a last step without numbers points there
    base = int(words.ctypes.data)
    words[Header.GROUPS] = len(groups)
    words[Header.GROUP_TABLE] = base + groups_at * WORD
    words[Header.STEP_TABLE] = base + steps_at * WORD
    for number, group in enumerate(groups):
        row = groups_at + number * int(GroupWord.WORDS)
        words[row : row + 3] = group.first, group.first + group.count, group.items
    flat: list[int] = []
    table: list[int] = []
    for step in steps:
        operands = base + (at + len(flat)) * WORD
        flat += [word for operand in step.operands for word in operand]
        numbers = base + (at + len(flat)) * WORD
        flat += step.numbers
        table += [step.address, step.tasks, step.chunk, int(step.barrier)]
        table += [operands, len(step.operands), numbers, 0]
    words[steps_at : steps_at + len(table)] = table
    words[at : at + len(flat)] = flat
    return words
