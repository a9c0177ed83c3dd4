"""Locks that hold for all servers of a database, and end with the process that has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors as pg

from server.index.postgres.database import Connection, Database


class Locks:
    """Advisory locks by name, each on a connection of its own.

    For who holds a lock for long must not starve the others of connections.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def held(self, name: str, wait_s: float) -> Iterator[bool]:
        """Enter with the lock, or with False when it was not free for `wait_s`.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._database.apart(statement_timeout=False) as connection:
            yield self.take(connection, name, wait_s)

    def take(self, connection: Connection, name: str, wait_s: float = 0) -> bool:
        """Take a lock that holds as long as the connection; False if another has it.

        Raises:
            psycopg.Error: as PostgreSQL puts it.
        """
        lock = number_of(self._database.options.schema, name)
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
        if row is not None and row[0]:
            return True
        if wait_s <= 0:
            return False
        limit_ms = str(max(1, round(wait_s * 1000)))
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (limit_ms,))
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", (lock,))
        except pg.LockNotAvailable:
            return False
        return True


def number_of(schema: str, name: str) -> int:
    """Return the 64-bit number by which PostgreSQL knows a lock."""
    digest = hashlib.sha256(f"{schema}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
