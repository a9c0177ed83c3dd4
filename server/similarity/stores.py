"""Which store the collections are in, opened when it is first needed; and the threads to use it.

A folder is made with the first collection, not before: a server that has none leaves no traces.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast

from server.errors import ServerDraining
from server.execution import WorkerPool
from server.index.contract import Store
from server.settings import Settings

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

# Loaded by name, so that what a store needs is needed only where it is used.
FOLDER = "server.index.embedded"
DATABASE = "server.index.postgres"
DATABASE_SCHEMES = ("postgresql://", "postgres://")
THREADS = 8  # most of them wait, for a disk or for a database


class _StoreModule(Protocol):
    def open_store(self, place: Any) -> Store: ...


class Stores:
    """The store that the settings name; every method blocks and may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        self._place = settings.collections
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._closed = False

    @property
    def is_database(self) -> bool:
        """Say whether the collections are in a database."""
        return self._place.startswith(DATABASE_SCHEMES)

    @property
    def folder(self) -> Path | None:
        """Return the folder of the collections, if they are in one that exists."""
        path = None if self.is_database else Path(self._place)
        return path if path is not None and path.is_dir() else None

    def existing(self) -> Store | None:
        """Return the store; None as long as there is none, and so no collection.

        Raises:
            ServerError: it cannot be opened.
        """
        return self._opened(create=False)

    def for_writing(self) -> Store:
        """Return the store; a folder that is not there is made.

        Raises:
            ServerError: it cannot be opened.
        """
        store = self._opened(create=True)
        assert store is not None  # one that is to be made is there
        return store

    def _opened(self, *, create: bool) -> Store | None:
        with self._lock:
            if self._closed:
                raise ServerDraining("the server is shutting down and opens no collections")
            if self._store is None and (create or self.is_database or self.folder is not None):
                self._store = self._open()
            return self._store

    def _open(self) -> Store:
        name = DATABASE if self.is_database else FOLDER
        module = cast(_StoreModule, importlib.import_module(name))
        return module.open_store(self._place if self.is_database else Path(self._place))

    def close(self) -> None:
        """Close what was opened; nothing is opened any more."""
        with self._lock:
            self._closed = True
            store, self._store = self._store, None
        if store is not None:
            store.close()


class StoreThreads:
    """The threads in which stores are called, all started with the first call."""

    def __init__(self, threads: int = THREADS) -> None:
        """Start none yet."""
        self._threads = threads
        self._crew: WorkerPool | None = None
        self._closed = False

    async def run(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        """Return `fn(*args)`, called in a thread; one that has begun goes on when cancelled.

        Raises:
            QueueFull: too many calls wait already.
            ServerDraining: the server is shutting down.
        """
        if self._closed:
            raise ServerDraining("the server is shutting down and takes no new work")
        if self._crew is None:
            self._crew = WorkerPool(self._threads, batches=0, name="store")
        return await self._crew.run(fn, *args)

    def close(self) -> None:
        """Finish what was handed over; blocks until then."""
        self._closed = True
        if self._crew is not None:
            self._crew.close()
