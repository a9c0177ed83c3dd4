"""Answers that come piece by piece: server-sent events, or lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from server.errors import ServerDraining, ServerError
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.routes.answers import Answer, Header, to_json

T = TypeVar("T")
Event = tuple[str, Any]  # its name, and what becomes its JSON

EVENT_STREAM = b"text/event-stream"
LINES = b"application/x-ndjson"
_TYPES = {EVENT_STREAM: b"text/event-stream; charset=utf-8", LINES: LINES}
_HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # proxies would collect the events otherwise
)


def wants_events(accept: bytes) -> bool:
    """Say whether the client asks for events."""
    return EVENT_STREAM in accept.lower()


def stream_wanted(accept: bytes) -> bytes | None:
    """Return in which form the client wants pieces, if it does."""
    accept = accept.lower()
    return next((form for form in (EVENT_STREAM, LINES) if form in accept), None)


async def event_answer(
    source: AsyncGenerator[T],
    describe: Callable[[T], Event],
    call: Call,
    form: bytes = EVENT_STREAM,
) -> Answer:
    """Return an answer whose body is the events of a source.

    The first event is waited for, so that a request that fails at once has the status of its
    failure. What fails later is an event `error`, the last one.

    Args:
        source: what is told, as it comes.
        describe: turns one thing into an event.
        call: the request.
        form: `EVENT_STREAM`, or `LINES`: one JSON object per line, its key `event` the name.

    Raises:
        ServerError: the source failed before its first event.
    """
    encode = encode_line if form == LINES else encode_event
    first = await anext(source)
    headers: list[Header] = [(b"content-type", _TYPES[form]), *_HEADERS]
    answer = Answer(200, encode(*describe(first)), headers)
    answer.rest = _rest(source, describe, call, answer, encode)
    return answer


async def _rest(
    source: AsyncGenerator[T],
    describe: Callable[[T], Event],
    call: Call,
    answer: Answer,
    encode: Callable[[str, Any], bytes],
) -> AsyncGenerator[bytes]:
    failure: ServerError
    try:
        async with aclosing(source):
            async for each in source:
                yield encode(*describe(each))
        return
    except asyncio.CancelledError:
        # The server stops: the client is told, and nothing is waited for any more.
        failure = ServerDraining("the server shut down before the answer was ready")
    except Exception as error:
        failure = as_server_error(error, call.id)
    answer.code = failure.code
    yield encode("error", failure.body() | {"id": call.id})


def encode_event(name: str, data: Any) -> bytes:
    """Return one event; JSON has no line breaks of its own."""
    return b"event: " + name.encode() + b"\ndata: " + to_json(data) + b"\n\n"


def encode_line(name: str, data: Any) -> bytes:
    """Return one line; `data` is an object."""
    return to_json({"event": name, **data}) + b"\n"
