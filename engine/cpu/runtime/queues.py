"""Claiming work: a range of tasks per member of the gang, claimed by compare and swap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.cpu.builder import Value
from engine.cpu.runtime.layout import QUEUE_WORDS, ContextWord
from engine.cpu.runtime.words import WordFunction


class Queues:
    """The ranges of one step's tasks (or of one group's items), as one member walks them."""

    def __init__(
        self, f: WordFunction, context: Value, starts: Value, member: Value, tasks: Value
    ) -> None:
        self._f, self._starts, self._member, self._tasks = f, starts, member, tasks
        self._gang = f.read(context, ContextWord.GANG)
        self._counters = f.pointer(context, ContextWord.QUEUES)

    @contextmanager
    def each(self) -> Iterator[Queue]:
        """Run the block for the member's own queue, then for those of the others in turn."""
        f = self._f
        with f.loop(0, self._gang, unroll=False) as turn:
            queue = self._queue(f.rem(f.add(self._member, turn.i), self._gang))
            yield queue
            f.write(self._starts, queue.number, queue.end)

    def _queue(self, number: Value) -> Queue:
        f = self._f
        low, high = self._bound(number), self._bound(f.add(number, 1))
        start = f.read(self._starts, number)
        counter = f.word(self._counters, f.mul(number, QUEUE_WORDS))
        return Queue(f, counter, number, low, start, f.add(start, f.sub(high, low)))

    def _bound(self, number: Value) -> Value:
        """Return the first task of a member; rounded up, so that a single task is the caller's."""
        f = self._f
        return f.div(f.add(f.mul(self._tasks, number), self._gang, -1), self._gang)


class Queue:
    """One range.

    Attributes:
        number: Whose it is.
        low: Its first task.
        start: The position of that task in the member's queue.
        end: One past the position of its last task.
    """

    def __init__(
        self, f: WordFunction, counter: Value, number: Value, low: Value, start: Value, end: Value
    ) -> None:
        self._f, self._counter = f, counter
        self.number, self.low, self.start, self.end = number, low, start, end

    @contextmanager
    def claims(self) -> Iterator[Claim]:
        """Repeat the block until everything is claimed."""
        f = self._f
        with f.forever() as end:
            position = f.peek(self._counter, 0)
            with f.if_(f.at_least(position, self.end)):
                f.b.branch(end)
            yield Claim(f, self._counter, position)


class Claim:
    """An attempt to get what comes next.

    Attributes:
        position: The first position that nobody had claimed a moment ago.
    """

    def __init__(self, f: WordFunction, counter: Value, position: Value) -> None:
        self._f, self._counter, self.position = f, counter, position

    @contextmanager
    def take(self, count: Value) -> Iterator[None]:
        """Run the block if the next `count` positions could be had."""
        f = self._f
        with f.if_(f.swap(self._counter, 0, self.position, f.add(self.position, count))):
            yield
