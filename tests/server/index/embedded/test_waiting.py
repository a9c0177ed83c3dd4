"""Few rows wait for the disk once: the power may go at any moment, and none is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from server.errors import InternalFault, StoreUnavailable
from server.index.contract import CollectionSpec, NewItem
from server.index.embedded import EmbeddedStore, waiting
from server.index.embedded.collection import EmbeddedCollection
from server.index.embedded.rows import RowFile
from tests.server.index.suite_base import DIM, SPACE, filled, items, vectors


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path / "collections", compact_from=8)) as store:
        yield store


@pytest.fixture
def collection(store: EmbeddedStore) -> EmbeddedCollection:
    return store.create(CollectionSpec("photos", "l2"))


class Power:
    """Keeps what would be on the disk of each file of rows: what it was when it was last forced."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.forced: dict[Path, bytes] = {}
        self.waits = 0
        sync = RowFile.sync

        def noting(file: RowFile) -> None:
            sync(file)
            self.waits += 1
            self.forced[file.path] = file.path.read_bytes()

        patch.setattr(RowFile, "sync", noting)

    def cut(self, source: Path, target: Path) -> None:
        """Copy a folder as the disk would have it."""
        shutil.copytree(source, target)
        for path in target.rglob("*.f32"):
            path.write_bytes(self.forced.get(source / path.relative_to(target), b""))


def vectors_in(root: Path) -> dict[str, dict[str, list[float]]]:
    """Return the vectors by space and id of the collection in a folder."""
    with closing(EmbeddedStore(root)) as store:
        collection = store.open("photos")
        ids = [item.id for item in collection.page(limit=10_000)]
        dims = {SPACE: DIM, "second": 3}
        return {
            key: {
                id: row.tolist()
                for id, row in zip(ids, collection.space(key, dims[key]).vectors(ids), strict=True)
                if row is not None
            }
            for key in collection.spaces()
        }


@pytest.mark.parametrize("most", [0, 200, waiting.MOST_BYTES])
def test_a_power_cut_loses_nothing(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """After each change the power goes; the folder has what was acknowledged, and no more."""
    monkeypatch.setattr(waiting, "MOST_BYTES", most)
    power = Power(monkeypatch)
    expected: dict[str, dict[str, list[float]]] = {SPACE: {}, "second": {}}
    chance = np.random.default_rng(3)
    for turn in range(14):
        ids = [f"i{n}" for n in chance.choice(20, 6, replace=False)]
        if turn % 4 == 3:
            collection.delete(ids)
            for rows in expected.values():
                for id in ids:
                    rows.pop(id, None)
        else:
            one, two = vectors(6, seed=turn), vectors(6, 3, seed=turn)
            given = {SPACE: one, "second": two} if turn % 3 else {SPACE: one}
            collection.put([NewItem(id, {}, b"p") for id in ids], given)
            for id, first, second in zip(ids, one, two, strict=True):
                expected[SPACE][id] = first.tolist()
                expected["second"].pop(id, None)
                if turn % 3:
                    expected["second"][id] = second.tolist()
        if turn % 3 == 2:
            second = collection.space("second", 3)
            missing = second.missing(20)
            chosen = [each for each in missing if chance.random() < 0.7]
            made = vectors(len(chosen), 3, seed=100 + turn)
            assert second.fill(chosen, made) == len(chosen)
            for each, row in zip(chosen, made, strict=True):
                expected["second"][each.id] = row.tolist()
        assert collection.settle(60)
        copy = tmp_path / f"cut{turn}"
        power.cut(tmp_path / "collections", copy)
        found = vectors_in(copy)
        assert found == {key: rows for key, rows in expected.items() if key in found}
        assert found == vectors_in(copy)  # and again
        shutil.rmtree(copy)
    assert collection._table.generation >= 1


def test_a_small_put_waits_once(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    power = Power(monkeypatch)
    space = collection.space(SPACE, DIM)
    before = power.waits
    for i in range(20):
        collection.put([NewItem(str(i))], {SPACE: vectors(1, seed=i)})
    assert power.waits == before
    monkeypatch.setattr(waiting, "MOST_COPIED", 10 * DIM * 4)
    collection.put(items(11), {SPACE: vectors(11)})
    assert power.waits == before + 1
    assert space.state().vectors == 31


def test_a_small_fill_waits_once(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 40)
    power = Power(monkeypatch)
    space = collection.space("second", 3)
    before = power.waits
    missing = space.missing(40)
    assert space.fill(missing[:5] + missing[7:10], vectors(8, 3)) == 8
    assert power.waits == before
    assert space.fill(missing[11::2], vectors(len(missing[11::2]), 3)) == 15  # none beside another
    assert power.waits == before + 1
    assert space.state().vectors == 23


def test_copies_do_not_pile_up(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MOST_BYTES", 10 * DIM * 4)

    def copies() -> int:
        with collection._database.read() as reader:
            return int(reader.execute("SELECT count(*) FROM waiting").fetchone()[0])

    most = 0
    for i in range(60):
        collection.put([NewItem(str(i))], {SPACE: vectors(1, seed=i)})
        most = max(most, copies())
    assert 5 < most <= 11
    collection.space("second", 3)
    collection.put([NewItem("more")], {"second": vectors(1, 3)})
    before = copies()
    collection.drop_space("second")
    assert copies() == before - 1


def test_a_put_that_fails_leaves_copies_as_they_were(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "MOST_BYTES", 4 * DIM * 4)
    power = Power(monkeypatch)
    rows = filled(collection, 5)
    writer = collection._database._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        collection.put([NewItem("large", picture=bytes(10**6))], {SPACE: vectors(1, seed=5)})
    writer.execute("PRAGMA max_page_count = 1000000")
    power.cut(tmp_path / "collections", tmp_path / "cut")
    assert vectors_in(tmp_path / "cut")[SPACE] == {
        f"i{i:04}": row.tolist() for i, row in enumerate(rows)
    }
    collection.put([NewItem("other")], {SPACE: vectors(1, seed=6)})
    power.cut(tmp_path / "collections", tmp_path / "later")
    assert vectors_in(tmp_path / "later")[SPACE]["other"] == vectors(1, seed=6)[0].tolist()


def test_a_commit_that_failed_is_settled_before_its_slots_are_written_again(
    collection: EmbeddedCollection,
) -> None:
    """What a failed commit wrote may be found after a crash, with slots that are others' by now."""
    filled(collection, 3)
    database, writer = collection._database, collection._database._writer
    writer.execute("PRAGMA foreign_keys = 1")
    writer.execute("CREATE TABLE parent (key INTEGER PRIMARY KEY)")
    writer.execute(
        "CREATE TABLE child (key INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(InternalFault), database.write() as transaction:
        transaction.execute("INSERT INTO child VALUES (1)")  # noticed by the commit
    assert database._doubtful
    before = writer.execute("SELECT total_changes()").fetchone()
    database.settle_doubts()
    assert not database._doubtful and writer.execute("SELECT total_changes()").fetchone() > before
    collection.put(items(4), {SPACE: vectors(4)})


def test_an_earlier_format_is_brought_up_to_date(
    store: EmbeddedStore, collection: EmbeddedCollection, tmp_path: Path
) -> None:
    rows = filled(collection, 12)
    store.close()
    path = tmp_path / "collections" / "photos" / "items.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE kept; DROP TABLE waiting; PRAGMA user_version = 1")
    for _ in range(2):
        assert vectors_in(tmp_path / "collections")[SPACE] == {
            f"i{i:04}": row.tolist() for i, row in enumerate(rows)
        }
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
    assert os.path.getsize(path)  # noqa: PTH202 - closed, and whole
