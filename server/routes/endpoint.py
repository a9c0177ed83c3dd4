"""A hot route as a plain ASGI callable: no routing table, no models, no per-request objects but
the call. Every failure ends here as one error shape; a stack trace only ever reaches the log.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from server.errors import InvalidInput, ServerDraining, ServerError
from server.handlers import Handlers
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.routes.answers import Answer, Receive, Scope, Send, error_answer, send_answer
from server.routes.bodies import BodyReader
from server.settings import Settings

logger = logging.getLogger("millrace.access")

MAX_TIMEOUT_S = 86_400.0
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Headers = Mapping[bytes, bytes]


class Runtime:
    """What the routes share; the handlers exist from startup to shutdown."""

    def __init__(self, settings: Settings) -> None:
        """Make what does not need a running loop."""
        self.settings = settings
        self.bodies = BodyReader(settings)
        self.draining = False
        self.stop_at: float | None = None  # monotonic; when requests in flight must have ended
        self._handlers: Handlers | None = None

    @property
    def handlers(self) -> Handlers:
        """Return the handlers of the running server."""
        if self._handlers is None:
            raise RuntimeError("the application has not been started: run its lifespan")
        return self._handlers

    @property
    def ready(self) -> bool:
        """Say whether requests can be taken: everything is loaded, and no shutdown has begun."""
        return self._handlers is not None and not self.draining and self._handlers.repository.ready

    def start(self, handlers: Handlers) -> None:
        """Begin to serve."""
        self._handlers = handlers


def begin_call(headers: Headers, receive: Receive) -> Call:
    """Start a call from what the request's headers say."""
    given = headers.get(b"x-request-id")
    request_id = given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else None
    return Call(request_id, disconnected=lambda: _disconnected(receive))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def read_timeout(headers: Headers) -> float | None:
    """Return the seconds of `X-Request-Timeout`."""
    given = headers.get(b"x-request-timeout")
    return None if given is None else timeout_seconds(given.decode("latin-1"), "X-Request-Timeout")


def timeout_seconds(value: object, field: str, scale: float = 1.0) -> float:
    """Return a client's timeout in seconds; `scale` is the length of its unit.

    Raises:
        InvalidInput: not a number above 0.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        seconds = float(value) * scale
        if not 0 < seconds < float("inf"):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{field} must be a number above 0, got {str(value)[:40]!r}",
            field=field,
            expected="a number above 0",
            got=str(value)[:40],
        ) from None
    return min(seconds, MAX_TIMEOUT_S)


def read_priority(value: object) -> int:
    """Return a client's priority, -9 (can wait) to 9 (urgent), 0 being normal."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]", text):
        raise InvalidInput(
            f"priority must be an integer from -9 to 9, got {text[:40]!r}",
            field="priority",
            expected="-9..9",
            got=text[:40],
        )
    return int(text)


Answerer = Callable[[Scope, Headers, Receive, Call], Awaitable[Answer]]


class Endpoint:
    """Runs one answerer for each request, and turns its failures into answers."""

    def __init__(self, runtime: Runtime, answerer: Answerer, *, tensor_door: bool = False) -> None:
        """Bind the answerer."""
        self._runtime = runtime
        self._answerer = answerer
        self._tensor_door = tensor_door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Headers = dict(scope["headers"])
        call = begin_call(headers, receive)
        try:
            call.timeout_s = read_timeout(headers)
            answer = await self._answerer(scope, headers, receive, call)
        except ServerError as error:
            answer = error_answer(error, call, tensor_door=self._tensor_door)
        except asyncio.CancelledError:
            if not self._runtime.draining:
                raise
            late = ServerDraining("the server shut down before the answer was ready")
            answer = error_answer(late, call, tensor_door=self._tensor_door)
        except Exception as error:
            fault = as_server_error(error, call.id)
            answer = error_answer(fault, call, tensor_door=self._tensor_door)
        if answer.rest is not None:
            await send_answer(send, answer, call)  # only then it is known how it ended
        self._count(answer, call)
        if self._runtime.settings.access_log:
            log_access(scope, answer.status, call)
        if answer.rest is None:
            await send_answer(send, answer, call)

    def _count(self, answer: Answer, call: Call) -> None:
        if call.metrics is not None:
            call.metrics.request(answer.code, call.elapsed())
        elif answer.code != "ok":
            self._runtime.handlers.metrics.rejected(answer.code)


def log_access(scope: Scope, status: int, call: Call) -> None:
    """Write the access line of one request."""
    path = scope["path"][:200]
    logger.info(
        "%s %s %d %.1f ms",
        scope["method"],
        path,
        status,
        call.elapsed() * 1e3,
        extra={
            "request_id": call.id,
            "method": scope["method"],
            "path": path,
            "status": status,
            "duration_ms": round(call.elapsed() * 1e3, 3),
            "model": call.model,
            "version": call.version,
        },
    )
