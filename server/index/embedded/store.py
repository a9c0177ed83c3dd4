"""The folder that holds all collections."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from server.errors import Conflict, NotFound, StoreUnavailable
from server.index.archive import open_archive, restore_into, write_archive
from server.index.checks import NAME, check_name, check_spec
from server.index.contract import CollectionSpec
from server.index.embedded.collection import COMPACT_FROM, EmbeddedCollection
from server.index.embedded.database import explain
from server.index.embedded.loading import DATABASE, make_collection, sync_folder

LOCK = ".lock"
UNFINISHED = ".new-"  # a collection that is being made
DROPPED = ".dropped-"  # one that is being removed
MOST_NAMED = 10  # collections that an error lists


def open_store(path: Path) -> EmbeddedStore:
    """Open the collections of a folder, which is made if it is not there.

    Raises:
        StoreUnavailable: another process has it open, or it cannot be written to.
    """
    return EmbeddedStore(path)


class EmbeddedStore:
    """All collections of one folder."""

    def __init__(self, root: Path, *, compact_from: int = COMPACT_FROM) -> None:
        """Take the folder; see `open_store`."""
        self._root = Path(root)
        self._compact_from = compact_from
        self._guard = threading.RLock()
        self._open: dict[str, EmbeddedCollection] = {}
        self._closed = False
        with self._explained():
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._root / LOCK)
            self._remove_leftovers()

    def create(self, spec: CollectionSpec) -> EmbeddedCollection:
        """Make a collection; see `Store.create`."""
        check_spec(spec)
        with self._new_folder(spec.name) as folder:
            make_collection(folder, spec)
        return self.open(spec.name)

    def open(self, name: str) -> EmbeddedCollection:
        """Return a collection; the same object each time."""
        found = self._open.get(name)
        if found is not None:  # without waiting for another one that is being read
            return found
        with self._guard:
            self._check_open()
            found = self._open.get(name)
            if found is None:
                if not self._exists(name):
                    raise NotFound(self._no_such(name), collection=str(name)[:80])
                found = EmbeddedCollection(self._root / name, compact_from=self._compact_from)
                self._open[name] = found
            return found

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        with self._explained():
            return sorted(path.name for path in self._root.iterdir() if self._exists(path.name))

    def drop(self, name: str) -> None:
        """Remove a collection with all it holds.

        Raises:
            NotFound: there is none of that name.
        """
        with ExitStack() as stack, self._guard:
            self._check_open()
            if not self._exists(name):
                raise NotFound(self._no_such(name), collection=str(name)[:80])
            trash = self._root / f"{DROPPED}{uuid.uuid4().hex}"
            found = self._open.pop(name, None)
            if found is not None:  # before another one can come to be where its files are sought
                stack.callback(found.close)
                found.retire()
            with self._explained():
                (self._root / name).rename(trash)
                sync_folder(self._root)
        shutil.rmtree(trash, ignore_errors=True)  # what is left goes at the next start

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Iterator[bytes]]:
        """Give a collection as it is at this moment as the bytes of one archive."""
        with self.open(name).frozen() as contents:
            yield write_archive(contents)

    def restore(self, name: str, archive: Path) -> EmbeddedCollection:
        """Make a collection from an archive of any store; see `Store.restore`."""
        with self._new_folder(name) as folder, open_archive(archive) as contents:
            make_collection(folder, replace(contents.spec, name=name))
            made = EmbeddedCollection(folder)
            try:
                restore_into(made, contents)
            finally:
                made.close()
        return self.open(name)

    def close(self) -> None:
        """Write what is pending, and let go of the folder."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            collections, self._open = list(self._open.values()), {}
        for collection in collections:
            collection.close()
        os.close(self._lock)

    @contextmanager
    def _new_folder(self, name: str) -> Iterator[Path]:
        """Give a folder that becomes the collection when the block ends well, at once."""
        check_name(name)
        self._check_open()
        self._check_free(name)
        folder = self._root / f"{UNFINISHED}{uuid.uuid4().hex}"
        try:
            with self._explained():
                folder.mkdir()
                yield folder
                with self._guard:  # another one may have come meanwhile
                    self._check_open()
                    self._check_free(name)
                    folder.rename(self._root / name)
                sync_folder(self._root)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _check_free(self, name: str) -> None:
        if (self._root / name).exists():
            raise Conflict(
                f"there is a collection {name!r} already: take another name, or delete it first",
                collection=name,
            )

    def _exists(self, name: str) -> bool:
        return bool(NAME.fullmatch(name)) and (self._root / name / DATABASE).is_file()

    def _no_such(self, name: str) -> str:
        names = self.names()
        some = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
        return f"no collection {str(name)[:80]!r}; there are: {some or 'none yet'}"

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the collections in {self._root} have been closed")

    def _remove_leftovers(self) -> None:
        for path in self._root.iterdir():
            if path.name.startswith((UNFINISHED, DROPPED)):
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(error, self._root / LOCK) from error


def _lock(path: Path) -> int:
    """Take the folder for this process; the kernel gives it back whatever ends the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreUnavailable(
            f"the collections in {path.parent} are open in process {holder or '?'}: one process "
            "at a time can use a folder; ask that one over HTTP, or keep them in PostgreSQL"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
