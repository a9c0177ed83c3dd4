"""Compaction: beside everything else, stopped at any point, and told when it fails."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import StoreUnavailable
from server.index.contract import CollectionSpec, NewItem, Query
from server.index.embedded import EmbeddedStore, statements
from server.index.embedded import collection as collections
from server.index.embedded.collection import EmbeddedCollection
from server.index.embedded.compaction import Compaction
from server.index.embedded.numbers import Numbers
from server.index.embedded.selections import Selections
from server.index.filter_reading import read_filter
from tests.server.index.suite_base import DIM, SPACE, filled, items, vectors

EVEN = read_filter({"even": True})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "collections"


@pytest.fixture
def collection(root: Path) -> Iterator[EmbeddedCollection]:
    with closing(EmbeddedStore(root, compact_from=8)) as store:
        yield store.create(CollectionSpec("photos", "l2"))


def check(collection: EmbeddedCollection, expected: dict[str, np.ndarray]) -> None:
    """Check that these items are there, with these vectors, however one asks."""
    ids = sorted(expected)
    assert [item.id for item in collection.page(limit=10_000)] == ids
    space = collection.space(SPACE, DIM)
    for id, row in zip(ids, space.vectors(ids), strict=True):
        assert row is not None and np.array_equal(row, expected[id])
    for id in ids:
        (hits,) = space.search(expected[id][None], Query(k=1))
        assert (hits[0].id, hits[0].score) == (id, 0.0)
    even = {item.id for item in collection.page(limit=10_000, filter=EVEN)}
    (hits,) = space.search(np.zeros((1, DIM), np.float32), Query(k=10_000, filter=EVEN))
    assert {hit.id for hit in hits} == even and len(hits) == len(even)
    state = space.state()
    assert (state.vectors, state.missing) == (len(ids), 0)


def test_what_is_left_moves_together(collection: EmbeddedCollection, root: Path) -> None:
    rows = filled(collection, 40)
    expected = {f"i{i:04}": rows[i] for i in range(0, 40, 3)}
    check(collection, {f"i{i:04}": rows[i] for i in range(40)})  # a filter is remembered
    collection.delete([f"i{i:04}" for i in range(40) if i % 3])
    assert collection.settle(60) and collection._table.generation == 1
    check(collection, expected)
    assert collection._table.dead == 0 and collection._table.next_slots(1).tolist() == [14]
    assert {p.name for p in (root / "photos").iterdir() if p.suffix == ".f32"} == {"1-1.f32"}
    collection.put(items(3, "n"), {SPACE: rows[:3] + 9})
    expected |= {f"n{i:04}": rows[i] + 9 for i in range(3)}
    check(collection, expected)


def test_compacted_collections_are_read_again(root: Path) -> None:
    rows = vectors(60)
    expected: dict[str, np.ndarray] = {}
    for turn in range(3):
        with closing(EmbeddedStore(root, compact_from=8)) as store:
            if turn == 0:
                store.create(CollectionSpec("photos", "l2"))
            collection = store.open("photos")
            check(collection, expected) if expected else None
            named = [NewItem(f"t{turn}-{i}", {"even": i % 2 == 0}) for i in range(60)]
            collection.put(named, {SPACE: rows + turn})
            expected |= {f"t{turn}-{i}": rows[i] + turn for i in range(60)}
            gone = [id for i, id in enumerate(expected) if i % 7]
            collection.delete(gone)
            for id in gone:
                del expected[id]
            assert collection.settle(60)
            check(collection, expected)
    with closing(EmbeddedStore(root)) as store:
        check(store.open("photos"), expected)
        assert store.open("photos")._table.generation == 3


def test_changes_during_a_compaction_are_followed(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(collection, 40)
    follow, calls = Compaction.follow, []

    def change_then_follow(self: Compaction, seen: object) -> int:
        changed = follow(self, seen)  # type: ignore[arg-type]
        calls.append(changed)
        if len(calls) == 1:  # from another thread than the writers': what they do between rounds
            collection.put(items(2), {SPACE: rows[:2] + 5})  # replaced
            collection.delete(["i0003"])
            collection.put([NewItem("i0003", {"even": True})], {SPACE: rows[:1] + 7})
            collection.update_metadata("i0006", {"even": False})
            collection.put([NewItem(f"x{i}") for i in range(200)], {SPACE: vectors(200, seed=4)})
            collection.space("late", 2).fill(collection.space("late", 2).missing(3), vectors(3, 2))
        return changed

    monkeypatch.setattr(Compaction, "follow", change_then_follow)
    monkeypatch.setattr(collections, "FEW_CHANGES", 0)
    collection.space("early", 3)
    collection.delete([f"i{i:04}" for i in range(10, 40)])
    assert collection.settle(60) and collection._table.generation == 1
    assert len(calls) >= 3 and calls[-1] == 0
    expected = {f"i{i:04}": rows[i] for i in range(10)}
    expected |= {"i0000": rows[0] + 5, "i0001": rows[1] + 5, "i0003": rows[0] + 7}
    expected |= {f"x{i}": row for i, row in enumerate(vectors(200, seed=4))}
    check(collection, expected)
    assert collection.space("late", 2).state().vectors == 3
    assert collection.spaces() == [SPACE, "early", "late"]


def test_writers_go_on_while_rows_are_copied(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(collection, 40)
    inside, go_on = threading.Event(), threading.Event()
    follow = Compaction._follow_space

    def wait_inside(self: Compaction, *args: object) -> int:
        inside.set()
        assert go_on.wait(60)
        return follow(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Compaction, "_follow_space", wait_inside)
    collection.delete([f"i{i:04}" for i in range(10, 40)])
    assert inside.wait(60)
    collection.put([NewItem("meanwhile")], {SPACE: rows[:1] + 1})
    assert collection.delete(["i0009"]) == 1
    (hits,) = collection.space(SPACE, DIM).search(rows[:1] + 1, Query(k=1, filter=None))
    assert hits[0].id == "meanwhile" and collection._table.generation == 0
    go_on.set()
    assert collection.settle(60) and collection._table.generation == 1
    check(collection, {f"i{i:04}": rows[i] for i in range(9)} | {"meanwhile": rows[0] + 1})


def test_a_search_follows_a_compaction_under_it(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 20)
    space = collection.space(SPACE, DIM)
    selections = collection._selections
    ask = type(selections)._mask
    moved: list[bool] = []

    def move_first(self: object, *args: object) -> object:
        if not moved:
            moved.append(True)
            collection.delete([f"i{i:04}" for i in range(0, 20, 2)] + ["i0001"])
            assert collection.settle(60)
            collection.put([NewItem("i0003", {"n": 3})], {SPACE: vectors(1)})
        return ask(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(selections), "_mask", move_first)
    (hits,) = space.search(vectors(1), Query(k=100, filter=read_filter({"n": {"$lt": 7}})))
    assert {hit.id for hit in hits} == {"i0003", "i0005"}
    assert collection._table.generation == 1


def test_a_space_that_goes_during_a_compaction_leaves_nothing(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(collection, 40)
    collection.put(items(40), {SPACE: rows, "second": rows[:, :2]})
    settle = Compaction.settle

    def drop(self: Compaction) -> None:
        collection.drop_space("second")
        settle(self)

    monkeypatch.setattr(Compaction, "settle", drop)
    monkeypatch.setattr(collections, "FEW_CHANGES", 0)
    collection.delete([f"i{i:04}" for i in range(10, 40)])
    assert collection.settle(60) and collection._table.generation == 1
    assert [p.name for p in collection._folder.glob("*.f32")] == ["1-1.f32"]
    check(collection, {f"i{i:04}": rows[i] for i in range(10)})


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (os, "pwrite"),
        (os, "fdatasync"),
        (statements, "set_kept"),
        (statements, "forget_waiting"),
        (Selections, "take_over"),
    ],
)
def test_compaction_that_fails_changes_nothing(
    collection: EmbeddedCollection, caplog: pytest.LogCaptureFixture, where: object, name: str
) -> None:
    rows = filled(collection, 40)
    before = {path.name for path in collection._folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(where, name, full)
        assert collection.delete([f"i{i:04}" for i in range(10, 31)]) == 21
        assert collection.settle(60)
    assert "could not be compacted" in caplog.text
    assert {path.name for path in collection._folder.iterdir()} == before
    expected = {f"i{i:04}": rows[i] for i in [*range(10), *range(31, 40)]}
    check(collection, expected)
    collection.delete(["i0031"])  # one more is not worth another try yet
    assert collection.settle(60) and collection._table.generation == 0
    collection.delete([f"i{i:04}" for i in range(32, 40)])
    assert collection.settle(60) and collection._table.generation == 1
    check(collection, {f"i{i:04}": rows[i] for i in range(10)})


def test_anything_else_that_fails_is_logged(
    collection: EmbeddedCollection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a mistake")

    rows = filled(collection, 20)
    monkeypatch.setattr(Compaction, "switch", fail)
    collection.delete([f"i{i:04}" for i in range(5, 20)])
    assert collection.settle(60) and "a mistake" in caplog.text
    check(collection, {f"i{i:04}": rows[i] for i in range(5)})


def test_a_switch_that_may_have_reached_the_disk_keeps_its_files(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(collection, 20)
    database = collection._database

    def doubtful(*_: object) -> None:
        database._doubtful = True
        raise sqlite3.OperationalError("disk I/O error")

    def failing() -> None:
        raise StoreUnavailable("still no disk")

    with monkeypatch.context() as patch:
        patch.setattr(statements, "set_kept", doubtful)
        patch.setattr(database, "settle_doubts", failing)
        collection.delete([f"i{i:04}" for i in range(5, 20)])
        assert collection.settle(60)
        assert (collection._folder / "1-1.f32").exists()
        with pytest.raises(StoreUnavailable, match="still no disk"):
            collection.put([NewItem("a")], {SPACE: rows[:1]})
    collection.put([NewItem("a")], {SPACE: rows[:1] + 3})
    assert collection.settle(60) and not database._doubtful
    check(collection, {f"i{i:04}": rows[i] for i in range(5)} | {"a": rows[0] + 3})


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_compaction_ends_with_its_collection(
    root: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    store = EmbeddedStore(root, compact_from=8)
    collection = store.create(CollectionSpec("photos", "l2"))
    rows = filled(collection, 40)
    inside = threading.Event()

    def until_stopped(self: Compaction, *_: object) -> int:
        inside.set()
        while True:
            self._check()

    monkeypatch.setattr(Compaction, "_follow_space", until_stopped)
    collection.delete([f"i{i:04}" for i in range(10, 40)])
    assert inside.wait(60)
    store.drop("photos") if end == "drop" else None
    store.close()
    left = {path.name for path in root.iterdir()}
    assert left == ({".lock"} if end == "drop" else {".lock", "photos"})
    if end == "close":
        monkeypatch.undo()
        with closing(EmbeddedStore(root)) as again:
            check(again.open("photos"), {f"i{i:04}": rows[i] for i in range(10)})
            names = {path.name for path in (root / "photos").glob("*.f32")}
            assert names == {"1-0.f32"}


def test_indexes_are_taken_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are not made anew: that would compare every row for as long as it takes."""
    pytest.importorskip("faiss")
    from server.index.search import upkeep, worker

    monkeypatch.setattr(upkeep, "MIN_ROWS", 500)
    monkeypatch.setattr(upkeep, "MIN_FLOATS", 500 * 16)
    built: list[int] = []
    build = worker.built

    def noted(*args: object) -> object:
        built.append(1)
        return build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "built", noted)
    centres = vectors(20, 16, seed=9) * 20
    rows = centres[np.arange(3000) % 20] + vectors(3000, 16, seed=1)
    with closing(EmbeddedStore(root, compact_from=8)) as store:
        collection = store.create(CollectionSpec("photos", "l2"))
        collection.put([NewItem(f"i{i}") for i in range(3000)], {SPACE: rows})
        space = collection.space(SPACE, 16)
        assert space.settle(60) and space.state().kind == "approximate" and len(built) == 1
        collection.delete([f"i{i}" for i in range(1600)])
        assert collection.settle(60) and collection._table.generation == 1
        assert space.state().kind == "approximate" and len(built) == 1
        found = space.search(rows[1600::7], Query(k=1))
        assert [hits[0].id for hits in found] == [f"i{i}" for i in range(1600, 3000, 7)]


