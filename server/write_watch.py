"""Whoever takes nothing of what is written to them is hung up on.

An answer lies in memory until the client has read it, and closing a connection waits for that: a
client that asks for long answers and reads none could have as many of them kept as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

STALL_S = 60.0  # without one byte being taken


class WriteWatch:
    """Watches what is still to be written to one connection."""

    __slots__ = ("_left", "_loop", "_timer", "_transport")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Watch nothing yet."""
        self._transport, self._loop = transport, loop
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch until all is written."""
        if self._timer is None:
            self._left = self._transport.get_write_buffer_size()
            self._arm()

    def stop(self) -> None:
        """Watch no more: the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_later(STALL_S, self._look) if self._left else None

    def _look(self) -> None:
        before, self._left = self._left, self._transport.get_write_buffer_size()
        if self._left < before:
            self._arm()
        else:
            self._timer = None
            self._transport.abort()
