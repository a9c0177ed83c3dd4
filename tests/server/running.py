"""A whole server in this process, on a free port, with real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from server.app import Application
from server.process import build_server
from server.settings import Settings
from tests.waiting import wait_until

# Far beyond what anything takes, on the busiest machine.
START_S = 300.0
STOP_S = 300.0
PATIENCE_S = 200.0  # of a client with one answer


class RunningServer:
    """A server in a thread; `url` once it listens."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.model_copy(update={"port": 0})
        self.url = ""
        self._listening = threading.Event()
        self._server = build_server(self.settings, self._started)
        self.app: Application = self._server.app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._server.run()

    def _started(self, url: str, app: Application) -> None:
        self.url = url
        self._loop = asyncio.get_running_loop()
        self._listening.set()

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(START_S), "the server did not open its port"
        wait_until(lambda: get(f"{self.url}/v2/health/ready").status_code == 200)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the server did not stop"

    def on_loop(self, fn: Any) -> Any:
        """Run a coroutine function on the server's loop, and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(fn(), self._loop).result(START_S)


def get(url: str) -> httpx.Response:
    """Get with more patience than httpx has by itself: 5 s."""
    return httpx.get(url, timeout=PATIENCE_S)


def until_late(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask for what takes longer than its deadline until an answer says so.

    Where the server's loop gets no core meanwhile, the result is there when it looks at the clock,
    and is given.
    """
    for _ in range(100):
        answer = ask()
        if answer.status_code != 200:
            break
    return answer


@contextmanager
def running_server(settings: Settings) -> Iterator[RunningServer]:
    """Run a server for the length of a block."""
    server = RunningServer(settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