@given(
    st.lists(st.integers(0, 200), unique=True, max_size=50).map(sorted),
    st.integers(0, 50),
    st.lists(st.integers(0, 400), max_size=50),
)
def test_numbers_and_slots_agree(kept: list[int], gap: int, asked: list[int]) -> None:
    first = (kept[-1] + 1 if kept else 0) + gap
    numbers = Numbers.stored(Numbers(np.array(kept, np.int64), 0).to_store(), first)
    slow = kept + [first + i for i in range(500)]
    slots = np.array(asked, np.int64)
    assert numbers.of(slots).tolist() == [slow[slot] for slot in asked]
    assert [numbers.of_one(slot) for slot in asked] == [slow[slot] for slot in asked]
    expected = [slow.index(number) if number in slow else -1 for number in asked]
    assert numbers.slots_of(slots).tolist() == expected
    assert [numbers.slot_of(number) for number in asked[:3]] == expected[:3]
    assert Numbers.plain().of(slots).tolist() == asked == Numbers.plain().slots_of(slots).tolist()


Change = tuple[str, list[int]]
changes = st.lists(
    st.tuples(
        st.sampled_from(("put", "delete", "replace", "compact", "open")),
        st.lists(st.integers(0, 30), max_size=12),
    ),
    max_size=12,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes)
def test_any_changes_between_compactions(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Change]
) -> None:
    root = tmp_path_factory.mktemp("any")
    store = EmbeddedStore(root, compact_from=10**6)
    collection = store.create(CollectionSpec("photos", "l2"))
    expected: dict[str, np.ndarray] = {}
    always: Callable[[], bool] = lambda: True  # noqa: E731 - a name for what is passed on
    collection.space(SPACE, DIM)
    for turn, (what, numbers) in enumerate(steps):
        ids = [f"i{n}" for n in dict.fromkeys(numbers)]
        if what in ("put", "replace") and ids:
            rows = vectors(len(ids), seed=turn)
            named = [NewItem(id, {"even": int(id[1:]) % 2 == 0}) for id in ids]
            collection.put(named, {SPACE: rows})
            expected |= dict(zip(ids, rows, strict=True))
        elif what == "delete":
            collection.delete(ids)
            expected = {id: row for id, row in expected.items() if id not in ids}
        elif what == "compact":
            collection._compact(always)
        elif what == "open":
            store.close()
            store = EmbeddedStore(root, compact_from=10**6)
            collection = store.open("photos")
        check(collection, expected)
    store.close()
