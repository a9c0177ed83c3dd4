"""What a search asks of SQLite, and what it does when the files move under it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.index.contract import CollectionSpec, Hit, NewItem, Query
from server.index.embedded import EmbeddedStore, selections, statements
from server.index.embedded.collection import EmbeddedCollection
from server.index.embedded.database import Database
from server.index.embedded.held import HeldSpace
from server.index.embedded.rows import RowFile
from server.index.embedded.table import TouchedSlots
from server.index.filter_reading import read_filter
from server.index.filters import Filter
from server.index.search import Selection
from tests.server.index.suite_base import DIM, SPACE, filled, items, vectors


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[EmbeddedCollection]:
    store = EmbeddedStore(tmp_path / "collections", compact_from=8)
    yield store.create(CollectionSpec("photos", "l2"))
    store.close()


def found(collection: EmbeddedCollection, filter: Filter | None = None) -> set[str]:
    (hits,) = collection.space(SPACE, DIM).search(vectors(1), Query(k=1000, filter=filter))
    assert len({hit.id for hit in hits}) == len(hits)
    return {hit.id for hit in hits}


def test_without_a_new_filter_sqlite_is_not_asked(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 20)
    few = read_filter({"n": {"$lt": 3}})
    assert len(found(collection, few)) == 3

    def refuse(self: Database) -> None:
        raise AssertionError("SQLite was asked")

    monkeypatch.setattr(Database, "read", refuse)
    assert len(found(collection)) == 20
    assert len(found(collection, few)) == 3


def test_only_new_items_are_looked_at_again(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 20)
    few = read_filter({"n": {"$lt": 3}})
    selected = collection._selections
    before = selected.of(few)
    collection.delete(["i0001"])
    assert selected.of(few) is before
    collection.put([NewItem("new", {"n": 1})], {SPACE: vectors(1)})
    after = selected.of(few)
    assert after is not before and after.mask[:20].tolist() == before.mask.tolist()
    assert found(collection, few) == {"i0000", "i0002", "new"}


def test_selections_are_forgotten_when_they_take_too_much(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 20)
    monkeypatch.setattr(selections, "MOST_BYTES", 5 * (selections.ENTRY_BYTES + 200))
    selected = collection._selections
    first = read_filter({"n": 0})
    kept = selected.of(first)
    for n in range(1, 10):
        assert found(collection, read_filter({"n": n})) == {f"i{n:04}"}
        assert selected.of(first) is kept  # asked for again and again, so it stays
    for n in range(10, 20):
        found(collection, read_filter({"n": n}))
    assert len(selected._known) <= 5 and selected.of(first) is not kept


def test_a_search_beside_replacements_waits_in_the_end(collection: EmbeddedCollection) -> None:
    filled(collection, 10)
    turn = collection._table.turn
    few = read_filter({"n": {"$lt": 3}})
    results: list[set[str]] = []
    with turn.of(replacing=True), turn.of_memory(replacing=True):
        threads = [
            threading.Thread(target=lambda f=filter: results.append(found(collection, f)))
            for filter in (None, few)
        ]
        for thread in threads:
            thread.start()
        threads[0].join(0.2)
        assert not results
    for thread in threads:
        thread.join()
    assert sorted(map(len, results)) == [3, 10]


def test_a_search_that_saw_half_a_replacement_is_done_again(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(collection, 10)
    space = collection.space(SPACE, DIM)
    index = space.held().index
    search, calls = index.search, []

    def replaced_meanwhile(*args: object) -> object:
        answer = search(*args)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 1:
            collection.put(items(3), {SPACE: rows[:3] + 1})
        return answer

    monkeypatch.setattr(index, "search", replaced_meanwhile)
    (hits,) = space.search(rows[:1] + 1, Query(k=1))
    assert hits == [Hit("i0000", 0.0)] and len(calls) == 2


def test_rows_are_written_anywhere_and_the_file_grows(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.f32", 3000)
    first = file.matrix
    rows = vectors(5, 3000)
    file.write(np.array([0, 1, 5, 6, 900]), rows)
    file.write(np.empty(0, np.int64), rows[:0])
    file.sync()
    assert np.array_equal(file.matrix[[0, 1, 5, 6, 900]], rows)
    assert not file.matrix[2:5].any() and len(file.matrix) > 900 > len(first)
    assert np.array_equal(first[:2], rows[:2])  # an older mapping shows the same
    assert 0 < file.bytes < 900 * 3000 * 4  # what was never written takes no room
    file.close()
    file.close()
    assert np.array_equal(first[0], rows[0]) and file.bytes == 0
    again = RowFile(tmp_path / "rows.f32", 3000)
    assert np.array_equal(again.matrix[900], rows[4])
    again.close()


def test_touched_slots_are_forgotten_in_the_end() -> None:
    touched = TouchedSlots()
    for slot in range(TouchedSlots.MOST):
        touched.add(slot)
    position = touched.position
    assert touched.since(position) == [] and touched.since(position - 2) == [4094, 4095]
    touched.add(7)
    assert touched.since(position) == [7] and touched.since(position - 1) is None


def test_masks_and_files_grow_with_a_collection(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path / "collections")) as store:
        collection = store.create(CollectionSpec("photos", "l2"))
        rows = vectors(4200, 100)
        for first in range(0, 4200, 700):
            part = [NewItem(f"i{i:04}", {"n": i}) for i in range(first, first + 700)]
            collection.put(part, {SPACE: rows[first : first + 700]})
        new = collection.space("new", 2)
        assert new.fill(new.missing(2000), vectors(2000, 2)) == 2000
        assert new.fill(new.missing(9000), vectors(2200, 2)) == 2200
        collection.delete([f"i{i:04}" for i in range(1000, 4000, 2)])
        assert collection._table.generation == 0
    with closing(EmbeddedStore(tmp_path / "collections")) as store:
        collection = store.open("photos")
        space, late = collection.space(SPACE, 100), read_filter({"n": {"$gte": 3900}})
        for i in (0, 999, 1001, 4199):
            (hits,) = space.search(rows[i : i + 1], Query(k=1))
            assert hits[0].id == f"i{i:04}"
        (hits,) = space.search(rows[:1], Query(k=4000, filter=late))
        assert len(hits) == 250
        assert (space.state().vectors, space.state().missing) == (2700, 0)
        assert (collection.space("new", 2).state().vectors, collection.size().items) == (2700, 2700)


def test_room_of_deleted_pictures_is_given_back(collection: EmbeddedCollection) -> None:
    collection.put([NewItem(str(i), picture=bytes(50_000)) for i in range(30)])
    pages = collection._database._writer.execute("PRAGMA page_count").fetchone()[0]
    collection.delete([str(i) for i in range(28)])
    assert collection.settle(60)
    assert collection.pictures(["27", "28"]) == [None, bytes(50_000)]
    assert collection._database._writer.execute("PRAGMA page_count").fetchone()[0] < pages / 4


def test_filters_are_not_remembered_without_end(collection: EmbeddedCollection) -> None:
    filled(collection, 4)
    for n in range(20):
        values = [f"{n} {i} " + "x" * 4000 for i in range(1000)]
        assert found(collection, read_filter({"a": {"$in": values}})) == set()
    assert sum(len(text) for asked in collection._selections._known for text in asked.values) < (
        selections.MOST_BYTES
    )


def test_a_snapshot_that_was_left_does_not_hold_readers_back(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path / "collections")) as store:
        collection = store.create(CollectionSpec("photos", "l2"))
        collection.put([NewItem(f"i{i}", {}, bytes(1000)) for i in range(1000)])
        with store.snapshot("photos") as pieces:
            first = next(pieces)
        collection.put([NewItem("new", {"n": 1}, b"picture")])
        assert [item and item.id for item in collection.get(["new"])] == ["new"]
        assert collection.pictures(["new"]) == [b"picture"]
        assert first and collection.page(filter=read_filter({"n": 1}))[0].id == "new"
        with pytest.raises(sqlite3.ProgrammingError):  # never the end of an archive
            list(pieces)


def test_reads_beside_replacements_see_each_item_once(collection: EmbeddedCollection) -> None:
    """A vector is there before and after its item is replaced, so it is there in between."""
    rows = filled(collection, 10)
    space = collection.space(SPACE, DIM)
    done, find = threading.Event(), HeldSpace.find

    def look(self: HeldSpace, slots: np.ndarray) -> None:
        halfway.set()
        done.wait(0.3)  # time for a reader, if it does not wait
        find(self, slots)

    halfway = threading.Event()
    answers: list[Any] = []

    def read() -> None:
        halfway.wait(60)
        answers.append(space.vectors(["i0003"]))
        answers.append(space.sample(100)[0])
        answers.append(space.state().missing)
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldSpace, "find", look)
        collection.put(items(5), {SPACE: rows[:5]})
    reader.join()
    vector, ids, missing = answers
    assert vector[0] is not None and sorted(ids) == [f"i{i:04}" for i in range(10)]
    assert missing == 0


def test_searches_do_not_wait_for_writers(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to find the space, not for the disk, and not for new items on their way to the index."""
    rows, few = filled(collection, 10), read_filter({"n": {"$lt": 3}})
    inside, go_on = threading.Event(), threading.Event()
    answers: list[Any] = []

    def search() -> None:
        space = collection.space(SPACE, DIM)
        answers.append(len(space.search(rows[:1], Query(k=10))[0]))
        answers.append(len(space.search(rows[:1], Query(k=10, filter=few))[0]))
        answers.append(space.state().missing)

    def paused(call: Callable[..., object]) -> Callable[..., object]:
        def pausing(*args: object) -> object:
            inside.set()
            assert go_on.wait(60)
            return call(*args)

        return pausing

    for where, name in ((statements, "put_items"), (HeldSpace, "find")):
        inside.clear()
        go_on.clear()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, paused(getattr(where, name)))
            writer = threading.Thread(
                target=collection.put, args=([NewItem(name)], {SPACE: rows[:1] + 50})
            )
            writer.start()
            assert inside.wait(60)
            reader = threading.Thread(target=search)
            reader.start()
            reader.join(60)
            assert not reader.is_alive()
            go_on.set()
            writer.join()
    assert answers == [10, 3, 0] * 2


def test_a_remembered_mask_is_a_selection(collection: EmbeddedCollection) -> None:
    filled(collection, 4)
    selection = collection._selections.of(read_filter({"even": True}))
    assert isinstance(selection, Selection) and selection.slots.tolist() == [0, 2]
