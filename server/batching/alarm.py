"""One timer for the nearest of many times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

US_PER_S = 1e6
NEVER_US = 1 << 62


class Alarm:
    """Rings at the earliest time it was set to.

    A timer per request would cost more than queueing it. Deadlines mostly ascend, so setting the
    alarm is one comparison; whoever is rung finds out which times have come and sets it again.
    """

    __slots__ = ("_clock", "_handle", "_ring", "due_us")

    def __init__(self, clock: Callable[[], int], ring: Callable[[], None]) -> None:
        """Call `ring` on the loop that `set` is called on; times are on `clock`."""
        self._clock = clock
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self.due_us = NEVER_US

    def set(self, at_us: int) -> None:
        """Ring at `at_us`, unless it will ring before that anyway."""
        if at_us >= self.due_us:
            return
        self.cancel()
        self.due_us = at_us
        delay_s = max(0.0, (at_us - self._clock()) / US_PER_S)
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._on_time)

    def cancel(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.due_us = NEVER_US

    def _on_time(self) -> None:
        self._handle = None
        self.due_us = NEVER_US
        self._ring()
