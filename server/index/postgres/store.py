"""The collections of one database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from psycopg import sql

from server.errors import NotFound
from server.index.checks import check_name, check_spec, is_clean
from server.index.contract import Collection, CollectionSpec
from server.index.postgres import schema, transfer
from server.index.postgres.building import Builder
from server.index.postgres.collection import PostgresCollection
from server.index.postgres.database import Connection, Database
from server.index.postgres.options import read_url

FRESH_S = 1.0  # for so long a collection that was there is taken to be there
LISTED = 10


class PostgresStore:
    """Collections that any number of servers share; each object is for all threads."""

    def __init__(self, url: str) -> None:
        """Connect, and bring the schema up to date.

        Raises:
            InvalidInput: the URL cannot be read.
            StoreUnavailable: the database cannot be reached or used.
        """
        self._database = Database(read_url(url))
        try:
            self._vector_oid = schema.prepare(self._database)
        except BaseException:
            self._database.close()
            raise
        self._builder = Builder(self._database)
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, PostgresCollection]] = {}

    def create(self, spec: CollectionSpec) -> Collection:
        """Make a collection; see the contract."""
        check_spec(spec)
        number = self._database.transaction(
            lambda connection: schema.insert_collection(connection, spec)
        )
        return self._opened(spec, number)

    def open(self, name: str) -> PostgresCollection:
        """Return a collection; see the contract."""
        with self._lock:
            checked, known = self._open.get(name, (0.0, None))
        if known is not None and time.monotonic() - checked < FRESH_S:
            return known
        rows = self._database.rows(
            sql.SQL("SELECT number, metric, model, dim FROM collections WHERE name = %s"),
            (name if is_clean(name) else "",),
        )
        if not rows:
            with self._lock:
                self._open.pop(name, None)
            raise self._nothing_named(name)
        number, metric, model, dim = rows[0]
        return self._opened(CollectionSpec(name, metric, model, dim), number)

    def _opened(self, spec: CollectionSpec, number: int) -> PostgresCollection:
        """Return the one object for this collection, made now if it is new."""
        now = time.monotonic()
        with self._lock:
            _, known = self._open.get(spec.name, (0.0, None))
            if known is None or known.number != number:
                known = PostgresCollection(
                    self._database, self._builder, spec, number, self._vector_oid
                )
            self._open[spec.name] = (now, known)
            return known

    def _nothing_named(self, name: str) -> NotFound:
        names = self.names()
        some = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        return NotFound(
            f"there is no collection {name!r}; "
            + (f"there are: {some}" if names else "there are none yet")
        )

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        rows = self._database.rows(sql.SQL("SELECT name FROM collections ORDER BY name"))
        return [name for (name,) in rows]

    def drop(self, name: str) -> None:
        """Remove a collection; see the contract."""
        collection = self._current(name)
        for key in collection.spaces():
            collection.stop_building(key)
        gone = self._database.transaction(lambda connection: _drop(connection, name))
        with self._lock:
            self._open.pop(name, None)
        if not gone:
            raise self._nothing_named(name)
        self._database.run(schema.sweep)

    def _current(self, name: str) -> PostgresCollection:
        """Return a collection as the database knows it now."""
        with self._lock:
            _, known = self._open.get(name, (0.0, None))
            if known is not None:
                self._open[name] = (-FRESH_S, known)
        return self.open(name)

    def snapshot(self, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Give a collection as one archive; see the contract."""
        collection = self._current(name)
        return transfer.snapshot(self._database, collection.spec, collection.number)

    def restore(self, name: str, archive: Path) -> Collection:
        """Make a collection from an archive; see the contract."""
        check_name(name)
        transfer.restore(self._database, self._builder, name, archive, self._vector_oid)
        return self._current(name)

    def close(self) -> None:
        """Let go of all connections."""
        self._builder.close()
        self._database.close()


def _drop(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT number FROM collections WHERE name = %s FOR UPDATE", (name,)
    ).fetchone()
    if row is None:
        return False
    number = int(row[0])
    spaces = connection.execute("SELECT number FROM spaces WHERE collection = %s", (number,))
    vectors = [f"vectors_{space}" for (space,) in spaces.fetchall()]
    schema.bury(connection, [f"items_{number}", f"pictures_{number}", *vectors])
    connection.execute("DELETE FROM collections WHERE number = %s", (number,))
    return True
