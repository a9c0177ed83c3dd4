"""How much Python a piece of code runs, counted in calls: the same on every machine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class CallCounter:
    """Calls of functions, Python's and C's, of one thread."""

    def __init__(self) -> None:
        self.calls = 0

    def start(self) -> None:
        """Begin to count in this thread."""
        sys.setprofile(self._event)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


@contextmanager
def counted_calls() -> Iterator[CallCounter]:
    """Count what this thread calls inside; leaving the block counts as a call or two.

    Garbage of others waits until the end: what it calls when it is collected would count.
    """
    counter = CallCounter()
    was_enabled = gc.isenabled()
    gc.disable()
    counter.start()
    try:
        yield counter
    finally:
        counter.stop()
        if was_enabled:
            gc.enable()
