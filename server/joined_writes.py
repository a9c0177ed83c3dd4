"""One packet for an answer's head and the first piece of its body, instead of two.

Uvicorn writes them apart, and uvloop hands every write to the kernel at once: a second system call
for every request, and a client that is woken twice.

Closing is done in two steps where the client may still be sending. To a connection that is closed
with bytes unread the kernel answers with a reset, and the client loses the answer with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from server.write_watch import WriteWatch

HEAD_START, HEAD_END = b"HTTP/1.1 ", b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 "
LINGER_S = 2.0  # how long a client may go on sending after the last answer


class JoinedWrites:
    """A transport that holds a head back until something follows, or until the loop's next turn."""

    __slots__ = (
        *("_held", "_is_sending", "_lingering", "_loop", "_transport", "_watch"),
        *("get_extra_info", "is_closing"),
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_sending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write to `transport`; everything but writing and closing is its own.

        `is_sending` is asked when the connection is to be closed: may more come from the client?
        """
        self._transport, self._loop, self._is_sending = transport, loop, is_sending
        self._held: bytes | None = None
        self._watch = WriteWatch(transport, loop)
        self._lingering: asyncio.TimerHandle | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    @property
    def is_lingering(self) -> bool:
        """Say whether all has been written, and what still comes is of no interest."""
        return self._lingering is not None

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
        """Close once everything is written; a client that is sending is let finish for a moment."""
        self._flush()
        lingers = self._lingering is None and not self._transport.is_closing()
        if lingers and self._is_sending() and self._transport.can_write_eof():
            self._transport.write_eof()
            self._lingering = self._loop.call_later(LINGER_S, self._transport.close)
            self.is_closing = lambda: True
        else:
            self._stop_lingering()
            self._transport.close()
        self._watch.begin()

    def watch(self) -> None:
        """Hang up unless the client goes on taking what is written; `close` does so, too."""
        self._watch.begin()

    def lost(self) -> None:
        """Stop to wait for the client."""
        self._stop_lingering()
        self._watch.stop()

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
