"""How late the event loop runs what is due: the health of everything that shares it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from server.metrics.histogram import LAG_BOUNDS, Histogram

INTERVAL_S = 0.01  # a hundred probes a second cost about 0.1% of a core
WINDOW_S = 60.0


class RecentMaximum:
    """The largest value of the last one to two windows, so that an old peak fades."""

    __slots__ = ("_clock", "_current", "_previous", "_turn", "window_s")

    def __init__(
        self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start empty; `clock` counts seconds."""
        self.window_s = window_s
        self._clock = clock
        self._current = self._previous = 0.0
        self._turn = clock() + window_s

    def observe(self, value: float) -> None:
        """Take one value into account."""
        self._rotate()
        if value > self._current:
            self._current = value

    @property
    def value(self) -> float:
        """The recent maximum, 0.0 when there was nothing."""
        self._rotate()
        return max(self._current, self._previous)

    def _rotate(self) -> None:
        now = self._clock()
        if now < self._turn:
            return
        idle = now >= self._turn + self.window_s  # a whole window went by unobserved
        self._previous = 0.0 if idle else self._current
        self._current = 0.0
        self._turn = now + self.window_s


class LoopLagMonitor:
    """Wakes at a fixed interval and counts by how much it woke too late.

    The counts are of points in time: each says how long something due then had to wait.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Probe every `interval_s` once started."""
        self.interval_s = interval_s
        self.histogram = Histogram(LAG_BOUNDS)
        self.maximum = RecentMaximum()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin on the running loop; does nothing when already started."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._schedule(self._loop)

    def stop(self) -> None:
        """Stop probing; the counts stay."""
        if self._handle is not None:
            self._handle.cancel()
        self._loop = self._handle = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = time.monotonic() + self.interval_s
        self._handle = loop.call_later(self.interval_s, self._probe)

    def _probe(self) -> None:
        lag = max(0.0, time.monotonic() - self._due)
        self.maximum.observe(lag)
        self.histogram.observe(lag)
        # Probes that could not even be scheduled while the loop was held would have been late, too:
        # left out, a loop that is held for a second would count as one late probe in a hundred.
        while lag > self.interval_s:
            lag -= self.interval_s
            self.histogram.observe(lag)
        if self._loop is not None:
            self._schedule(self._loop)
