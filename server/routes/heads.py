"""`POST /models/{model}/heads`: a classifier from labelled pictures; the reports of versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from server.errors import InternalFault, UnsupportedMedia
from server.handlers.call import Call
from server.handlers.heads import step_dict, taught_dict
from server.learning.orders import Order, Step, Taught
from server.routes.answers import JSON, Answer, Receive, Scope, json_answer
from server.routes.connected import while_connected
from server.routes.endpoint import Headers, Runtime
from server.routes.event_stream import Event, event_answer, stream_wanted
from server.routes.guard import guarded
from server.routes.heads_body import OPTIONS, form_order, json_order, make_order
from server.routes.request_options import read_query
from server.routes.table import Doc, Route
from server.routes.uploads import path_of, spooled, upload

_ARCHIVES = (
    *(b"application/zip", b"application/x-zip-compressed", b"application/x-tar"),
    *(b"application/gzip", b"application/x-gzip", b"application/x-gtar"),
    *(b"application/x-compressed-tar", b"application/octet-stream"),
)
_PNG = (b"content-type", b"image/png")


class HeadRoutes:
    """The answerers for classifiers from pictures."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    async def learn(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Learn a classifier; the answer comes when it is served, or step by step."""
        guarded(scope, headers, self._runtime.settings)
        order = await self._order(scope, headers, receive)
        teaching = self._runtime.handlers.heads.teach(order)
        told = while_connected(teaching, call, until=_is_published)
        form = stream_wanted(headers.get(b"accept", b""))
        if form is not None:
            return await event_answer(told, _describe, call, form)
        taught = await _last(told)
        return json_answer(taught_dict(taught), 200 if taught.version is None else 201)

    async def report(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return how well a version did on pictures it did not see."""
        params = scope["path_params"]
        heads = self._runtime.handlers.heads
        return Answer(200, await heads.report(params["model"], params["version"]), [JSON])

    async def picture(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return the confusion matrix of a version as a picture."""
        params = scope["path_params"]
        heads = self._runtime.handlers.heads
        return Answer(200, await heads.picture(params["model"], params["version"]), [_PNG])

    async def _order(self, scope: Scope, headers: Headers, receive: Receive) -> Order:
        runtime = self._runtime
        base: str = scope["path_params"]["model"]
        options: dict[str, Any] = dict(read_query(scope["query_string"]))
        asked = make_order(base, options, ())
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind in _ARCHIVES:
            runtime.handlers.heads.check(asked)  # before a body that may be long
            body = upload(headers, receive, runtime.settings)
            async with spooled(body, None) as file:
                examples, ignored = await runtime.handlers.heads.unpacked(path_of(file))
            return make_order(base, options, examples, ignored)
        pool = runtime.handlers.pool
        data = await runtime.bodies.read(headers, receive, pool)
        if kind == b"multipart/form-data":
            return await pool.run(form_order, base, options, data, headers[b"content-type"])
        if not kind or kind.endswith(b"json"):
            return await pool.run(json_order, base, options, data)
        raise UnsupportedMedia(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not read here; send a zip or tar "
            "with a folder per class, multipart/form-data, or application/json"
        )


def _is_published(told: Step | Taught) -> bool:
    return isinstance(told, Step) and told.stage == "publishing"


async def _last(told: AsyncGenerator[Step | Taught]) -> Taught:
    async with aclosing(told):
        async for each in told:
            if isinstance(each, Taught):
                return each
    raise InternalFault("learning ended without a result")


def _describe(told: Step | Taught) -> Event:
    return ("done", taught_dict(told)) if isinstance(told, Taught) else ("step", step_dict(told))


def routes(runtime: Runtime) -> list[Route]:
    """Return the routes of classifiers from pictures."""
    heads = HeadRoutes(runtime)
    binary = {"schema": {"type": "string", "format": "binary"}}
    learn = Doc(
        "Learn a classifier from labelled pictures, and publish it",
        "models",
        {
            "application/zip": binary,
            "multipart/form-data": {"schema": {"type": "object"}},
            "application/json": {"schema": {"type": "object"}},
        },
        admin=True,
        query=OPTIONS,
        description=(
            "An archive with a folder per class; a form with files in fields named after their "
            "class; or JSON: `items` of `image`, `label` and `name`, or a `collection` with "
            "`labels` or `label_field`. With `Accept: text/event-stream` or "
            "`application/x-ndjson` every step is told."
        ),
    )
    version = "/models/{model}/versions/{version}"
    return [
        Route("POST", "/models/{model}/heads", heads.learn, learn),
        Route(
            "GET", f"{version}/report", heads.report, Doc("Report of a learned version", "models")
        ),
        Route(
            "GET",
            f"{version}/report.png",
            heads.picture,
            Doc("Confusion matrix of a learned version", "models"),
        ),
    ]
