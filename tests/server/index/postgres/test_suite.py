"""The suite of all stores, on PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from server.index.contract import Store
from server.index.postgres import open_store
from tests.server.index.suite import StoreSuite


@dataclass(frozen=True)
class Schema:
    """Where the suite's stores are."""

    url: str

    def open(self) -> Store:
        return open_store(self.url)


class TestPostgres(StoreSuite):
    @pytest.fixture
    def place(self, url: str) -> Schema:
        return Schema(url)
