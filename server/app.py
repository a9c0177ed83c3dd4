"""The application: every part built from the settings, started and stopped in order.

Requests to the hot routes do not pass FastAPI's routing and middleware; everything else does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route as PathRoute
from starlette.types import ASGIApp

from server import __version__
from server.errors import NotFound
from server.execution import WorkerPool, limit_blas_threads, set_switch_interval
from server.handlers import Handlers
from server.metrics import Metrics
from server.repository.registry import Repository
from server.routes import (
    collections,
    documentation,
    heads,
    health,
    libretranslate,
    metadata_v2,
    models,
    predict,
    similar,
    tensorflow_v1,
    translate,
)
from server.routes.answers import Receive, Scope, Send, error_answer, send_answer
from server.routes.endpoint import Endpoint, Runtime, begin_call
from server.routes.table import MethodSwitch, Route, by_path
from server.serving import attachments
from server.settings import Settings, available_cpus, load_settings
from server.similarity.attachment import SimilarityAttachment
from server.similarity.bindings import Bindings
from server.similarity.service import Collections
from server.similarity.stores import Stores
from server.text import LanguageDetector

logger = logging.getLogger("millrace.app")

HOT = ("/predict", "/classify", "/embed", "/translate", "/similar")
POOL_CLOSE_S = 2.0
STORES_CLOSE_S = 5.0
FILE_THREADS = 2  # what asyncio.to_thread runs on: looks at folders, uploads, scrapes
SWITCH_INTERVAL_S = 0.001  # how long a worker may keep the interpreter from the event loop
LEAST_STOP_S = 1.0


class Application(FastAPI):
    """A FastAPI application with a short way to the hot routes."""

    def __init__(self, runtime: Runtime, table: Sequence[Route], **options: Any) -> None:
        """Mount the table's routes."""
        super().__init__(
            title="Millrace",
            version=__version__,
            openapi_url=None,  # the table has these routes, too
            docs_url=None,
            redoc_url=None,
            **options,
        )
        self.runtime = runtime
        self.router.redirect_slashes = False
        self._hot: dict[str, Endpoint] = {}
        self._infer: Endpoint | None = None
        for path, routes in by_path(table).items():
            switch = MethodSwitch(runtime, routes)
            self.router.routes.append(PathRoute(path, switch, include_in_schema=False))
            if path in HOT:
                self._hot[path] = switch.endpoints["POST"]
            elif path == "/v2/models/{model}/infer":
                self._infer = switch.endpoints["POST"]
        self._front: ASGIApp = self._serve
        origins = runtime.settings.cors_origins
        if origins:
            self._front = CORSMiddleware(
                self._serve,
                allow_origins=origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["server-timing", "x-request-id", "retry-after"],
            )
        self.add_exception_handler(HTTPException, _not_found)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            await self._front(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            endpoint = self._hot.get(scope["path"]) or self._infer_endpoint(scope)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _infer_endpoint(self, scope: Scope) -> Endpoint | None:
        path: str = scope["path"]
        if not (path.startswith("/v2/models/") and path.endswith("/infer")):
            return None
        parts = path.split("/")  # "", v2, models, {model}, [versions, {version},] infer
        if len(parts) == 5 and parts[3]:
            scope["path_params"] = {"model": parts[3]}
        elif len(parts) == 7 and parts[3] and parts[4] == "versions" and parts[5]:
            scope["path_params"] = {"model": parts[3], "version": parts[5]}
        else:
            return None
        return self._infer


def create_app(settings: Settings | None = None) -> Application:
    """Build the application; nothing is read or started before its lifespan begins."""
    settings = settings if settings is not None else load_settings()
    runtime = Runtime(settings)
    table = [
        *health.routes(runtime),
        *predict.routes(runtime),
        *translate.routes(runtime),
        *libretranslate.routes(runtime),
        *metadata_v2.routes(runtime),
        *tensorflow_v1.routes(runtime),
        *models.routes(runtime),
        *heads.routes(runtime),
        *similar.routes(runtime),
        *collections.routes(runtime),
    ]
    table += documentation.routes(table)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(runtime):
            yield

    return Application(runtime, table, lifespan=lifespan)


@asynccontextmanager
async def _running(runtime: Runtime) -> AsyncIterator[None]:
    """Start the parts, lowest first; stop them in the reverse order, each within a bound."""
    settings = runtime.settings
    set_switch_interval(SWITCH_INTERVAL_S)
    # Half the cores for one run by default: the loop and a second run need some, too.
    limit_blas_threads(settings.engine_threads or max(1, available_cpus() // 2))
    pool = WorkerPool(settings.worker_threads)
    await _start_file_threads()
    metrics = Metrics()
    detector = LanguageDetector()
    stores = Stores(settings)
    bindings = Bindings(stores.existing, metrics.collections)
    # The last: it asks the new version's own batcher for vectors.
    moved = (*attachments(pool, metrics, settings, detector), SimilarityAttachment(bindings, pool))
    repository = Repository(settings, metrics, moved)
    similarity = Collections(settings, pool, metrics, repository, stores, bindings)
    runtime.start(Handlers(repository, pool, metrics, settings, similarity, detector))
    metrics.loop_lag.start()
    await repository.start()
    try:
        yield
    finally:
        runtime.draining = True
        stop_at = runtime.stop_at or time.monotonic() + settings.drain_timeout_s
        # Requests that outlasted the drain have been cancelled; their leases are back.
        left_s = max(LEAST_STOP_S, stop_at - time.monotonic())
        await _bounded(repository.stop(), left_s, "the repository")
        metrics.loop_lag.stop()
        await _bounded(similarity.close(), STORES_CLOSE_S, "the collections")
        # Its threads are daemons: one that hangs in a run does not hold up the exit.
        closing = asyncio.get_running_loop().run_in_executor(None, pool.close)
        await _bounded(closing, POOL_CLOSE_S, "the worker threads")


async def _start_file_threads() -> None:
    """Give the loop all its threads for files now; a count that grows later is a leak."""
    executor = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="millrace-files")
    asyncio.get_running_loop().set_default_executor(executor)
    all_there = threading.Barrier(FILE_THREADS)
    await asyncio.gather(*(asyncio.to_thread(all_there.wait) for _ in range(FILE_THREADS)))


async def _bounded(stopping: Any, seconds: float, what: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping
    except TimeoutError:
        logger.warning("%s did not stop within %.1f s and is left behind", what, seconds)


async def _not_found(request: Any, error: HTTPException) -> Any:
    """Answer what no route matches, in the one shape of an error."""
    return _Missing(error)


class _Missing:
    """An ASGI answer for a path that is not there."""

    def __init__(self, error: HTTPException) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = begin_call(dict(scope["headers"]), receive)
        path = scope["path"][:200]
        missing = NotFound(f"there is no {path!r}; see /docs for what there is")
        await send_answer(send, error_answer(missing, call), call)
