"""Messages from worker threads to the event loop, with one wake-up for all that wait together."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable


class LoopMailbox:
    """Runs posted callbacks on the loop, in the order of their posting.

    Waking a loop costs more than everything else in a hand-over, so while a wake-up is on its way
    further posts only append.
    """

    __slots__ = ("_awake", "_loop", "_posts")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to `loop`."""
        self._loop = loop
        self._posts: deque[Callable[[], None]] = deque()
        self._awake = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where the callbacks run."""
        return self._loop

    def post(self, callback: Callable[[], None]) -> None:
        """Have the loop call `callback` soon; from any thread. A closed loop drops it."""
        self._posts.append(callback)
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared before reading: a post that comes from here on wakes the loop again, and one that
        # came before is counted by the length read next. So none is left lying.
        self._awake = False
        for _ in range(len(self._posts)):
            callback = self._posts.popleft()
            try:
                callback()
            except Exception as error:
                self._loop.call_exception_handler(
                    {"message": "a callback from a worker thread failed", "exception": error}
                )
