"""A closed-loop HTTP load generator that keeps every answer's facts.

`wrk` is the tool where only rates and percentiles matter. Here each answer must be looked at
(which version gave it, sent and received when), so the client is our own: one connection per
caller, HTTP/1.1 keep-alive, the next request sent as soon as the last answer is complete.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's life: monotonic seconds, HTTP status (0: the connection broke), body."""

    sent_s: float
    received_s: float
    status: int
    note: bytes  # what the load's `note` function took from the body

    @property
    def latency_s(self) -> float:
        return self.received_s - self.sent_s


def http_request(host: str, path: str, body: bytes, content_type: str) -> bytes:
    """Return the bytes of a keep-alive POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Caller(asyncio.Protocol):
    """One connection: sends, parses the answer's length, records it, sends again."""

    def __init__(self, load: ClosedLoop) -> None:
        self.load = load
        self.buffer = b""
        self.sent_s = 0.0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        if self.load.stopping:
            self.transport.close()
            return
        self.sent_s = time.monotonic()
        self.transport.write(self.load.next_request())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(_HEAD_END)
        if end < 0:
            return
        length = _LENGTH.search(self.buffer, 0, end)
        total = end + len(_HEAD_END) + (int(length[1]) if length else 0)
        if len(self.buffer) < total:
            return
        body, status = self.buffer[end + len(_HEAD_END) : total], int(self.buffer[9:12])
        self.buffer = self.buffer[total:]
        self.load.record(Answer(self.sent_s, time.monotonic(), status, self.load.note(body)))
        self.sent_s = 0.0
        self.load.go_on(self.send)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.sent_s:
            self.load.record(Answer(self.sent_s, time.monotonic(), 0, repr(exc).encode()))
        if not self.closed.done():
            self.closed.set_result(None)


def _keep_nothing(body: bytes) -> bytes:
    return b""


@dataclass
class ClosedLoop:
    """`concurrency` callers that send `request` one after another until `stop`."""

    host: str
    port: int
    request: bytes
    concurrency: int
    note: Callable[[bytes], bytes] = _keep_nothing
    answers: list[Answer] = field(default_factory=list)
    stopping: bool = False

    def next_request(self) -> bytes:
        """Return what the next call sends; the same every time unless a subclass says more."""
        return self.request

    def go_on(self, send: Callable[[], None]) -> None:
        """Let a caller send its next request: at once, unless a subclass waits."""
        send()

    def record(self, answer: Answer) -> None:
        self.answers.append(answer)

    async def start(self) -> None:
        """Start the callers; a connection that breaks is recorded and opened again."""
        self._tasks = [asyncio.create_task(self._keep_calling()) for _ in range(self.concurrency)]

    async def _keep_calling(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping:
            try:
                _, caller = await loop.create_connection(
                    lambda: _Caller(self), self.host, self.port
                )
            except OSError as error:
                now = time.monotonic()
                self.record(Answer(now, now, 0, repr(error).encode()))
                await asyncio.sleep(0.05)
                continue
            await caller.closed

    async def stop(self) -> list[Answer]:
        """Let every call in flight finish, then return all answers."""
        self.stopping = True
        await asyncio.gather(*self._tasks)
        return self.answers
