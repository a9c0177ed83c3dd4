"""Probes, metrics, and the page at `/`: open to everybody, cheap, never behind the queue."""

from __future__ import annotations

import asyncio

from server import __version__
from server.handlers.call import Call
from server.routes.answers import VARY, Answer, Receive, Scope, json_answer, page_answer
from server.routes.endpoint import Headers, Runtime
from server.routes.table import Doc, Route


def routes(runtime: Runtime) -> list[Route]:
    """Return the routes of probes and metrics."""

    async def live(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        return json_answer({"live": True})

    async def ready(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        is_ready = runtime.ready
        return json_answer({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        metrics = runtime.handlers.metrics
        # Not among the requests' heavy work: a scrape must come through when that is backed up.
        body = await asyncio.to_thread(metrics.render)
        return Answer(200, body, [(b"content-type", metrics.content_type.encode())])

    async def index(scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        if wants_page(headers):
            return page_answer("console")
        models = {status.name: status.default for status in runtime.handlers.models.status()}
        answer = json_answer(
            {
                "name": "millrace",
                "version": __version__,
                "ready": runtime.ready,
                "models": models,
                "docs": "/docs",
                "routes": [
                    *("/predict", "/classify", "/embed", "/translate", "/languages", "/detect"),
                    *("/similar", "/collections", "/v2", "/v1", "/models", "/metrics"),
                ],
            }
        )
        answer.headers.append(VARY)
        return answer

    return [
        Route(
            "GET",
            "/",
            index,
            Doc(
                "What this server is and which models it has",
                "service",
                description="JSON; the console for browsers, which accept `text/html`.",
            ),
        ),
        Route("GET", "/v2/health/live", live, Doc("Is the process alive?", "health")),
        Route("GET", "/v2/health/ready", ready, Doc("Can it take requests? 200 or 503", "health")),
        Route("GET", "/metrics", metrics, Doc("Prometheus metrics", "service")),
    ]


def wants_page(headers: Headers) -> bool:
    """Say whether a person's browser asks; programs that take anything get JSON."""
    return b"text/html" in headers.get(b"accept", b"").lower()
