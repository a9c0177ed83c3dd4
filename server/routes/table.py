"""The routes as a table: method, path, what answers, and what the OpenAPI page says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import MethodNotAllowed
from server.routes.answers import Receive, Scope, Send, error_answer, send_answer
from server.routes.endpoint import Answerer, Endpoint, Runtime, begin_call


@dataclass(frozen=True)
class Doc:
    """One operation of the OpenAPI page; bodies and answers are names of `schemas`."""

    summary: str
    tag: str
    body: str | dict[str, Any] | None = None  # a schema's name, or whole `content`
    answer: str | None = None
    query: tuple[str, ...] = ()
    admin: bool = False
    description: str = ""


@dataclass(frozen=True)
class Route:
    """One verb of one path."""

    method: str
    path: str
    answerer: Answerer
    doc: Doc
    tensor_door: bool = field(default=False)


class MethodSwitch:
    """An ASGI app for one path: one endpoint for each verb, 405 with `Allow` for the others."""

    def __init__(self, runtime: Runtime, routes: Sequence[Route]) -> None:
        """Take the routes of one path."""
        self.endpoints = {
            route.method: Endpoint(runtime, route.answerer, tensor_door=route.tensor_door)
            for route in routes
        }
        if "GET" in self.endpoints:
            self.endpoints.setdefault("HEAD", self.endpoints["GET"])
        self._allow = sorted(self.endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the verb's endpoint."""
        endpoint = self.endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        call = begin_call(dict(scope["headers"]), receive)
        error = MethodNotAllowed(
            f"{scope['method'][:20]} is not for this path; use {' or '.join(self._allow)}",
            allow=self._allow,
        )
        await send_answer(send, error_answer(error, call), call)


def by_path(routes: Sequence[Route]) -> dict[str, list[Route]]:
    """Return the routes of each path, in the order of the table."""
    paths: dict[str, list[Route]] = {}
    for route in routes:
        paths.setdefault(route.path, []).append(route)
    return paths
