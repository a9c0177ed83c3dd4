"""Notices what a waiting request cannot: that its client went away, or its deadline passed.

One timer for all requests, running only while some wait, so that a request that is answered
within a tick pays for a set insertion and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from server.errors import DeadlineExceeded, RequestCancelled, ServerError
from server.handlers.call import Call

T = TypeVar("T")

TICK_S = 0.02
WATCH_AFTER_TICKS = 5  # a task per request: only for those that wait long enough to be worth it


class _Flight:
    __slots__ = ("call", "due", "future", "opened", "reason", "watch")

    def __init__(self, future: asyncio.Future[Any], call: Call, due: float) -> None:
        self.future = future
        self.call = call
        self.due = due
        self.opened = time.monotonic()
        self.reason: ServerError | None = None
        self.watch: asyncio.Task[None] | None = None

    def fail(self, reason: ServerError) -> None:
        if not self.future.done():
            self.reason = reason
            self.future.cancel()

    def begin_to_watch(self) -> None:
        if self.call.disconnected is not None:
            watch = _watch(self, self.call.disconnected)
            self.watch = asyncio.get_running_loop().create_task(watch)


class Flights:
    """The requests that wait for an answer now."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        """Start with none."""
        self._tick_s = tick_s
        self._watch_after_s = WATCH_AFTER_TICKS * tick_s
        self._open: set[_Flight] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._open)

    async def wait(self, future: asyncio.Future[T], call: Call, due: float) -> T:
        """Wait for the result; cancel the work when the client has gone or `due` has passed.

        Raises:
            RequestCancelled: the client went away.
            DeadlineExceeded: the monotonic time `due` passed.
        """
        flight = _Flight(future, call, due)
        self._open.add(flight)
        if self._timer is None:
            self._timer = future.get_loop().call_later(self._tick_s, self._sweep)
        try:
            return await future
        except asyncio.CancelledError:
            if flight.reason is None:  # the request's own task is being cancelled: shutdown
                raise
            raise flight.reason from None
        finally:
            self._open.discard(flight)
            if flight.watch is not None:
                flight.watch.cancel()

    def _sweep(self) -> None:
        self._timer = None
        now = time.monotonic()
        for flight in tuple(self._open):
            if now >= flight.due:
                flight.fail(
                    DeadlineExceeded(_too_late(flight.call), timeout_s=flight.call.timeout_s)
                )
            elif flight.watch is None and now - flight.opened >= self._watch_after_s:
                flight.begin_to_watch()
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._sweep)


async def _watch(flight: _Flight, disconnected: Callable[[], Awaitable[None]]) -> None:
    await disconnected()
    flight.fail(RequestCancelled("the client went away before the answer"))


def _too_late(call: Call) -> str:
    return (
        f"no answer within the request's deadline ({call.elapsed():.3f} s passed); "
        "send a longer timeout or fewer requests at a time"
    )
