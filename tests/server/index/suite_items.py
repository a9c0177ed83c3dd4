"""Items: in, changed, listed, out."""

from __future__ import annotations

import time

import numpy as np
import pytest

from server.errors import Conflict, InvalidInput, NotFound, ServerError
from server.index.checks import MAX_ID, MAX_METADATA
from server.index.contract import Collection, CollectionSpec, NewItem, PutOutcome, Query, Store
from tests.server.index.suite_base import (
    DIM,
    SPACE,
    BaseSuite,
    Place,
    filled,
    items,
    new_collection,
    same,
    vectors,
)

UNICODE_IDS = [
    "ü",
    "日本/語.jpg",
    "🐈",
    "a b\tc",
    "'; DROP TABLE items; --",
    "%_\\",
    '"q"',
    "x" * MAX_ID,
]


class ItemSuite(BaseSuite):
    def test_what_is_put_can_be_had_back(self, collection: Collection) -> None:
        before = time.time()
        metadata = {"label": "cat", "nested": {"list": [1, 2.5, None, {"x": True}]}, "ü": "€"}
        given = [NewItem("a", metadata, b"picture", b"thumb"), NewItem("b")]
        assert collection.put(given, {SPACE: vectors(2)}) == PutOutcome(added=2, replaced=0)
        b, missing, a = collection.get(["b", "no such", "a"])
        assert a is not None and b is not None and missing is None
        assert (a.id, a.metadata, a.has_picture, a.has_thumbnail) == ("a", metadata, True, True)
        assert (b.id, b.metadata, b.has_picture, b.has_thumbnail) == ("b", {}, False, False)
        assert before - 5 <= a.updated_s <= time.time() + 5
        assert collection.pictures(["a", "b", "no"]) == [b"picture", None, None]
        assert collection.thumbnails(["b", "a"]) == [None, b"thumb"]

    def test_all_of_it_is_there_after_opening_again(self, place: Place) -> None:
        store = place.open()
        collection = new_collection(store, "l2", model="eyes")
        rows = filled(collection, 20)
        collection.delete(["i0003"])
        collection.update_metadata("i0004", {"new": 1})
        collection.set_fact("pinned", "because")
        name, before = collection.spec.name, collection.page(limit=50)
        store.close()
        store = place.open()
        try:
            again = store.open(name)
            assert again.spec == CollectionSpec(name, "l2", "eyes")
            assert again.page(limit=50) == before
            assert again.fact("pinned") == "because"
            assert again.spaces() == [SPACE]
            space = again.space(SPACE, DIM)
            (hits,) = space.search(rows[7:8], Query(k=1))
            assert hits[0].id == "i0007"
            found = space.vectors(["i0003", "i0007"])
            assert found[0] is None and same(found[1], rows[7])
        finally:
            store.close()

    def test_putting_again_replaces(self, collection: Collection) -> None:
        filled(collection, 3)
        before = collection.get(["i0001"])[0]
        outcome = collection.put([NewItem("i0001", {"n": "new"}), NewItem("new")])
        assert outcome == PutOutcome(added=1, replaced=1)
        after = collection.get(["i0001"])[0]
        assert before is not None and after is not None
        assert after.revision > before.revision
        assert after.metadata == {"n": "new"} and not after.has_picture
        assert collection.pictures(["i0001"]) == [None] == collection.thumbnails(["i0001"])
        assert collection.size().items == 4
        # The vector was of the old picture, and is gone with it.
        assert collection.space(SPACE, DIM).vectors(["i0001"]) == [None]

    def test_putting_the_same_again_changes_nothing_to_see(self, collection: Collection) -> None:
        rows = filled(collection, 5)
        assert collection.put(items(5), {SPACE: rows}) == PutOutcome(added=0, replaced=5)
        assert collection.size().items == 5 == collection.size().pictures
        (hits,) = collection.space(SPACE, DIM).search(rows[:1], Query(k=10))
        assert len(hits) == 5 and hits[0].id == "i0000"

    def test_of_an_id_that_comes_twice_the_last_one_counts(self, collection: Collection) -> None:
        rows = vectors(3)
        twice = [NewItem("a", {"n": 1}), NewItem("b"), NewItem("a", {"n": 2}, b"p")]
        assert collection.put(twice, {SPACE: rows}) == PutOutcome(added=2, replaced=0)
        (a,) = collection.get(["a"])
        assert a is not None and a.metadata == {"n": 2} and a.has_picture
        (vector,) = collection.space(SPACE, DIM).vectors(["a"])
        assert same(vector, rows[2])

    def test_no_items_are_fine(self, collection: Collection) -> None:
        assert collection.put([]) == PutOutcome(0, 0)
        assert collection.delete([]) == 0
        assert collection.get([]) == [] == collection.pictures([])

    def test_an_id_that_comes_back_has_a_later_revision(self, collection: Collection) -> None:
        collection.put([NewItem("a")])
        (before,) = collection.get(["a"])
        collection.delete(["a"])
        collection.put([NewItem("a")])
        (after,) = collection.get(["a"])
        assert before is not None and after is not None and after.revision > before.revision

    def test_metadata_is_replaced_and_vectors_stay(self, collection: Collection) -> None:
        rows = filled(collection, 3)
        (before,) = collection.get(["i0001"])
        assert collection.update_metadata("i0001", {"label": ["x"]})
        assert not collection.update_metadata("no such", {})
        (after,) = collection.get(["i0001"])
        assert before is not None and after is not None
        assert after.metadata == {"label": ["x"]}
        # What was made of its picture, or could not be, stays so.
        assert after.revision == before.revision
        assert after.has_picture and collection.pictures(["i0001"]) == [b"picture 1"]
        (hits,) = collection.space(SPACE, DIM).search(rows[1:2], Query(k=1))
        assert hits[0].id == "i0001"

    def test_deleted_items_are_gone(self, collection: Collection) -> None:
        rows = filled(collection, 10)
        assert collection.delete(["i0002", "i0003", "i0002", "no such", "\ud800"]) == 2
        assert collection.delete(["i0002"]) == 0
        assert collection.get(["i0002"]) == [None] == collection.pictures(["i0003"])
        assert collection.size().items == 8 == collection.size().pictures
        (hits,) = collection.space(SPACE, DIM).search(rows[2:3], Query(k=10))
        assert {hit.id for hit in hits} == {f"i{i:04}" for i in range(10) if i not in (2, 3)}

    def test_pages_go_through_all_items_in_order(self, collection: Collection) -> None:
        ids = [*UNICODE_IDS, "a", "B", "z", "10", "9"]
        collection.put([NewItem(id) for id in ids])
        seen: list[str] = []
        while page := collection.page(after=seen[-1] if seen else None, limit=3):
            assert len(page) <= 3
            seen += [item.id for item in page]
        assert seen == sorted(ids)
        assert collection.page(after="zzz🐈🐈") == [] or sorted(ids)[-1] > "zzz🐈🐈"

    @pytest.mark.parametrize("id", UNICODE_IDS)
    def test_ids_may_be_any_text(self, collection: Collection, id: str) -> None:
        rows = vectors(1)
        collection.put([NewItem(id, {"id": id}, b"p")], {SPACE: rows})
        (item,) = collection.get([id])
        assert item is not None and item.id == id and item.metadata == {"id": id}
        space = collection.space(SPACE, DIM)
        assert [hit.id for hit in space.search(rows, Query())[0]] == [id]
        assert space.search(rows, Query(exclude=frozenset((id,)))) == [[]]
        assert collection.pictures([id]) == [b"p"]
        assert collection.delete([id]) == 1

    @pytest.mark.parametrize("id", ["", "a\0b", "\ud800", "x" * (MAX_ID + 1), 7, None])
    def test_ids_that_no_store_keeps_are_refused(self, collection: Collection, id: str) -> None:
        with pytest.raises(InvalidInput, match="id"):
            collection.put([NewItem("fine"), NewItem(id)])
        assert collection.size().items == 0

    @pytest.mark.parametrize(
        "metadata",
        [
            {"x": float("nan")},
            {"x": [1, {"y": float("inf")}]},
            {"x": 2**63},
            {"x": 10**5000},
            {"x": "a\0b"},
            {"a\0b": 1},
            {"x": "\ud800"},
            {1: 2},
            {"x": b"bytes"},
            {"x": "y" * MAX_METADATA},
            ["no object"],
        ],
    )
    def test_metadata_that_no_store_keeps_is_refused(
        self, collection: Collection, metadata: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidInput, match="metadata"):
            collection.put([NewItem("fine"), NewItem("a", metadata)])
        collection.put([NewItem("a", {"n": 1})])
        with pytest.raises(InvalidInput):
            collection.update_metadata("a", metadata)
        assert [item.metadata for item in collection.page()] == [{"n": 1}]

    def test_metadata_comes_back_as_it_was(self, collection: Collection) -> None:
        deep: dict[str, object] = {"end": 1}
        for _ in range(30):
            deep = {"d": deep}
        metadata = {
            "deep": deep,
            "int": -(2**63),
            "float": 0.1,
            "small": 5e-324,
            "text": 'ü"\\\n\t€🐈',
            "": "empty key",
            'key "quoted"\\': None,
            "list": [[], {}, "", False],
            "big": "x" * 50_000,
        }
        collection.put([NewItem("a", metadata)])
        (item,) = collection.get(["a"])
        assert item is not None and item.metadata == metadata
        assert [type(item.metadata[key]) for key in ("int", "float")] == [int, float]

    def test_metadata_nested_too_deep_is_refused(self, collection: Collection) -> None:
        deep: list[object] = []
        for _ in range(5000):
            deep = [deep]
        with pytest.raises(InvalidInput, match="nested"):
            collection.put([NewItem("a", {"x": deep})])

    def test_pictures_may_be_large_and_empty(self, collection: Collection) -> None:
        large = bytes(range(256)) * 8192  # 2 MiB
        collection.put([NewItem("large", picture=large), NewItem("empty", picture=b"")])
        assert collection.pictures(["empty", "large"]) == [b"", large]
        assert collection.pictures(["empty", "large"], len(large)) == [b"", large]
        assert collection.pictures(["large", "empty", "no"], len(large) - 1) == [None, b"", None]
        assert collection.size().pictures == 2

    def test_a_put_with_one_wrong_vector_does_nothing(self, collection: Collection) -> None:
        rows = vectors(3)
        for wrong in (np.nan, np.inf, 1e30):
            bad = rows.copy()
            bad[1, 2] = wrong
            with pytest.raises(InvalidInput, match="row 1"):
                collection.put(items(3), {SPACE: bad})
        bad = rows.copy()
        bad[2] = 0
        with pytest.raises(InvalidInput, match=r"row 2.*zeros"):
            collection.put(items(3), {SPACE: bad})
        for shape in ((2, DIM), (3,), (3, 0)):
            with pytest.raises(InvalidInput):
                collection.put(items(3), {SPACE: np.ones(shape, np.float32)})
        assert collection.size().items == 0 and collection.page() == []

    def test_size_counts(self, collection: Collection) -> None:
        filled(collection, 10)
        collection.put([NewItem("plain")])
        size = collection.size()
        assert (size.items, size.pictures) == (11, 10) and size.bytes > 0

    def test_facts_are_kept(self, collection: Collection) -> None:
        assert collection.fact("x") is None
        collection.set_fact("x", "1")
        collection.set_fact("x", "ü 🐈")
        assert collection.fact("x") == "ü 🐈"
        collection.set_fact("x", None)
        collection.set_fact("never", None)
        assert collection.fact("x") is None

    def test_collections_are_made_found_and_dropped(self, store: Store) -> None:
        names = sorted(new_collection(store).spec.name for _ in range(3))
        assert store.names() == names
        assert store.open(names[0]) is store.open(names[0])
        with pytest.raises(Conflict, match=names[1]):
            store.create(CollectionSpec(names[1]))
        with pytest.raises(NotFound, match=names[2]):
            store.open("no-such")
        with pytest.raises(NotFound):
            store.drop("no-such")
        gone = store.open(names[0])
        filled(gone, 3)
        store.drop(names[0])
        assert store.names() == names[1:]
        with pytest.raises(NotFound):
            store.open(names[0])
        with pytest.raises(ServerError):
            gone.put([NewItem("a")])
        fresh = store.create(CollectionSpec(names[0], "dot"))
        assert fresh.size().items == 0 and fresh.spaces() == [] and fresh.spec.metric == "dot"

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hid", "a b", "ü", "x" * 65])
    def test_names_that_are_no_names_are_refused(self, store: Store, name: str) -> None:
        with pytest.raises(InvalidInput, match="name"):
            store.create(CollectionSpec(name))
        with pytest.raises(NotFound):
            store.open(name)
        assert store.names() == []

    def test_collections_that_make_no_sense_are_refused(self, store: Store) -> None:
        with pytest.raises(InvalidInput, match="metric"):
            store.create(CollectionSpec("x", "hamming"))  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="dim"):
            store.create(CollectionSpec("x", dim=0))
        with pytest.raises(InvalidInput, match="model"):
            store.create(CollectionSpec("x", model="\0"))
        assert store.names() == []
