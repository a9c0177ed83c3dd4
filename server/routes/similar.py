"""`POST /similar`: what looks like this?"""

from __future__ import annotations

import time
from typing import Any

from server.errors import ServerError
from server.handlers.call import Call
from server.handlers.similar import SimilarReply
from server.metrics import Phase
from server.routes.answers import (
    Answer,
    Receive,
    Scope,
    failure_of_all,
    items_answer,
    to_json,
)
from server.routes.endpoint import Headers, Runtime
from server.routes.similar_body import read_similar
from server.routes.table import Doc, Route

_HEAVY_HITS = 500  # an answer of more is written by a worker


class SimilarRoute:
    """The answerer of `/similar`, and of the same under a collection."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep what every request uses."""
        self._runtime = runtime
        self._inline = runtime.settings.max_inline_json_bytes

    async def __call__(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Answer one search."""
        runtime, handlers = self._runtime, self._runtime.handlers
        body = await runtime.bodies.read(headers, receive, handlers.pool)
        began = time.monotonic()
        about = headers.get(b"content-type", b""), scope["query_string"], call
        # A raw picture needs no reading, however long it is.
        raw = about[0].startswith(b"image/")
        if len(body) > self._inline and not raw:
            request = await handlers.pool.run(read_similar, body, *about)
        else:
            request = read_similar(body, *about)
        named = scope.get("path_params", {}).get("collection")
        if named is not None:
            request.collection = named
        call.observe(Phase.PARSE, time.monotonic() - began)
        reply = await handlers.similar.similar(request, call)
        return await self._write(reply, call)

    async def _write(self, reply: SimilarReply, call: Call) -> Answer:
        began = time.monotonic()
        content = _content(reply, call)
        failure = failure_of_all(reply.results)
        if failure is not None:
            content |= failure.body()
        hits = sum(len(each) for each in reply.results if not isinstance(each, ServerError))
        if hits > _HEAVY_HITS:
            body = await self._runtime.handlers.pool.run(to_json, content)
        else:
            body = to_json(content)
        call.observe(Phase.SERIALIZE, time.monotonic() - began)
        return items_answer(body, failure)


def _content(reply: SimilarReply, call: Call) -> dict[str, Any]:
    lacking = {"thumbnails_left_out": reply.no_thumbnail} if reply.no_thumbnail else {}
    return {
        "collection": reply.collection,
        "model": reply.model,
        "version": reply.version,
        "space": reply.space,
        "missing": reply.missing,
        "id": call.id,
        **lacking,
        "results": [
            each.body() if isinstance(each, ServerError) else {"hits": each}
            for each in reply.results
        ],
    }


_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/SimilarBody"}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "array", "items": _FILE}, "k": {"type": "string"}},
            "required": ["file"],
            "additionalProperties": {"type": "string"},
        }
    },
    "image/*": {"schema": _FILE},
}
_ABOUT = """The nearest items of a collection to a picture, an item (`id`), a vector, or to each of
several `queries`. The score grows with likeness: cosine, dot product, or minus the distance.

A query by item leaves the item itself out, unless `include_self`. `return` lists what comes with
each hit: `metadata` (the default), `thumbnail`, `vector`; thumbnails as far as there is room in
`max_answer_bytes`, the nearest hits first (`thumbnails_left_out` counts the others)."""
_QUERY = (
    *("collection", "id", "k", "offset", "min_score", "filter", "exact", "include_self"),
    *("return", "version", "label", "timeout_s", "priority"),
)


def routes(runtime: Runtime) -> list[Route]:
    """Return the doors of search."""
    answerer = SimilarRoute(runtime)
    doc = Doc(
        "Find the nearest items", "similarity", _BODY, "SimilarAnswer", _QUERY, description=_ABOUT
    )
    return [
        Route("POST", "/similar", answerer, doc),
        Route("POST", "/collections/{collection}/similar", answerer, doc),
    ]
