"""`/docs` and `/openapi.json`, made from the table of routes, which FastAPI does not see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from server import __version__
from server.handlers.call import Call
from server.routes.answers import JSON, Answer, Receive, Scope, page_answer, to_json
from server.routes.endpoint import Headers
from server.routes.table import Doc, Route
from server.schemas import SCHEMAS

_REF = "#/components/schemas/{model}"
_ABOUT = """Serves neural networks. `POST /predict` takes JSON, a form, or a raw picture or text.

Every answer carries `X-Request-Id` and `Server-Timing`; every error is `{"error", "code", ...}`.
`X-Request-Timeout: <seconds>` sets a request's deadline."""
_FAILURES = {
    "400": "The bytes are not what the route reads",
    "404": "No such model or version",
    "422": "Well-formed but wrong; 400 on /v2 and /v1",
    "429": "The queue is full; see `Retry-After`",
    "503": "Nothing can answer now",
    "504": "The deadline passed",
}


def routes(table: Sequence[Route]) -> list[Route]:
    """Return the routes that describe all others."""
    document: list[bytes] = []  # made when it is first asked for

    async def docs(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        return page_answer("api")

    async def openapi(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        if not document:
            document.append(to_json(build_openapi(table)))
        return Answer(200, document[0], [JSON])

    return [
        Route("GET", "/docs", docs, Doc("This API as a page", "service")),
        Route("GET", "/openapi.json", openapi, Doc("This API as OpenAPI 3.1", "service")),
    ]


def build_openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes."""
    _, definitions = models_json_schema(
        [(schema, "validation") for schema in SCHEMAS], ref_template=_REF
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millrace", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    doc = route.doc
    operation: dict[str, Any] = {
        "summary": doc.summary,
        "tags": [doc.tag],
        "operationId": _operation_id(route),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)(?::path)?}", route.path)
        ]
        + [{"name": name, "in": "query", "schema": {"type": "string"}} for name in doc.query],
        "responses": _responses(doc),
    }
    if doc.description:
        operation["description"] = doc.description
    if doc.body is not None:
        operation["requestBody"] = {"content": _content(doc.body)}
    if doc.admin:
        operation["security"] = [{"admin": []}]
    return operation


def _content(body: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(body, str):
        return {"application/json": {"schema": {"$ref": _REF.format(model=body)}}}
    return body


def _responses(doc: Doc) -> dict[str, Any]:
    ok: dict[str, Any] = {"description": "The answer"}
    if doc.answer is not None:
        ok["content"] = _content(doc.answer)
    responses: dict[str, Any] = {"200": ok}
    failures = dict(_FAILURES)
    if doc.admin:
        failures |= {"401": "The admin token is missing or wrong", "403": "Not from here"}
    for status, description in failures.items():
        responses[status] = {"description": description, "content": _content("Failure")}
    return responses


def _operation_id(route: Route) -> str:
    return re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")
