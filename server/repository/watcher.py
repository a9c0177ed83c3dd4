"""Notice that something in the repository's folder may have changed.

File events are only a hint to look sooner: they get lost on network file systems and under load.
Correctness comes from looking again every `reconcile_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchfiles import Change, awatch

from server.repository.layout import STATE_FILE

DEBOUNCE_MS = 200  # a copy makes many events; one look is enough
STOP_CHECK_MS = 500
MIN_WAIT_S = 0.02

logger = logging.getLogger(__name__)


class Watcher:
    """Calls `look` when files changed, and every `reconcile_s` in any case."""

    def __init__(
        self, root: Path, look: Callable[[], Awaitable[float | None]], reconcile_s: float
    ) -> None:
        """Take what to do; `look` may return in how many seconds it wants to look again."""
        self._root = root
        self._look = look
        self._reconcile_s = reconcile_s
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, events: bool) -> None:
        """Begin; without `events` only the clock counts."""
        self._tasks.append(asyncio.create_task(self._reconcile(), name="reconcile"))
        if events:
            self._tasks.append(asyncio.create_task(self._listen(), name="watch files"))

    def wake(self) -> None:
        """Look as soon as possible."""
        self._wake.set()

    async def stop(self) -> None:
        """End both loops; a look that has begun is finished."""
        self._stop.set()
        self._wake.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reconcile(self) -> None:
        wait_s: float = self._reconcile_s
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()
            if not self._stop.is_set():
                wait_s = await self._look_once()

    async def _look_once(self) -> float:
        try:
            sooner = await self._look()
        except Exception:
            logger.exception("looking at the repository failed; the next look may not")
            return self._reconcile_s
        if sooner is None:
            return self._reconcile_s
        return min(self._reconcile_s, max(sooner, MIN_WAIT_S))

    async def _listen(self) -> None:
        # One line per event at level INFO would drown the log; what it leads to is logged anyway.
        logging.getLogger("watchfiles.main").setLevel(logging.WARNING)
        told = False
        while not self._stop.is_set():
            fault = await self._watch()
            if not told and not self._stop.is_set():
                told = True
                logger.warning(
                    "no file events of %s (%s): looking every %g s instead",
                    self._root,
                    fault,
                    self._reconcile_s,
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._reconcile_s):
                    await self._stop.wait()

    async def _watch(self) -> str:
        """Pass events on until the end; return why there are no more."""
        # The library takes a folder that is missing for one without events.
        if not await asyncio.to_thread(self._root.is_dir):
            return "it does not exist"
        try:
            async for _ in awatch(
                self._root,
                watch_filter=_is_interesting,
                debounce=DEBOUNCE_MS,
                rust_timeout=STOP_CHECK_MS,
                stop_event=self._stop,
                ignore_permission_denied=True,
            ):
                self._wake.set()
        except (OSError, RuntimeError) as error:
            return str(error)
        return "the watch ended"


def _is_interesting(change: Change, path: str) -> bool:
    """Leave out what the server itself keeps in hidden files, but for the desired state."""
    name = Path(path).name
    return name == STATE_FILE or not any(
        part.startswith((".incoming-", ".trash-", ".state.")) for part in Path(path).parts
    )
