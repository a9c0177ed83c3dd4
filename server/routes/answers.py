"""How an answer leaves: its headers, the phases it took, and the one shape of an error."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from server.errors import RequestCancelled, ServerError, status_of
from server.handlers.call import Call
from server.pages import page

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
VARY: Header = (b"vary", b"Accept")  # people and programs get different answers
CLOSE: Header = (b"connection", b"close")

_ORJSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(slots=True)
class Answer:
    """One answer, ready to be written."""

    status: int
    body: bytes
    headers: list[Header] = field(default_factory=lambda: [JSON])
    code: str = "ok"  # what the metrics count it as
    rest: AsyncGenerator[bytes] | None = None  # what follows the body, as it comes


def to_json(value: Any) -> bytes:
    """Return the JSON of an answer; arrays are nested lists, NaN and infinities are null."""
    try:
        return orjson.dumps(value, default=_plain, option=_ORJSON)
    except orjson.JSONEncodeError:
        return orjson.dumps(_tame(value), default=_plain, option=_ORJSON)


def _tame(value: Any) -> Any:
    """Return the value without what JSON cannot say: huge integers, halves of surrogate pairs.

    A client's own words come back to it in an error, and may hold either.
    """
    if isinstance(value, dict):
        return {_tame(str(key)): _tame(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tame(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)[:100]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value


def _plain(value: Any) -> Any:
    # orjson takes arrays only when they are C-contiguous and of a native number type.
    if isinstance(value, np.ndarray | np.generic):
        return value.astype(np.float32).tolist() if value.dtype.kind == "V" else value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return an answer with a JSON body."""
    return Answer(status, to_json(value))


def page_answer(name: str) -> Answer:
    """Return a page for people."""
    html, policy = page(name)
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"cache-control", b"no-cache"),
        VARY,
    ]
    return Answer(200, html, headers)


def failure_of_all(outcomes: Sequence[object]) -> ServerError | None:
    """Return the first item's error if no item of a request succeeded."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, ServerError)]
    return errors[0] if errors and len(errors) == len(outcomes) else None


def items_answer(body: bytes, failure: ServerError | None) -> Answer:
    """Return the answer for several items, of which `failure` says whether all have failed."""
    if failure is None:
        return Answer(200, body, [JSON])
    status = status_of(failure)
    return Answer(status, body, [JSON, *error_headers(failure, status)], failure.code)


def error_answer(error: ServerError, call: Call, *, tensor_door: bool = False) -> Answer:
    """Return the answer to a failed request: `{"error", "code", ...}`, with `Retry-After`."""
    status = status_of(error, tensor_door=tensor_door)
    body = error.body()
    body.setdefault("id", call.id)
    answer = Answer(status, to_json(body), [JSON], error.code)
    answer.headers.extend(error_headers(error, status))
    return answer


def error_headers(error: ServerError, status: int) -> list[Header]:
    """Return what HTTP wants to have said in headers."""
    if status == 429:
        seconds = max(1, math.ceil(float(error.extra.get("retry_after_s", 1))))
        return [(b"retry-after", b"%d" % seconds)]
    if status == 401:
        return [(b"www-authenticate", b'Bearer realm="millrace"')]
    if status == 405 and "allow" in error.extra:
        return [(b"allow", ", ".join(error.extra["allow"]).encode())]
    return []


def server_timing(call: Call) -> bytes:
    """Return the `Server-Timing` of a request: each phase and the total, in milliseconds."""
    parts = [f"{phase};dur={seconds * 1e3:.3f}" for phase, seconds in call.phases.items()]
    parts.append(f"total;dur={call.elapsed() * 1e3:.3f}")
    return ", ".join(parts).encode()


async def send_answer(send: Send, answer: Answer, call: Call) -> None:
    """Write the answer; a client that has gone away is written nothing."""
    if answer.code == RequestCancelled.code:
        return
    headers = answer.headers
    if answer.rest is None:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    headers.append((b"x-request-id", call.id.encode()))
    headers.append((b"server-timing", server_timing(call)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.rest is None:
        await send({"type": "http.response.body", "body": answer.body})
        return
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    async with aclosing(answer.rest):
        async for piece in answer.rest:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
