"""One packet for an answer's head and the first piece of its body, instead of two.

Uvicorn writes them apart, and uvloop hands every write to the kernel at once: a second system call
for every request, and a client that is woken twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

HEAD_START, HEAD_END = b"HTTP/1.1 ", b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 "


class JoinedWrites:
    """A transport that holds a head back until something follows, or until the loop's next turn."""

    __slots__ = ("_held", "_loop", "_transport", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Write to `transport`; everything but writing and closing is its own."""
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        """Write after what was held, in one go."""
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.writelines((held, data))
        elif (
            data.startswith(HEAD_START)
            and data.endswith(HEAD_END)
            and not data.startswith(CONTINUE)
        ):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
