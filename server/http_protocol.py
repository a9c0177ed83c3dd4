"""Uvicorn's HTTP protocol with bounds on what comes before a request exists, and our error shape.

Below ASGI nobody else limits a request's head: its size, and how long it may take to arrive; what
stands between and behind the pieces of a body (trailers are headers, and would be kept); and how
many requests may come at a time.
"""

from __future__ import annotations

import asyncio
from typing import cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import MalformedRequest
from server.joined_writes import JoinedWrites

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 20.0
# Of extensions of chunks, or of trailers, one after the other without a byte of the body.
MAX_FRAMING_BYTES = 64 * 1024
MAX_PIPELINED = 1000  # requests of one connection that wait for those before them


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _writes: JoinedWrites | None = None
    _in_head = True
    _began = False  # a request has
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _framing_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection on which nothing ever comes, like one that went idle."""
        self._writes = JoinedWrites(transport, self.loop, self._is_sending)
        super().connection_made(cast(asyncio.Transport, self._writes))
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection's timers."""
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        if self._writes is not None:
            self._writes.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; a head that is not whole yet is bounded in size and time."""
        if self._writes is not None and self._writes.is_lingering:
            return  # it has its answer, and does not know it yet
        self._framing_bytes += len(data)
        super().data_received(data)
        self._watch_leftovers()
        self._watch_framing()
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("the request's head is too large")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def pause_writing(self) -> None:
        """Wait for a client that takes its time, and not for one that takes nothing."""
        super().pause_writing()
        if self._writes is not None:
            self._writes.watch()

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        super().on_message_begin()
        self._in_head = self._began = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are nothing to anybody."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head.

        Raises:
            ValueError: too many requests wait; the connection has been closed.
        """
        self._in_head = False
        self._framing_bytes = 0
        self._stop_head_timer()
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.close()
            raise ValueError(f"more than {MAX_PIPELINED} requests at a time")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._framing_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the one shape of an error, and hang up."""
        if self.transport.is_closing():
            return
        body = orjson.dumps(MalformedRequest(msg).body())
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a request that would like another protocol is served in this one."""

    def _is_sending(self) -> bool:
        """Say whether a request is not whole yet; if so, go on reading."""
        in_body = self.cycle is not None and self.cycle.more_body
        sending = in_body or (self._in_head and self._began)
        if sending:
            self.flow.resume_reading()
        return sending

    def _watch_framing(self) -> None:
        """Hang up on a client that sends no body where it should, but what stands around it."""
        cycle = self.cycle
        in_body = not self._in_head and cycle is not None and cycle.more_body
        if not in_body or self._framing_bytes <= MAX_FRAMING_BYTES:
            return
        if cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response(
                f"more than {MAX_FRAMING_BYTES} bytes between pieces of the body, or behind it"
            )

    def _watch_leftovers(self) -> None:
        """Treat a client that does not finish a body that was answered like one that is idle."""
        answered = not self._in_head and self.cycle is not None and self.cycle.response_complete
        if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_is_late(self) -> None:
        self.send_400_response(f"the request's head took longer than {HEAD_TIMEOUT_S:g} s")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
