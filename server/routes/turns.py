"""Lets large bodies arrive a few pieces at a time, so that one turn of the event loop stays short.

A piece is up to 256 KiB and copied three times on its way. When thirty connections have a piece
ready, taking all of them in one turn holds up everything else for 10 ms and more; taking two in
each turn costs them nothing, since the loop does not sleep between such turns.
"""

from __future__ import annotations

import asyncio
from collections import deque

PER_TURN = 2


class Turns:
    """A budget that is full again in every turn of the loop; who finds it used up waits."""

    def __init__(self, per_turn: int = PER_TURN) -> None:
        """Let `per_turn` callers on in each turn."""
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counting = False  # a turn's end has been scheduled

    async def take(self) -> None:
        """Return when it is the caller's turn: at once, or in the order of the calls."""
        loop = asyncio.get_running_loop()
        if not self._counting:
            self._counting = True
            loop.call_soon(self._next_turn)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_turn(self) -> None:
        self._left = self._per_turn
        while self._waiting and self._left > 0:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller may have been cancelled
                turn.set_result(None)
                self._left -= 1
        self._counting = bool(self._waiting)
        if self._counting:
            asyncio.get_running_loop().call_soon(self._next_turn)
