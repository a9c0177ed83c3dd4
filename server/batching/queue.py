"""The parts that wait, in order of rank, and how many rows they are."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from operator import attrgetter

from server.batching.work import Part

_rank = attrgetter("rank")


class WaitingQueue:
    """A list kept in order; nearly everything is appended at its end and taken from its front."""

    __slots__ = ("parts", "rows")

    def __init__(self) -> None:
        """Start empty."""
        self.parts: list[Part] = []
        self.rows = 0  # also of the pieces of oversized requests that have not entered yet

    def add(self, part: Part) -> None:
        """Put a part where its rank belongs, behind its equals."""
        parts = self.parts
        if parts and part.rank < parts[-1].rank:
            insort(parts, part, key=_rank)
        else:
            parts.append(part)
        self.rows += part.weight

    def remove(self, taken: Sequence[Part]) -> None:
        """Take parts out that are in the queue, given in its order."""
        self.rows -= sum([part.weight for part in taken])
        if taken and self.parts[len(taken) - 1] is taken[-1]:
            del self.parts[: len(taken)]
        else:
            gone = set(map(id, taken))
            self.parts = [part for part in self.parts if id(part) not in gone]

    def drop_abandoned(self) -> None:
        """Forget parts that nobody waits for: cancelled, or failed with another piece."""
        abandoned = [part for part in self.parts if part.future.done()]
        if abandoned:
            self.remove(abandoned)

    def expired(self, now_us: int) -> list[Part]:
        """Return the parts whose deadline is past, in order."""
        return [
            part
            for part in self.parts
            if part.deadline_us is not None and part.deadline_us <= now_us
        ]

    def rows_before(self, rank: int) -> int:
        """Return how many rows are in front of a part of this rank."""
        return sum(part.rows for part in self.parts if part.rank <= rank)

    def __iter__(self) -> Iterator[Part]:
        """Iterate in order of rank."""
        return iter(self.parts)

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.parts)
