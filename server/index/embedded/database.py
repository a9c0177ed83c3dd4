"""The SQLite file of one collection: connections, transactions, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.errors import InternalFault, NotFound, ServerError, StoreUnavailable
from server.index.embedded.schema import APPLICATION_ID, SCHEMA, UPGRADES, VERSION

IDLE_CONNECTIONS = 8  # of readers, kept open for the next ones
SHRINK_PAGES = 256  # of 4 KiB at a time: writers wait for as long as these take
MOST_LOG_BYTES = 64 << 20  # that the log keeps when a long reader has let it grow
BUSY_MS = 10_000  # for another program that looks into the file; this process has one writer
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """One writer and many readers of one file; every commit is forced to the disk."""

    def __init__(self, path: Path) -> None:
        """Open the file; an empty or missing one gets the tables.

        Raises:
            ServerError: it cannot be opened, is no collection, or one of a later release.
        """
        self._path = path
        self._guard = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._doubtful = False  # whether the last commit failed
        with self.explained():
            self._writer = self._connect()
            try:
                self._prepare()
            except BaseException:
                self._writer.close()
                raise

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Enter a transaction; it is durable when the block has been left, or did nothing.

        The caller sees to it that there is one at a time.
        """
        with self.explained():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._commit()
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._writer.execute("ROLLBACK")
                raise

    def _commit(self) -> None:
        self._doubtful = True
        self._writer.execute("COMMIT")
        self._doubtful = False

    def settle_doubts(self) -> None:
        """Make sure that a commit that failed can never come to count; the one writer may ask.

        It may have reached the log, if not surely the disk, and would be found there after a
        crash: until the next commit takes its place. So before anything is written anew that it
        has claimed, that is done.

        Raises:
            ServerError: the disk is still full or failed.
        """
        if self._doubtful:
            with self.write() as writer:
                writer.execute("UPDATE counters SET value = value WHERE name = 'revision'")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Enter a transaction that sees one state of the file from its first statement on."""
        with self.explained():
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._give_back(connection)

    @contextmanager
    def read_apart(self) -> Iterator[sqlite3.Connection]:
        """Enter such a transaction on a connection of its own, for what is read in pieces.

        A statement of it that somebody has left half read would go on to hold the state that it
        saw, so the connection is not one for the next reader.
        """
        with self.explained():
            self._check_open()
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def shrink(self) -> bool:
        """Give room that was freed back to the disk, some of it; the one writer may ask.

        Returns whether there is more.
        """
        with self.explained():
            self._check_open()
            # As a script: `execute` takes one step of it, which frees one page.
            self._writer.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
            (left,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            return bool(left)

    def retire(self) -> None:
        """Let nobody in any more; the file may get another place now."""
        with self._guard:
            self._closed = True

    def close(self) -> None:
        """Close the file; blocks that are in `read` still end well."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        with suppress(sqlite3.Error):
            self._writer.close()  # the last one to close moves the log into the file

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound(f"the collection {self._path.parent.name!r} has been closed or dropped")

    def _take(self) -> sqlite3.Connection:
        with self._guard:
            self._check_open()
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._guard:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            # FULL: a commit waits for the disk. With the log, NORMAL would lose the last ones when
            # the machine, not the process, goes down.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        ask = self._writer.execute
        (application,) = ask("PRAGMA application_id").fetchone()
        (version,) = ask("PRAGMA user_version").fetchone()
        if application == 0 and ask("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            ask("PRAGMA auto_vacuum = INCREMENTAL")
            ask("PRAGMA journal_mode = WAL")
            with self.write():
                for statement in SCHEMA:
                    ask(statement)
                ask(f"PRAGMA application_id = {APPLICATION_ID}")
                ask(f"PRAGMA user_version = {VERSION}")
        elif application != APPLICATION_ID:
            raise InternalFault(f"{self._path} is an SQLite file, but no collection's")
        elif not 1 <= version <= VERSION:
            raise InternalFault(
                f"{self._path} has format {version}, this release reads 1 to {VERSION}: "
                "use the release that wrote it, or restore a snapshot"
            )
        for earlier in range(version, VERSION) if application == APPLICATION_ID else ():
            with self.write():
                for statement in UPGRADES[earlier]:
                    ask(statement)
                ask(f"PRAGMA user_version = {earlier + 1}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn failures of SQLite and of the disk in the block into errors for people."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._path) from error


def explain(error: Exception, path: Path) -> ServerError:
    """Return what a failure of the disk or of SQLite means to a person."""
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"cannot use the collection's files in {path.parent}: {error.strerror or error}; "
            "nothing was changed"
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in DAMAGED:
        return InternalFault(
            f"{path} is damaged ({error}): restore the collection from a snapshot, or the file "
            "from a backup"
        )
    if isinstance(error, sqlite3.OperationalError):
        return StoreUnavailable(f"cannot use {path}: {error}; nothing was changed")
    return InternalFault(f"{path}: {error}")
