"""Decode loops side by side: while one lane's rows are in a step, another's are in theirs.

Two lanes of half the rows are quicker than one of all on two cores and more: their threads need not
meet after every kernel, and what is not native of one lane hides behind the other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server.translation.loop import DecodeLoop, check_room
from server.translation.sentence import Sentence


class Lanes:
    """Several `DecodeLoop`s that are one to whoever submits; for the event loop."""

    def __init__(self, loops: Sequence[DecodeLoop], max_waiting: int) -> None:
        """Share sentences among loops, which have equal slots.

        Args:
            loops: one per lane.
            max_waiting: sentences that may wait for their turn, all lanes together.
        """
        self.loops = tuple(loops)
        self._max_waiting = max_waiting

    @property
    def waiting(self) -> int:
        """Sentences that have not begun."""
        return sum([loop.waiting for loop in self.loops])

    def require_room(self, sentences: int) -> None:
        """Check that so many sentences may be submitted now; raises as of `DecodeLoop`."""
        retry_us = sum([loop.backlog_us for loop in self.loops]) / len(self.loops) ** 2
        closing = any(loop.closing for loop in self.loops)
        check_room(sentences, self.waiting, self._max_waiting, retry_us, closing=closing)

    def submit(self, sentences: Sequence[Sentence]) -> None:
        """Queue every sentence in the lane that has the fewest rows to do."""
        rows = [loop.rows for loop in self.loops]
        shares: list[list[Sentence]] = [[] for _ in self.loops]
        for sentence in sentences:
            lane = rows.index(min(rows))
            rows[lane] += sentence.rows
            sentence.lane = lane
            shares[lane].append(sentence)
        for loop, share in zip(self.loops, shares, strict=True):
            if share:
                loop.submit(share)

    def abandon(self, sentence: Sentence) -> None:
        """Free a sentence's slots at its lane's next step."""
        self.loops[sentence.lane].abandon(sentence)

    def stream(self) -> None:
        """Say that the waiter of a sentence under way has become a streaming one."""
        for loop in self.loops:
            loop.stream()

    async def close(self) -> None:
        """Close every lane; cancelled, none waits for what it has left."""
        await asyncio.gather(*(loop.close() for loop in self.loops))
