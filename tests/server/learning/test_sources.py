"""Examples out of collections, and features of models that are not as usual."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from server.errors import InvalidInput, PayloadTooLarge
from server.index.contract import Collection, StoredItem
from server.learning import features as module
from server.learning import sources
from server.learning.examples import Example, Lesson
from server.learning.orders import FromCollection
from server.learning.sources import read_collection
from server.similarity.spaces import SpaceName

SPACE = SpaceName("eyes@1:abc", 2)
VECTOR = np.ones(2, np.float32)


class Shelf:
    """As much of a collection as is learned from."""

    def __init__(self, kinds: dict[str, Any], *, pictures: bool, vectors: bool) -> None:
        self._items = {
            id: StoredItem(id, {"kind": kind}, 1, pictures, False, 0.0)
            for id, kind in sorted(kinds.items())
        }
        self._pictures, self._vectors = pictures, vectors

    def spaces(self) -> list[str]:
        return [SPACE.key] if self._vectors else []

    def space(self, key: str, dim: int) -> Any:
        assert (key, dim) == SPACE
        return SimpleNamespace(vectors=lambda ids: [VECTOR] * len(ids))

    def get(self, ids: list[str]) -> list[StoredItem | None]:
        return [self._items.get(id) for id in ids]

    def page(self, after: str | None, limit: int) -> list[StoredItem]:
        return [item for id, item in self._items.items() if after is None or id > after][:limit]

    def pictures(self, ids: list[str]) -> list[bytes | None]:
        return [id.encode() if self._pictures else None for id in ids]


def read(
    kinds: dict[str, Any], *, pictures: bool = True, vectors: bool = False, **order: Any
) -> tuple[list[Example], list[str]]:
    shelf = cast(Collection, Shelf(kinds, pictures=pictures, vectors=vectors))
    how = order or {"label_field": "kind"}
    return read_collection(shelf, FromCollection("shelf", **how), SPACE)


KINDS = {"1": "a", "2": "b", "3": None, "4": 7, "5": True}


def test_labels_out_of_metadata(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "PAGE_ITEMS", 2)
    found, unlabelled = read(KINDS)
    assert [(each.name, each.label) for each in found] == [
        *(("1", "a"), ("2", "b"), ("4", "7"), ("5", "true")),
    ]
    assert unlabelled == ["3"]
    assert all(each.data == each.name.encode() and each.features is None for each in found)
    with pytest.raises(InvalidInput, match="'kind' is list, expected a text"):
        read({"1": ["a"]})


def test_labels_of_ones_own():
    found, unlabelled = read(KINDS, labels={"2": "x", "1": "y"})
    assert [(each.name, each.label) for each in found] == [("2", "x"), ("1", "y")]
    assert unlabelled == []
    with pytest.raises(InvalidInput, match="no item '8' and 1 more of `labels`"):
        read(KINDS, labels={"8": "x", "1": "y", "9": "y"})


@pytest.mark.parametrize("pictures", [True, False])
def test_vectors_that_are_there_are_taken(pictures: bool):
    found, _ = read(KINDS, pictures=pictures, vectors=True)
    assert len({each.digest for each in found}) == 4
    for each in found:
        assert each.features is not None and (each.data is not None) == pictures


def test_items_that_have_nothing():
    with pytest.raises(InvalidInput, match="item '1' has neither a picture nor a vector"):
        read(KINDS, pictures=False)


def test_too_many_items(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MAX_PICTURES", 2)
    with pytest.raises(PayloadTooLarge, match="more than the 2 pictures"):
        read(KINDS)


def test_too_many_bytes_are_noticed_before_all_are_read(monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    pictures = sources._pictures

    def noted(collection: Any, ids: list[str]) -> Any:
        for place, data in enumerate(pictures(collection, ids)):
            asked.append(ids[place : place + 1])
            yield data

    monkeypatch.setattr(sources, "PICTURES_AT_ONCE", 1)
    monkeypatch.setattr(sources, "_pictures", noted)
    monkeypatch.setattr("server.learning.examples.MAX_BYTES", 1)
    with pytest.raises(PayloadTooLarge, match="more than 1 bytes"):
        read(KINDS)
    assert asked == [["1"], ["2"]]


async def test_features_that_are_not_finite_are_failures(monkeypatch: pytest.MonkeyPatch):
    async def embed(*args: object, **options: object) -> list[object]:
        return [VECTOR, VECTOR * np.nan, InvalidInput("broken")]

    monkeypatch.setattr(module, "embed", embed)
    failed: list[tuple[str, str]] = []
    examples = [Example.of(name, "a", name.encode()) for name in "xyz"]
    kept = await module.with_features(cast(Any, None), examples, cast(Any, None), failed)
    assert [each.name for each in kept] == ["x"]
    assert failed == [("y", "its features are not finite"), ("z", "broken")]


class Pool:
    async def run(self, work: Any) -> Any:
        return work()


@pytest.mark.parametrize(("batch", "rows"), [(None, 1), (object(), 2)])
async def test_golden_rows_follow_the_base(
    monkeypatch: pytest.MonkeyPatch, batch: object, rows: int
):
    def prepare(item: Any, parameters: object) -> Any:
        return SimpleNamespace(inputs={"x": np.frombuffer(item.data, np.uint8)[None]})

    task = SimpleNamespace(prepare=prepare, parameters=lambda raw: raw, output="e")
    model = SimpleNamespace(batch=batch, run=lambda inputs, fetches: {"e": inputs["x"] * 2})
    monkeypatch.setattr(module, "embedding_task", lambda base: task)
    base = cast(Any, SimpleNamespace(engine_model=model))
    examples = tuple(Example.of(name, name, name.encode()) for name in "ab")
    golden = await module.golden_rows(base, Lesson(examples, ("a", "b")), cast(Any, Pool()))
    assert golden is not None and golden.features.tolist() == [[194], [196]][:rows]
    without = Lesson((Example("1", "a", "d"),), ("a",))
    assert await module.golden_rows(base, without, cast(Any, Pool())) is None
