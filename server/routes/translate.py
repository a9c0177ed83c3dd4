"""`POST /translate`: texts in, translations out, at once or as events."""

from __future__ import annotations

import time
from typing import Any

from server.errors import ServerError
from server.handlers.call import Call
from server.handlers.translate import Piece, TranslateReply, TranslateRequest
from server.metrics import Phase
from server.routes.answers import (
    Answer,
    Receive,
    Scope,
    error_answer,
    failure_of_all,
    items_answer,
    to_json,
)
from server.routes.endpoint import Headers, Runtime
from server.routes.event_stream import Event, event_answer, wants_events
from server.routes.libretranslate import libre_translate
from server.routes.table import Doc, Route
from server.routes.translate_body import own_request, read_fields


class TranslateRoute:
    """The answerer of `/translate`; the words of a request decide in which shape it is answered."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep what every request uses."""
        self._runtime = runtime
        self._inline = runtime.settings.max_inline_json_bytes

    async def __call__(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Answer one request."""
        runtime = self._runtime
        pool = runtime.handlers.pool
        body = await runtime.bodies.read(headers, receive, pool)
        began = time.monotonic()
        about = headers.get(b"content-type", b""), scope["query_string"]
        large = len(body) > self._inline
        values = await pool.run(read_fields, body, *about) if large else read_fields(body, *about)
        if "q" in values and "text" not in values:
            return await self._libre(values, call)
        request = own_request(values, call)
        parse_s = time.monotonic() - began
        if wants_events(headers.get(b"accept", b"")):
            return await self._events(request, call, parse_s)
        reply = await runtime.handlers.translate.translate(request, call, parse_s)
        return await self._write(reply, call)

    async def _libre(self, values: dict[str, Any], call: Call) -> Answer:
        try:
            return await libre_translate(self._runtime, values, call)
        except ServerError as error:
            return error_answer(error, call, tensor_door=True)  # it knows no 422 either

    async def _events(self, request: TranslateRequest, call: Call, parse_s: float) -> Answer:
        source = self._runtime.handlers.translate.stream(request, call, parse_s)

        def describe(told: Piece | TranslateReply) -> Event:
            if isinstance(told, Piece):
                return "text", {"index": told.index, "text": told.text}
            content = _content(told, call)
            failure = failure_of_all(told.outcomes)
            return "done", content if failure is None else content | failure.body()

        return await event_answer(source, describe, call)

    async def _write(self, reply: TranslateReply, call: Call) -> Answer:
        began = time.monotonic()
        content = _content(reply, call)
        failure = failure_of_all(reply.outcomes)
        if failure is not None:
            content |= failure.body()
        texts = [each.text for each in reply.outcomes if not isinstance(each, ServerError)]
        characters = sum(map(len, texts))
        if characters > self._inline:
            body = await self._runtime.handlers.pool.run(to_json, content)
        else:
            body = to_json(content)
        call.observe(Phase.SERIALIZE, time.monotonic() - began)
        return items_answer(body, failure)


def _content(reply: TranslateReply, call: Call) -> dict[str, Any]:
    return {
        "model": reply.model,
        "version": reply.version,
        "task": "translation",
        "id": call.id,
        "translations": [
            each.body() if isinstance(each, ServerError) else each for each in reply.described()
        ],
    }


_TEXT = {"schema": {"type": "string"}}
_REF = "#/components/schemas/"
_BODY: dict[str, Any] = {
    "application/json": {
        "schema": {
            "oneOf": [{"$ref": _REF + "TranslateBody"}, {"$ref": _REF + "LibreTranslateBody"}]
        }
    },
    "application/x-www-form-urlencoded": {"schema": {"$ref": _REF + "LibreTranslateBody"}},
    "multipart/form-data": {"schema": {"type": "object", "additionalProperties": True}},
    "text/plain": _TEXT,
}
_ANSWER = {"oneOf": [{"$ref": _REF + "TranslateAnswer"}, {"$ref": _REF + "LibreTranslateAnswer"}]}
_ABOUT = """A body with `text` is answered with `translations`; one with `q` as LibreTranslate does.

`Accept: text/event-stream` gives events: `text` with the next settled piece of a translation,
`done` with the whole answer, `error` if it fails on the way."""


def routes(runtime: Runtime) -> list[Route]:
    """Return the route of translation."""
    options = ("model", "version", "label", "timeout_s", "priority", "source", "target", "beams")
    doc = Doc("Translate texts", "translate", _BODY, "TranslateAnswer", options, description=_ABOUT)
    return [Route("POST", "/translate", TranslateRoute(runtime), doc)]
