"""What is PostgreSQL's own about the store; what all stores share is in `suite.py`."""

from __future__ import annotations

import numpy as np

from server.index.contract import CollectionSpec, NewItem, Query
from server.index.postgres import open_store
from server.index.postgres.store import PostgresStore


def test_two_servers_share_what_one_of_them_made(store: PostgresStore, url: str) -> None:
    other = open_store(url)
    made = store.create(CollectionSpec("cats", "l2"))
    made.put([NewItem("a"), NewItem("b")], {made.space("s", 2).key: np.eye(2, dtype=np.float32)})
    seen = other.open("cats").space("s", 2)
    assert [hit.id for hit in seen.search(np.ones((1, 2), np.float32), Query())[0]] in (
        ["a", "b"],
        ["b", "a"],
    )
    other.close()
