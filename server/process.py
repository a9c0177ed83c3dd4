"""A server process: listens, drains on SIGTERM or SIGINT, and ends within a bound.

On the first signal readiness turns 503; `shutdown_delay_s` later the listening sockets close and
idle connections with them; requests in flight have `drain_timeout_s`; then the process ends, with
status 0, whatever clients or models do.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from server.app import Application, create_app
from server.execution import keep_freed_memory, settle_heap
from server.http_protocol import HttpProtocol
from server.logging import set_up_logging
from server.settings import Settings

logger = logging.getLogger("millrace.process")

SLACK_S = 5.0  # beyond the drain, for everything that should take no time
STUCK_STATUS = 70  # the exit status when the last resort was needed

Started = Callable[[str, Application], None]


class ServerProcess(uvicorn.Server):
    """Uvicorn's server with our shutdown."""

    def __init__(self, config: uvicorn.Config, app: Application, started: Started | None) -> None:
        """Serve the application; `started` is told the URL once the port is open."""
        super().__init__(config)
        self.app = app
        self._started_hook = started
        self._exit_at: float | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Open the port, and say so."""
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        settle_heap()
        if self.started and self._started_hook is not None:
            self._started_hook(self.url, self.app)

    @property
    def url(self) -> str:
        """Return the address to call from this machine."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second signal ends the process without waiting."""
        runtime = self.app.runtime
        if runtime.draining:
            self.should_exit = self.force_exit = True
            return
        settings = runtime.settings
        runtime.draining = True
        self._exit_at = time.monotonic() + settings.shutdown_delay_s
        runtime.stop_at = self._exit_at + settings.drain_timeout_s
        self.should_exit = settings.shutdown_delay_s == 0
        _end_at_last(settings.shutdown_delay_s + settings.drain_timeout_s + SLACK_S)
        logger.info("%s: draining", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """Stop listening once the delay after the signal is over."""
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _end_at_last(seconds: float) -> None:
    """End the process even if a thread holds on to it."""

    def end() -> None:
        logger.error("the shutdown did not finish in time; the process ends now")
        os._exit(STUCK_STATUS)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def build_server(settings: Settings, started: Started | None = None) -> ServerProcess:
    """Return a server that is ready to run."""
    keep_freed_memory()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop, where there is one
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the admin guard must see who is really calling
        server_header=False,
        backlog=settings.backlog,
        timeout_keep_alive=max(1, round(settings.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    return ServerProcess(config, app, started)


def run_server(settings: Settings, started: Started | None = None) -> None:
    """Serve until a signal comes."""
    set_up_logging(settings)
    build_server(settings, started).run()
