"""Who may do what, what is left when no version is loaded, and which collection is meant."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from server.errors import Forbidden, InvalidInput, NotFound, ServerDraining, ServerError
from server.handlers.call import Call
from server.handlers.flights import Flights
from server.handlers.similar import SimilarHandler, SimilarRequest
from server.metrics import Metrics
from server.metrics.collections import OTHERS, CollectionsMetrics
from server.routes.collections_add import require_writer
from server.similarity import service as service_module
from server.similarity import stores as stores_module
from server.similarity.search import ItemId
from server.similarity.service import Collections
from server.similarity.stores import Stores, StoreThreads
from tests.server.running import RunningServer, running_server
from tests.server.similarity.conftest import settings_of
from tests.server.similarity.nets import DIM, add_eyes, png

TOKEN = {"authorization": "Bearer t0ken"}
PICTURE = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("guarded")
    add_eyes(root / "models")
    settings = settings_of(root / "models", root / "collections", admin_token="t0ken")
    with running_server(settings) as running:
        yield running


@pytest.fixture
def admin(guarded: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, headers=TOKEN, timeout=200.0) as session:
        yield session


def test_what_changes_needs_the_token(guarded, admin):
    assert admin.get("/collections").json() == {"collections": []}
    # Without any collection there is nothing to search, and none is made by asking.
    assert admin.post("/similar", json={"id": "x"}).status_code == 404
    assert admin.get("/collections/none").status_code == 404
    assert not Path(guarded.settings.collections).exists()
    assert admin.post("/collections", json={"name": "one"}).status_code == 201
    assert admin.post("/collections/one/items?id=a", content=png(1), headers=PICTURE).json()[
        "added"
    ]
    one = "/collections/one"
    with httpx.Client(base_url=guarded.url, timeout=200.0) as anybody:
        refused = [
            anybody.post("/collections", json={"name": "two"}),
            anybody.delete(one),
            anybody.post(f"{one}/items?id=b", content=png(2), headers=PICTURE),
            anybody.request("DELETE", f"{one}/items", json={"ids": ["a"]}),
            anybody.patch(f"{one}/items/a", json={"metadata": {}}),
            anybody.delete(f"{one}/items/a"),
            anybody.get(f"{one}/snapshot"),
            anybody.post(f"{one}/restore", content=b"x"),
        ]
        assert [answer.status_code for answer in refused] == [401] * len(refused)
        allowed = [
            anybody.get(one),
            anybody.get(f"{one}/items"),
            anybody.get(f"{one}/items/a/thumbnail"),
            anybody.get(f"{one}/map"),
            anybody.post(f"{one}/similar", json={"id": "a"}),
            # With one collection nobody has to name it.
            anybody.post("/similar", content=png(3), headers=PICTURE),
        ]
        assert [answer.status_code for answer in allowed] == [200] * len(allowed)
    assert admin.post("/collections", json={"name": "two", "model": None}).status_code == 201
    unnamed = admin.post("/similar", json={"id": "a"})
    assert unnamed.status_code == 422 and unnamed.json()["expected"] == ["one", "two"]
    admin.delete("/collections/two")
    admin.delete("/collections/one")


def test_without_a_loaded_version_items_and_vectors_are_still_found(admin):
    admin.post("/collections", json={"name": "rest", "model": "eyes"})
    items = [{"id": f"n{n}", "image": {"b64": base64.b64encode(png(n)).decode()}} for n in range(5)]
    assert admin.post("/collections/rest/items", json={"items": items}).json()["added"] == 5
    before = admin.post("/collections/rest/similar", json={"id": "n1"}).json()
    assert admin.post("/models/eyes/unload", json={}).status_code == 200
    try:
        after = admin.post("/collections/rest/similar", json={"id": "n1"}).json()
        assert after["results"] == before["results"]
        assert (after["model"], after["version"], after["space"]) == ("eyes", "1", before["space"])
        vector = admin.post("/collections/rest/similar", json={"vector": [1.0] * DIM})
        assert len(vector.json()["results"][0]["hits"]) == 5
        for body in ({"image": {"b64": items[0]["image"]["b64"]}}, {"id": "n1", "version": "1"}):
            answer = admin.post("/collections/rest/similar", json=body)
            assert answer.status_code in (404, 503), answer.text
        assert admin.post("/collections/rest/items", json={"items": items}).status_code == 503
        assert admin.get("/collections/rest").json()["count"] == 5
        assert len(admin.get("/collections/rest/map").json()["items"]) == 5
        assert admin.post("/collections", json={"name": "other"}).status_code == 422
        empty = admin.post("/collections", json={"name": "empty", "model": "eyes"})
        assert empty.status_code == 201
        nothing = admin.post("/collections/empty/similar", json={"id": "x"})
        assert nothing.status_code == 503 and "not loaded" in nothing.json()["error"]
    finally:
        assert admin.post("/models/eyes/load", json={}).status_code == 200
    again = admin.post("/collections/rest/similar", json={"id": "n1"}).json()
    assert again["results"] == before["results"]


def test_a_pinned_collection_is_answered_with_what_to_do(admin):
    admin.post("/collections", json={"name": "pinned", "model": "eyes"})
    told = admin.post("/collections/pinned/items", json={"id": "v", "vector": [1.0] * DIM}).json()
    assert told["added"] == 1
    admin.post("/models/eyes/unload", json={})
    try:
        answer = admin.post("/collections/pinned/similar", content=png(1), headers=PICTURE)
        assert answer.status_code == 409 and "load" in answer.json()["error"]
        found = admin.post("/collections/pinned/similar", json={"vector": [1.0] * DIM})
        assert found.json()["results"][0]["hits"][0]["id"] == "v"
    finally:
        admin.post("/models/eyes/load", json={})


def test_anyone_may_write_where_that_is_set(tmp_path):
    scope = {"client": ("10.0.0.9", 1)}
    closed = SimpleNamespace(settings=settings_of(tmp_path, "x"))
    with pytest.raises(Forbidden):
        require_writer(scope, {}, closed)
    require_writer(
        scope, {}, SimpleNamespace(settings=settings_of(tmp_path, "x", collections_open="anyone"))
    )


@pytest.mark.parametrize(
    ("models", "expected"),
    [(["eyes"], "eyes"), (["eyes", "objects"], "objects"), ([], None), (["a", "b"], None)],
)
def test_the_usual_model(models, expected, monkeypatch):
    defaults = [SimpleNamespace(model=name) for name in models]
    handle = SimpleNamespace(repository=SimpleNamespace(defaults=lambda: defaults))
    monkeypatch.setattr(service_module, "embedding_task", lambda deployment: deployment)
    if expected is not None:
        assert Collections.usual_model(handle) == expected
        return
    with pytest.raises(InvalidInput, match="name the `model`") as failed:
        Collections.usual_model(handle)
    assert failed.value.extra["expected"] == models


# Stores


def test_the_store_is_opened_when_there_is_something(tmp_path, monkeypatch):
    place = tmp_path / "collections"
    stores = Stores(settings_of(tmp_path, place))
    assert stores.existing() is None and stores.folder is None and not place.exists()
    made = stores.for_writing()
    assert stores.for_writing() is made and stores.existing() is made and stores.folder == place
    stores.close()
    with pytest.raises(ServerDraining):
        stores.existing()
    stores.close()

    opened = []
    module = SimpleNamespace(open_store=lambda where: opened.append(where) or made)
    monkeypatch.setattr(stores_module.importlib, "import_module", lambda name: module)
    database = Stores(settings_of(tmp_path, "postgresql://somewhere/db"))
    assert database.is_database and database.folder is None
    assert database.existing() is made and opened == ["postgresql://somewhere/db"]


async def test_threads_of_stores():
    threads = StoreThreads(2)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    threads.close()
    with pytest.raises(ServerDraining):
        await threads.run(divmod, 7, 2)
    StoreThreads().close()


async def test_what_another_process_removed_is_opened_anew():
    gone = []

    class Missing:
        spec = SimpleNamespace(name="x", model=None)

        def fact(self, name: str) -> None:
            raise NotFound("gone")

    async def run(fn, *args):
        return fn(*args)

    async def opened(name):
        return collection

    collection = Missing()
    collection.spec.dim = None
    metrics = Metrics()
    collections = SimpleNamespace(
        settings=settings_of(Path("x"), "x"),
        stores=Stores(settings_of(Path("x"), "x")),
        open=opened,
        run=run,
        forget=gone.append,
        metrics=metrics,
    )
    handler = SimilarHandler(collections, Flights())
    with pytest.raises(ServerError):
        await handler.similar(SimilarRequest([ItemId("a")], "x"), Call("id"))
    assert gone == ["x"] and metrics.collections.of("x").searches == {"not_found": 1}


def test_names_of_series_are_bounded():
    metrics = CollectionsMetrics(most=2)
    for name in "abcd":
        metrics.of(name).changed("added", 1)
    assert sorted(metrics.by_name) == sorted(["a", "b", OTHERS])
    assert metrics.of("d").changes == {"added": 2}
    metrics.drop("a")
    metrics.drop("a")
    assert metrics.of("e") is metrics.by_name["e"]
