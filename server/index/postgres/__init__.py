"""Collections in PostgreSQL with pgvector: many servers, one database.

psycopg is needed only once a database is named, so nothing here imports it before `open_store`.
"""

from __future__ import annotations

import importlib

from server.errors import LoadFailed, how_to_install
from server.index.contract import Store


def open_store(url: str) -> Store:
    """Open the collections of the database at `url`.

    The URL is libpq's, `postgresql://user:password@host:port/database`; `schema` (default
    `millrace`), `pool_size` (8), `patience_s` (10) and `statement_timeout_s` (60) may follow the
    question mark beside libpq's own options.

    Raises:
        InvalidInput: the URL cannot be read.
        LoadFailed: psycopg is not installed.
        StoreUnavailable: the database cannot be reached or used; the message says what to do.
    """
    try:
        module = importlib.import_module("server.index.postgres.store")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("psycopg"):
            raise
        raise LoadFailed(
            f"collections in PostgreSQL need psycopg: {how_to_install('psycopg', 'similarity')}"
        ) from error
    store: Store = module.PostgresStore(url)
    return store
