"""Collections are opened off the event loop, and anew where another process may change them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.errors import Conflict, NotFound
from server.execution import WorkerPool
from server.index.contract import CollectionSpec
from server.metrics import Metrics
from server.similarity import service
from server.similarity.batches import Entry, prepare, store
from server.similarity.bindings import Bindings
from server.similarity.service import Collections
from server.similarity.spaces import SpaceName
from tests.server.similarity.conftest import settings_of
from tests.server.similarity.memory import MemoryCollection, MemoryStore
from tests.server.similarity.moving import Moving, moving
from tests.server.similarity.nets import add_eyes, png


class FakeStores:
    """Gives a store in memory, as if it were in a database."""

    is_database = True

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner

    def existing(self) -> MemoryStore:
        return self.inner

    for_writing = existing

    def close(self) -> None:
        pass


def collections_over(inner: MemoryStore, moved: Moving | None = None) -> Collections:
    metrics = Metrics()
    return Collections(
        settings_of(Path("x"), "x"),
        moved.pool if moved is not None else WorkerPool(1),
        metrics,
        moved.repository if moved is not None else SimpleNamespace(),
        FakeStores(inner),
        moved.bindings if moved is not None else Bindings(lambda: inner, metrics.collections),
    )


async def test_a_collection_that_another_process_made_anew_is_opened_anew(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(service, "REOPEN_S", 600.0)
    inner = MemoryStore()
    collections = collections_over(inner)
    first = await collections.create(CollectionSpec("c"))
    assert await collections.open("c") is first
    inner.drop("c")
    second = inner.create(CollectionSpec("c"))
    assert await collections.open("c") is first  # for a moment
    collections.bindings.pin(first, SpaceName("m@1:a", 2))
    monkeypatch.setattr(service, "REOPEN_S", 0.0)
    assert await collections.open("c") is second
    assert collections.bindings.pin_of(second) is None  # the other one's was forgotten
    inner.drop("c")
    with pytest.raises(NotFound):
        await collections.open("c")
    monkeypatch.setattr(service, "REOPEN_S", 600.0)
    with pytest.raises(NotFound):  # at once: it is not remembered any more
        await collections.open("c")
    await collections.close()


async def test_a_folder_belongs_to_this_process_and_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
):
    inner = MemoryStore()
    collections = collections_over(inner)
    collections.stores.is_database = False
    monkeypatch.setattr(service, "REOPEN_S", 0.0)
    made = await collections.create(CollectionSpec("c"))
    inner.drop("c")
    assert await collections.open("c") is made
    await collections.close()


async def test_a_request_that_opens_what_is_being_dropped_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    inner = MemoryStore()
    collections = collections_over(inner)
    collections.stores.is_database = False
    await collections.create(CollectionSpec("c"))
    whole = inner.drop

    def drop(name: str) -> None:
        collections._open[name] = 0.0, inner.collections[name]
        whole(name)

    monkeypatch.setattr(inner, "drop", drop)
    await collections.drop("c")
    with pytest.raises(NotFound):
        await collections.open("c")
    await collections.close()


async def test_nothing_is_read_from_the_store_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add_eyes(tmp_path)
    asked: list[tuple[str, bool]] = []
    loop = threading.current_thread()

    def noted(name: str) -> None:
        inner = getattr(MemoryCollection, name)

        def method(*args):
            asked.append((name, threading.current_thread() is loop))
            return inner(*args)

        monkeypatch.setattr(MemoryCollection, name, method)

    for name in ("fact", "set_fact", "space", "spaces", "size", "put", "pictures"):
        noted(name)
    inner = MemoryStore()
    inner.create(CollectionSpec("c", model="eyes"))
    async with moving(tmp_path, inner) as moved:
        collections = collections_over(inner, moved)
        collection = await collections.open("c")
        for seed in range(2):
            moved.bindings.forget("c")  # as after a failure
            batch = await prepare(collections, collection, [Entry(str(seed), {}, png(seed))])
            await store(collections, collection, batch)
            assert await collections.looked_at(collection) is not None
        moved.bindings.forget("c")
        with await collections.lease(collection) as lease:
            space = await collections.space_of(collection, lease.deployment)
            assert await collections.space_of(collection, lease.deployment) is space
        await collections.close()
    assert {name for name, _ in asked} >= {"fact", "space", "put"}
    assert [name for name, on_loop in asked if on_loop] == []


async def test_a_lease_on_a_pinned_collection(tmp_path: Path):
    add_eyes(tmp_path)
    inner = MemoryStore()
    collection = inner.create(CollectionSpec("c", model="eyes"))
    async with moving(tmp_path, inner) as moved:
        collections = collections_over(inner, moved)
        moved.bindings.pin(collection, SpaceName("eyes@9:abc", 6))
        moved.bindings.forget("c")
        with pytest.raises(Conflict, match="version '9'"):
            await collections.lease(collection)
        assert moved.repository.models["eyes"].default.leases == 0
        await collections.close()
