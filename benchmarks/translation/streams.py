"""How long a streamed translation lets its reader wait for the first token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson


@dataclass(frozen=True)
class Stream:
    """One streamed answer: seconds to the first event and to the end, and its events."""

    first_s: float
    whole_s: float
    events: int


def stream_request(model: str, text: str, parameters: dict[str, object]) -> bytes:
    """Return the bytes of a streaming request."""
    body = orjson.dumps({"model": model, "text": text, "parameters": parameters})
    head = (
        "POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def read_stream(port: int, request: bytes) -> Stream:
    """Send one request and read its events to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.perf_counter()
    writer.write(request)
    first_s = None
    received = b""
    while chunk := await reader.read(65536):
        received += chunk
        if first_s is None and b"data:" in received:
            first_s = time.perf_counter() - began
    whole_s = time.perf_counter() - began
    writer.close()
    if first_s is None or not received.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no stream: {received[:300]!r}")
    return Stream(first_s, whole_s, received.count(b"data:"))


async def streams(port: int, requests: Sequence[bytes], concurrency: int) -> list[Stream]:
    """Read all streams, so many at a time."""
    waiting = iter(requests)
    found: list[Stream] = []

    async def reader() -> None:
        while (request := next(waiting, None)) is not None:
            found.append(await read_stream(port, request))

    await asyncio.gather(*(reader() for _ in range(concurrency)))
    return found
