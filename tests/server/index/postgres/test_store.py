"""What is PostgreSQL's own about the store; what all stores share is in `suite.py`."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from server.errors import Conflict, InvalidInput, NotFound
from server.index.archive import restore_into
from server.index.contract import Collection, CollectionSpec, NewItem, Query
from server.index.embedded import open_store as open_folder
from server.index.filters import Compare, OneOf
from server.index.postgres import open_store, transfer
from server.index.postgres.space import PostgresSpace
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


ROWS = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)


def filled(collection: Collection) -> Collection:
    items = [NewItem(f"{i:02}", {"n": i, "x": [1.5, None]}, b"p%d" % i) for i in range(40)]
    collection.put(items, {"s": ROWS})
    collection.space("empty", 5)
    collection.set_fact("pinned", "because")
    return collection


def everything(collection: Collection) -> object:
    page = collection.page()
    ids = [item.id for item in page]
    found = collection.space("s", 3).vectors(ids)
    return (
        [(item.id, item.metadata, item.has_picture) for item in page],
        collection.pictures(ids),
        [None if row is None else row.tolist() for row in found],
        (collection.spaces(), collection.fact("pinned"), collection.spec.metric),
    )


def test_a_collection_moves_to_a_folder_and_back(store: PostgresStore, tmp_path: Path) -> None:
    here = filled(store.create(CollectionSpec("cats", "l2")))
    folder = open_folder(tmp_path / "collections")
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    with store.snapshot("cats") as pieces:
        first.write_bytes(b"".join(pieces))
    there = folder.restore("cats", first)
    with folder.snapshot("cats") as pieces:
        second.write_bytes(b"".join(pieces))
    back = store.restore("back", second)
    assert everything(here) == everything(there) == everything(back)
    folder.close()


def test_a_name_that_is_taken_during_a_restore_is_a_conflict(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store.create(CollectionSpec("cats")))
    path = tmp_path / "cats.tar"
    with store.snapshot("cats") as pieces:
        path.write_bytes(b"".join(pieces))

    def meanwhile(*arguments: object) -> None:
        store.create(CollectionSpec("copy"))
        restore_into(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(transfer, "restore_into", meanwhile)
    with pytest.raises(Conflict, match="copy"):
        store.restore("copy", path)
    assert store.names() == ["cats", "copy"] and store.open("copy").size().items == 0


def test_what_another_server_dropped_is_not_found(store: PostgresStore, url: str) -> None:
    collection = filled(store.create(CollectionSpec("cats")))
    space = collection.space("s", 3)
    assert isinstance(space, PostgresSpace)
    other = open_store(url)
    other.open("cats").drop_space("s")
    with pytest.raises(NotFound):
        space.state()
    for _ in range(2):  # what is known of the space is stale, and is not
        with pytest.raises(NotFound):
            space.search(ROWS[:1], Query())
        space._judgement = None
    with pytest.raises(NotFound, match="space"):
        space.fill([], ROWS[:0])
    other.drop("cats")
    for call in (
        lambda: collection.put([NewItem("x")]),
        lambda: collection.get(["00"]),
        lambda: collection.space("new", 3),
        lambda: store.drop("cats"),
    ):
        with pytest.raises(NotFound):
            call()
    fresh = other.create(CollectionSpec("cats", "dot"))
    other.close()
    assert fresh.spec.metric == "dot"


def test_a_filter_may_name_many_values(store: PostgresStore) -> None:
    collection = filled(store.create(CollectionSpec("cats")))
    values = (*range(0, 80, 2), "text", None, True, 3.0)
    found = collection.page(filter=OneOf(("n",), values))
    assert [item.metadata["n"] for item in found] == sorted([3, *range(0, 40, 2)])
    assert collection.page(filter=OneOf(("x", "n"), values)) == []


def test_a_put_beside_a_space_that_is_dropped_gets_through(store: PostgresStore) -> None:
    collection = filled(store.create(CollectionSpec("cats")))
    stop = threading.Event()
    failures: list[Exception] = []

    def put() -> None:
        while not stop.is_set():
            try:
                collection.put([NewItem("00")], {"s": ROWS[:1]})
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    for turn in range(10):
        collection.space(f"passing {turn}", 3)
        collection.drop_space(f"passing {turn}")
    stop.set()
    thread.join()
    assert not failures and collection.spaces() == ["s", "empty"]


def test_texts_that_no_database_keeps_are_refused(store: PostgresStore) -> None:
    collection = store.create(CollectionSpec("cats"))
    for call in (
        lambda: collection.set_fact("a\0b", "x"),
        lambda: collection.set_fact("a", "\ud800"),
        lambda: collection.page(after="\0"),
    ):
        with pytest.raises(InvalidInput, match="valid text"):
            call()
    assert not collection.update_metadata("\0", {})


def test_vectors_follow_a_space_that_another_server_made_anew(
    store: PostgresStore, url: str
) -> None:
    """What is known of a space may be a second old: its vectors must not go nowhere."""
    other = open_store(url)
    here = filled(store.create(CollectionSpec("cats", "l2")))
    there = other.open("cats")
    there.drop_space("s")
    there.space("s", 3)
    here.put([NewItem("00")], {"s": ROWS[:1] + 1})
    (row,) = there.space("s", 3).vectors(["00"])
    assert row is not None and row.tolist() == (ROWS[0] + 1).tolist()
    there.drop_space("s")
    here.put([NewItem("00")], {"s": ROWS[:1]})  # and comes to be again
    (row,) = there.space("s", 3).vectors(["00"])
    assert row is not None and row.tolist() == ROWS[0].tolist()
    other.close()


def test_filters_that_are_equal_in_python_are_counted_apart(store: PostgresStore) -> None:
    collection = store.create(CollectionSpec("cats", "l2"))
    metadata = [{"a": True}, {"a": 1}, {"a": 1.0}]
    collection.put([NewItem(str(i), each) for i, each in enumerate(metadata)])
    space = collection.space("s", 3)
    assert isinstance(space, PostgresSpace)
    counted = [space._matches(Compare(("a",), "eq", value)) for value in (1, True, 1.0)]
    assert counted == [2, 1, 2]
    assert all(len(name) == 32 for name in space._counts)
