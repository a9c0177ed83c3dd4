"""Locks that hold for all servers of a database, and end with the process that has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg

from server.index.postgres.database import Connection, Database, close
from server.index.postgres.failures import in_our_words


def number_of(*parts: object) -> int:
    """Return the 64-bit number by which PostgreSQL knows a lock."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def held(database: Database, lock: int, wait_s: float) -> Iterator[bool]:
    """Enter with the lock, or with False when it was not free for `wait_s`.

    It has a connection of its own: who holds a lock for long must not starve the others.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    try:
        connection = database.connect(statement_timeout=False)
    except psycopg.Error as error:
        raise in_our_words(error, database.options) from error
    try:
        yield _taken(connection, lock, wait_s, database)
    finally:
        close(connection)  # and the lock with it


def _taken(connection: Connection, lock: int, wait_s: float, database: Database) -> bool:
    try:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
        if row is not None and row[0]:
            return True
        if wait_s <= 0:
            return False
        limit_ms = str(max(1, round(wait_s * 1000)))
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (limit_ms,))
        connection.execute("SELECT pg_advisory_lock(%s)", (lock,))
    except pg.LockNotAvailable:
        return False
    except psycopg.Error as error:
        raise in_our_words(error, database.options) from error
    return True
