"""Reading a request's body: bounded while it streams, unpacked within the same bound."""

from __future__ import annotations

import asyncio
import io
import time
import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from server.errors import (
    MalformedRequest,
    PayloadTooLarge,
    QueueFull,
    RequestCancelled,
    RequestTimeout,
    UnsupportedMedia,
)
from server.execution import WorkerPool
from server.routes.answers import Receive
from server.routes.turns import Turns
from server.settings import Settings

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # "deflate" on the web is zlib's format


class BodyReader:
    """Reads bodies for every route, and bounds what all of them hold together."""

    def __init__(self, settings: Settings) -> None:
        """Start with nothing held."""
        self._most = settings.max_body_bytes
        self._inline = settings.max_inline_json_bytes
        self._most_together = settings.max_inflight_body_bytes
        self._silence_s = settings.body_timeout_s
        self._total_s = max(settings.request_timeout_s, settings.body_timeout_s)
        self._held = 0
        self._turns = Turns()

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of unfinished bodies are in memory."""
        return self._held

    async def read(
        self, headers: Mapping[bytes, bytes], receive: Receive, pool: WorkerPool
    ) -> bytes:
        """Return the whole body; one with a `Content-Encoding` is unpacked by a worker.

        Raises:
            PayloadTooLarge: it is longer than `max_body_bytes`, packed or not, or says so.
            UnsupportedMedia: it is packed in a way that is not read.
            MalformedRequest: it is not what its encoding says, or ends too early.
            RequestTimeout: it stopped arriving.
            RequestCancelled: the client went away.
        """
        encoding = _encoding_of(headers)
        body = await self._received(headers, receive)
        return await pool.run(self._unpacked, body, encoding) if encoding else body

    async def read_object(
        self,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        pool: WorkerPool,
        *,
        may_be_empty: bool = False,
    ) -> dict[str, Any]:
        """Return the JSON object of a body; a long one is parsed by a worker.

        Raises:
            MalformedRequest: it is no JSON object; else as `read`.
        """
        body = await self.read(headers, receive, pool)
        if may_be_empty and not body:
            return {}
        if len(body) > self._inline:
            return await pool.run(parse_object, body)
        return parse_object(body)

    async def _received(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Return the body as it was sent."""
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 18:
            raise MalformedRequest("Content-Length must be a number from 0")
        if int(declared) > self._most:
            raise self._too_large()
        message = await next_message(receive, self._silence_s)  # small bodies are already here
        if not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > self._most:
                raise self._too_large()
            return body
        return await self._read_rest(message.get("body", b""), receive)

    async def _read_rest(self, first: bytes, receive: Receive) -> bytes:
        body = io.BytesIO()  # gives its bytes away without copying them once more
        held = body.write(first)
        self._hold(held)
        end = time.monotonic() + self._total_s
        try:
            more = True
            while more:
                await self._turns.take()
                message = await next_message(receive, min(self._silence_s, end - time.monotonic()))
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                if held + len(chunk) > self._most:
                    raise self._too_large()
                self._hold(len(chunk))
                held += body.write(chunk)
            return body.getvalue()
        finally:
            self._held -= held

    def _hold(self, count: int) -> None:
        if self._held + count > self._most_together:
            raise QueueFull(
                "the server is receiving as many bytes as it can hold; try again later",
                retry_after_s=1.0,
            )
        self._held += count

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self._most} bytes; send less at a time, or raise "
            "MILLRACE_MAX_BODY_BYTES",
            max_body_bytes=self._most,
        )

    def _unpacked(self, body: bytes, encoding: str) -> bytes:
        """Undo the encoding, within the same limit as any body."""
        unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            plain = unpacker.decompress(body, self._most + 1)
        except zlib.error as error:
            raise MalformedRequest(f"the body is not {encoding} data: {error}") from error
        if len(plain) > self._most:
            raise self._too_large()
        if not unpacker.eof:
            raise MalformedRequest(f"the {encoding} data of the body ends too early")
        if unpacker.unused_data:
            raise MalformedRequest(
                f"the body goes on after the end of its {encoding} data; pack it in one piece"
            )
        return plain


def _encoding_of(headers: Mapping[bytes, bytes]) -> str:
    """Return how a body is packed; "" for not at all."""
    name = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return ""
    if name not in _WINDOW_BITS:
        raise UnsupportedMedia(
            f"Content-Encoding {name[:40]!r} is not read; use gzip, deflate or none"
        )
    return name


async def next_message(receive: Receive, seconds: float) -> Any:
    """Return the next piece of a body.

    Raises:
        RequestTimeout: none came within that time.
        RequestCancelled: the client went away.
    """
    try:
        async with asyncio.timeout(max(seconds, 0.001)):
            message = await receive()
    except TimeoutError as error:
        raise RequestTimeout("the body stopped arriving; send it without pauses") from error
    if message["type"] == "http.disconnect":
        raise _gone()
    return message


def _gone() -> RequestCancelled:
    return RequestCancelled("the client went away while it was sending")


def parse_json(body: bytes | memoryview, what: str = "the body") -> Any:
    """Return the value of a JSON text; its nesting is bounded by the parser."""
    if not body:
        raise MalformedRequest(f"{what} is empty, expected JSON")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}") from error


def parse_object(body: bytes | memoryview) -> dict[str, Any]:
    """Return the JSON object of a body."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise MalformedRequest(f"expected a JSON object, got {type(value).__name__}")
    return value
