"""`POST /predict`, `/classify`, `/embed`: the simple door, and the same per task."""

from __future__ import annotations

import time
from typing import Any

from server.errors import ServerError
from server.handlers.call import Call
from server.handlers.predict import PredictReply, PredictRequest
from server.metrics import Phase
from server.routes.answers import (
    Answer,
    Receive,
    Scope,
    failure_of_all,
    items_answer,
    to_json,
)
from server.routes.endpoint import Answerer, Headers, Runtime
from server.routes.predict_body import read_request
from server.routes.table import Doc, Route


def predict_route(runtime: Runtime, task: str | None) -> Answerer:
    """Return the answerer of `/predict` (task None) or of one task's route."""
    inline = runtime.settings.max_inline_json_bytes

    async def answer(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        handlers = runtime.handlers
        body = await runtime.bodies.read(headers, receive, handlers.pool)
        began = time.monotonic()
        about = headers.get(b"content-type", b""), scope["query_string"], task, call
        if len(body) > inline:
            request = await handlers.pool.run(read_request, body, *about)
            request.large = True
        else:
            request = read_request(body, *about)
        parse_s = time.monotonic() - began
        reply = await handlers.predict(request, call, parse_s)
        return await _write(runtime, request, reply, call)

    return answer


async def _write(
    runtime: Runtime, request: PredictRequest, reply: PredictReply, call: Call
) -> Answer:
    handlers = runtime.handlers
    began = time.monotonic()
    content = _content(reply, call)
    failure = failure_of_all(reply.results)
    if failure is not None:
        content |= failure.body()
    if request.large or call.output_bytes > runtime.settings.max_inline_json_bytes:
        body = await handlers.pool.run(to_json, content)
    else:
        body = to_json(content)
    call.observe(Phase.SERIALIZE, time.monotonic() - began)
    return items_answer(body, failure)


def _content(reply: PredictReply, call: Call) -> dict[str, Any]:
    return {
        "model": reply.model,
        "version": reply.version,
        "task": reply.task,
        "id": call.id,
        "results": [
            item.body() if isinstance(item, ServerError) else item for item in reply.results
        ],
    }


_OPTIONS = ("model", "version", "label", "timeout_s", "priority", "top_k", "normalize")
_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/PredictBody"}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                "file": {"type": "array", "items": _FILE},
                "model": {"type": "string"},
                "version": {"type": "string"},
            },
            "required": ["file"],
            "additionalProperties": {"type": "string"},
        }
    },
    "image/*": {"schema": _FILE},
    "text/plain": {"schema": {"type": "string"}},
}


def routes(runtime: Runtime) -> list[Route]:
    """Return the simple doors."""
    doors = (
        ("/predict", None, "Predict: the model's task decides the answer"),
        ("/classify", "classification", "Classify; refuses a model of another task"),
        ("/embed", "embedding", "Embed; refuses a model of another task"),
    )
    return [
        Route(
            "POST",
            path,
            predict_route(runtime, task),
            Doc(summary, "predict", _BODY, "PredictAnswer", _OPTIONS),
        )
        for path, task, summary in doors
    ]
