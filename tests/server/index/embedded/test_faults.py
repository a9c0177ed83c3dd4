"""Full disks, damaged files, two processes: clear errors, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from server.errors import Conflict, InternalFault, NotFound, ServerError, StoreUnavailable
from server.index.contract import CollectionSpec, NewItem, Query
from server.index.embedded import EmbeddedStore, open_store, statements, waiting
from server.index.embedded.collection import EmbeddedCollection
from server.index.embedded.rows import RowFile
from tests.server.index.suite_base import DIM, SPACE, filled, items, vectors

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "collections"


@pytest.fixture
def store(root: Path) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(root, compact_from=8)
    yield store
    store.close()


@pytest.fixture
def collection(store: EmbeddedStore) -> EmbeddedCollection:
    return store.create(CollectionSpec("photos", "l2"))


def whole(collection: EmbeddedCollection, count: int) -> None:
    """Check that the items of `filled` are all there, with their vectors."""
    assert [item.id for item in collection.page(limit=1000)] == [f"i{i:04}" for i in range(count)]
    space, rows = collection.space(SPACE, DIM), vectors(count)
    for i, hits in enumerate(space.search(rows, Query(k=1))):
        assert hits[0].id == f"i{i:04}"


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_is_open_in_one_process(store: EmbeddedStore, root: Path) -> None:
    with pytest.raises(StoreUnavailable, match=f"process {os.getpid()}"):
        open_store(root)
    code = (
        "import sys, pathlib; from server.index.embedded import open_store; "
        "open_store(pathlib.Path(sys.argv[1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, root], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode and "PostgreSQL" in run.stderr
    store.close()
    open_store(root).close()


def test_a_closed_store_says_so(store: EmbeddedStore, collection: EmbeddedCollection) -> None:
    filled(collection, 3)
    space = collection.space(SPACE, DIM)
    store.close()
    store.close()
    for call in (
        lambda: store.open("photos"),
        lambda: store.create(CollectionSpec("x")),
        lambda: store.drop("photos"),
        lambda: collection.put([NewItem("a")]),
        lambda: collection.get(["i0000"]),
        lambda: collection.size(),
        lambda: space.search(vectors(1), Query()),
        lambda: space.missing(1),
    ):
        with pytest.raises(ServerError):
            call()


def test_a_full_disk_changes_nothing(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            collection.put(items(9), {SPACE: vectors(9, seed=1)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        patch.setattr(waiting, "MOST_COPIED", 0)
        with pytest.raises(StoreUnavailable, match="No space left"):
            collection.put(items(9), {SPACE: vectors(9, seed=1)})
    for failing in ("ftruncate", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, full)
            with pytest.raises(StoreUnavailable, match="No space left"):
                collection.space("new", 3)
    assert collection.spaces() == [SPACE]
    whole(collection, 5)
    collection.put(items(9), {SPACE: vectors(9)})
    whole(collection, 9)


def test_a_full_database_changes_nothing(collection: EmbeddedCollection) -> None:
    filled(collection, 5)
    writer = collection._database._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        collection.put([NewItem("large", picture=bytes(10**6))], {SPACE: vectors(1)})
    whole(collection, 5)
    writer.execute("PRAGMA max_page_count = 1000000")
    collection.put(items(6), {SPACE: vectors(6)})
    whole(collection, 6)


def test_what_may_not_be_written_can_still_be_read(collection: EmbeddedCollection) -> None:
    filled(collection, 3)
    collection._database._writer.execute("PRAGMA query_only = 1")
    for call in (
        lambda: collection.put([NewItem("a")]),
        lambda: collection.delete(["i0001"]),
        lambda: collection.update_metadata("i0001", {}),
        lambda: collection.set_fact("a", "b"),
        lambda: collection.drop_space(SPACE),
        lambda: collection.space("new", 3),
    ):
        with pytest.raises(StoreUnavailable, match="readonly"):
            call()
    whole(collection, 3)


def test_a_transaction_that_fails_late_is_undone(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(collection, 4)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(statements, "claim_vectors", fail)
        with pytest.raises(StoreUnavailable, match="I/O"):
            collection.put(items(2), {SPACE: vectors(2, seed=8)})
    whole(collection, 4)


def test_vectors_are_on_the_disk_before_they_count(
    collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MOST_COPIED", 0)
    steps: list[str] = []

    def noted(step: str, call: Callable[..., object]) -> Callable[..., object]:
        def noting(*args: object) -> object:
            steps.append(step)
            return call(*args)

        return noting

    monkeypatch.setattr(RowFile, "_write_at", noted("write", RowFile._write_at))
    monkeypatch.setattr(RowFile, "sync", noted("sync", RowFile.sync))
    monkeypatch.setattr(statements, "claim_vectors", noted("count", statements.claim_vectors))
    collection.put(items(3), {SPACE: vectors(3)})
    new = collection.space("new", 2)
    new.fill(new.missing(2), vectors(2, 2))
    assert steps == ["write", "sync", "count"] * 2
    ((mode,), (level,)) = (
        collection._database._writer.execute(f"PRAGMA {name}").fetchone()
        for name in ("journal_mode", "synchronous")
    )
    assert (mode, level) == ("wal", 2)  # 2: FULL


def test_a_damaged_database_is_named(store: EmbeddedStore, root: Path) -> None:
    for name in ("good", "bad"):
        filled(store.create(CollectionSpec(name, "l2")), 3)
    store.close()
    path = root / "bad" / "items.sqlite"
    for damage in (b"no database at all" * 100, path.read_bytes()[:100] + bytes(5000)):
        path.write_bytes(damage)
        store = EmbeddedStore(root)
        try:
            with pytest.raises(InternalFault, match=r"items.sqlite.*(snapshot|backup)"):
                store.open("bad")
            whole(store.open("good"), 3)
            assert store.names() == ["bad", "good"]
            store.drop("bad") if damage[:4] == b"SQLi" else None
        finally:
            store.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("PRAGMA application_id = 7", "no collection"),
        ("PRAGMA user_version = 99", "99"),
        ("DELETE FROM about", "never finished"),
    ],
)
def test_files_of_others_are_refused(
    store: EmbeddedStore, collection: EmbeddedCollection, root: Path, change: str, says: str
) -> None:
    store.close()
    with sqlite3.connect(root / "photos" / "items.sqlite") as database:
        database.execute(change)
    database.close()
    again = EmbeddedStore(root)
    try:
        with pytest.raises(InternalFault, match=says):
            again.open("photos")
    finally:
        again.close()


@pytest.mark.parametrize("size", [None, 0, 32, 10 * 4 * DIM])
def test_lost_vectors_are_made_again_from_pictures(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    root: Path,
    size: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    filled(collection, 12)
    store.close()
    path = root / "photos" / "1-0.f32"
    path.unlink() if size is None else os.truncate(path, size)
    kept = (size or 0) // (4 * DIM)
    again = EmbeddedStore(root)
    try:
        collection = again.open("photos")
        assert "made again" in caplog.text
        space = collection.space(SPACE, DIM)
        missing = space.missing(100)
        assert [each.id for each in missing] == [f"i{i:04}" for i in range(kept, 12)]
        assert space.fill(missing, vectors(12)[kept:]) == 12 - kept
        whole(collection, 12)
    finally:
        again.close()


def test_lost_vectors_that_came_ready_made_are_an_error(
    store: EmbeddedStore, collection: EmbeddedCollection, root: Path
) -> None:
    filled(collection, 3)
    collection.put([NewItem("ready")], {SPACE: vectors(1)})
    store.close()
    (root / "photos" / "1-0.f32").unlink()
    again = EmbeddedStore(root)
    try:
        with pytest.raises(InternalFault, match=r"4 vectors .* 1 of them .* snapshot"):
            again.open("photos")
    finally:
        again.close()


def test_what_a_killed_process_left_is_removed(
    store: EmbeddedStore, collection: EmbeddedCollection, root: Path
) -> None:
    filled(collection, 3)
    store.close()
    folder = root / "photos"
    for name in ("1-1.f32", "1-1.ann", "7-0.f32", "1-0.ann.new"):
        (folder / name).write_bytes(b"left")
    for name in (".new-1", ".dropped-1"):
        (root / name).mkdir()
        (root / name / "items.sqlite").touch()
    (root / "notes.txt").write_text("not ours")
    (root / "empty").mkdir()
    again = EmbeddedStore(root)
    try:
        assert again.names() == ["photos"]
        whole(again.open("photos"), 3)
        assert {path.name for path in folder.iterdir()} <= {
            "items.sqlite",
            "items.sqlite-wal",
            "items.sqlite-shm",
            "1-0.f32",
        }
        assert {path.name for path in root.iterdir()} == {".lock", "photos", "notes.txt", "empty"}
        with pytest.raises(Conflict):
            again.create(CollectionSpec("empty"))
    finally:
        again.close()


def test_a_collection_that_goes_away_under_the_server_is_named(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.close()
    again = EmbeddedStore(root)
    try:
        monkeypatch.setattr(EmbeddedStore, "_exists", lambda *_: True)
        with pytest.raises(InternalFault, match=r"items.sqlite is missing.*snapshot"):
            again.open("never")
    finally:
        again.close()


def test_a_space_that_cannot_be_mapped_closes_the_others(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled(collection, 3)
    collection.space("second", 2)
    store.close()
    opened, make = [], RowFile._map

    def fail_later(self: RowFile) -> None:
        opened.append(self)
        if len(opened) > 1:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        make(self)

    again = EmbeddedStore(root)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(RowFile, "_map", fail_later)
            with pytest.raises(StoreUnavailable, match="memory"):
                again.open("photos")
        assert len(opened) == 2 and not opened[0]._open
        whole(again.open("photos"), 3)
    finally:
        again.close()


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="file"):
        open_store(tmp_path / "file" / "collections")


def test_a_restore_that_fails_leaves_nothing(
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled(collection, 3)
    with store.snapshot("photos") as pieces:
        (tmp_path / "a.tar").write_bytes(b"".join(pieces))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.restore("copy", tmp_path / "a.tar")
    with pytest.raises(StoreUnavailable, match="No such file"):
        store.restore("copy", tmp_path / "no such.tar")
    assert {path.name for path in root.iterdir()} == {".lock", "photos"}
    with pytest.raises(NotFound):
        store.open("copy")


def test_a_name_taken_during_a_restore_is_a_conflict(
    store: EmbeddedStore, collection: EmbeddedCollection, root: Path
) -> None:
    with pytest.raises(Conflict, match="other"), store._new_folder("other") as folder:
        (folder / "x").touch()
        store.create(CollectionSpec("other"))
    assert store.names() == ["other", "photos"]
    assert np.isin([path.name for path in root.iterdir()], [".lock", "other", "photos"]).all()
