"""Snapshots taken and restored, and archives that are none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from server.errors import Conflict, InvalidInput
from server.index.archive import ArchivedItem, Contents, write_archive
from server.index.contract import Collection, CollectionSpec, NewItem, Store
from tests.server.index.suite_base import DIM, SPACE, BaseSuite, items, new_collection, vectors

OTHER = "eyes@2:ba9876543210"
Members = dict[str, bytes]
Change = Callable[[Members], object]
COUNT = 300  # more than one chunk of an archive


def rich_collection(store: Store) -> Collection:
    collection = new_collection(store, "l2", model="eyes")
    collection.put(items(COUNT), {SPACE: vectors(COUNT)})
    other = collection.space(OTHER, 3)
    some = other.missing(100)
    other.fill(some, vectors(100, 3))
    collection.put([NewItem("ü/🐈", {"deep": {"x": [1.5, None]}}), NewItem("i0007", {}, b"")])
    collection.delete(["i0002"])
    collection.space("empty", 5)
    collection.set_fact("pinned", "ü")
    return collection


def save(store: Store, name: str, path: Path) -> Path:
    with store.snapshot(name) as pieces, path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return path


def everything(collection: Collection) -> object:
    """All a collection holds, but for revisions and times."""
    page = collection.page(limit=10_000)
    ids = [item.id for item in page]
    dims = {SPACE: DIM, OTHER: 3, "empty": 5}
    return (
        [(item.id, item.metadata, item.has_picture, item.has_thumbnail) for item in page],
        collection.pictures(ids),
        collection.thumbnails(ids),
        collection.spaces(),
        {
            key: [None if row is None else row.tolist() for row in space.vectors(ids)]
            for key in collection.spaces()
            for space in (collection.space(key, dims[key]),)
        },
        collection.fact("pinned"),
        (collection.spec.metric, collection.spec.model, collection.spec.dim),
    )


def edited(name: str, **fields: object) -> Change:
    def change(members: Members) -> None:
        members[name] = orjson.dumps({**orjson.loads(members[name]), **fields})

    return change


def replaced(name: str, data: bytes) -> Change:
    return lambda members: members.update({name: data})


def removed(name: str) -> Change:
    return lambda members: members.pop(name)


def item(**fields: object) -> Change:
    line = orjson.dumps({"id": "a", "metadata": {}, "spaces": [], **fields})
    return replaced("items-000000.jsonl", line + b"\n")


CHANGES: dict[str, Change] = {
    "no manifest": removed("manifest.json"),
    "a list for a manifest": replaced("manifest.json", b"[1]"),
    "an empty manifest": replaced("manifest.json", b"{}"),
    "no JSON": replaced("manifest.json", b"\xff"),
    "a later version": edited("manifest.json", version=99),
    "a metric that is none": edited("manifest.json", spec={"metric": "x"}),
    "no spec": edited("manifest.json", spec=None),
    "facts that are none": edited("manifest.json", facts=[1]),
    "a space without length": edited("manifest.json", spaces=[{"key": "a", "dim": 0}]),
    "a space without key": edited("manifest.json", spaces=[{"dim": 3}]),
    "a space twice": edited("manifest.json", spaces=[{"key": "a", "dim": 3}] * 2),
    "spaces that are none": edited("manifest.json", spaces=7),
    "an id that is none": item(id=1),
    "an empty id": item(id=""),
    "a space there is not": item(spaces=[77]),
    "a picture of negative length": item(picture=-1),
    "an item that is a list": replaced("items-000000.jsonl", b"[1]\n"),
    "a space of no text for a key": edited("manifest.json", spaces=[{"key": 7, "dim": 3}]),
    "a count that is wrong": edited("checksums.json", items=4),
    "a picture of no whole length": item(picture=9e9),
    "a picture of more than 63 bits": item(picture=2**63),
    "a model of no valid name": edited(
        "manifest.json", spec={"metric": "l2", "model": "a\0", "dim": None}
    ),
    "more picture than there is": item(picture=10**6),
    "bytes that are missing": replaced("bytes-000000.bin", b""),
    "bytes too many": replaced("vectors-000000.f32", b"more" * 1000),
    "wrong checksums": replaced("checksums.json", b'{"items": 3, "sha256": {}}'),
    "no checksums": removed("checksums.json"),
}


class ArchiveSuite(BaseSuite):
    def test_a_snapshot_restores_everything(self, store: Store, tmp_path: Path) -> None:
        collection = rich_collection(store)
        path = save(store, collection.spec.name, tmp_path / "a.tar")
        restored = store.restore("copy", path)
        assert restored.spec.name == "copy" and store.open("copy") is restored
        assert everything(restored) == everything(collection)
        with pytest.raises(Conflict, match="copy"):
            store.restore("copy", path)
        with tarfile.open(path) as archive:  # any tar program reads it
            assert archive.getnames()[0] == "manifest.json"

    def test_an_empty_collection_is_archived_as_well(self, store: Store, tmp_path: Path) -> None:
        collection = new_collection(store)
        path = save(store, collection.spec.name, tmp_path / "a.tar")
        assert store.restore("copy", path).size().items == 0

    def test_a_snapshot_is_of_one_moment(self, store: Store, tmp_path: Path) -> None:
        collection = rich_collection(store)
        before = everything(collection)
        with store.snapshot(collection.spec.name) as pieces:
            taken = [next(pieces)]
            collection.delete([item.id for item in collection.page(limit=200)])
            collection.put([NewItem("i0290", {"new": True}), NewItem("later")], {SPACE: vectors(2)})
            collection.drop_space(OTHER)
            taken += pieces
        path = tmp_path / "a.tar"
        path.write_bytes(b"".join(taken))
        assert everything(store.restore("copy", path)) == before

    def test_cut_archives_are_refused(self, store: Store, tmp_path: Path) -> None:
        whole = self._archive(store, tmp_path).read_bytes()
        names = store.names()
        path = tmp_path / "cut.tar"
        for size in (0, 1, 511, 512, 700, len(whole) // 2, len(whole) - 1024 - 512):
            path.write_bytes(whole[:size])
            with pytest.raises(InvalidInput, match="archive"):
                store.restore("copy", path)
        assert store.names() == names

    def test_damaged_archives_are_refused(self, store: Store, tmp_path: Path) -> None:
        whole = bytearray(self._archive(store, tmp_path).read_bytes())
        path = tmp_path / "damaged.tar"
        generator = np.random.default_rng(0)
        for _ in range(12):
            # Anything before the two blocks of the end, but padding, which is not looked at.
            at = int(generator.integers(0, len(whole) - 1024))
            damaged = bytearray(whole)
            damaged[at] ^= 0x40
            path.write_bytes(damaged)
            try:
                store.restore("copy", path)
            except InvalidInput:
                continue
            assert whole[at] == 0, "a changed byte went unnoticed"
            store.drop("copy")
        assert "copy" not in store.names()

    @pytest.mark.parametrize("name", list(CHANGES))
    def test_made_up_archives_are_refused(self, store: Store, tmp_path: Path, name: str) -> None:
        with tarfile.open(self._archive(store, tmp_path)) as archive:
            members = {
                member.name: file.read()
                for member in archive
                if (file := archive.extractfile(member)) is not None
            }
        CHANGES[name](members)
        path = _write_tar(tmp_path / "made_up.tar", members)
        names = store.names()
        with pytest.raises(InvalidInput):
            store.restore("copy", path)
        assert store.names() == names

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
    )
    def test_nothing_in_an_archive_leads_elsewhere(
        self, store: Store, tmp_path: Path, kind: bytes
    ) -> None:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = kind, "/etc/passwd"
        path = tmp_path / "link.tar"
        with tarfile.open(path, "w") as archive:
            archive.addfile(member)
        with pytest.raises(InvalidInput):
            store.restore("copy", path)
        for name in ("../../escape", "/tmp/escape", "manifest.json/../x"):
            with pytest.raises(InvalidInput):
                store.restore("copy", _write_tar(path, {name: b"{}"}))
        assert store.names() == []

    def test_a_member_too_large_for_memory_is_refused(self, store: Store, tmp_path: Path) -> None:
        member = tarfile.TarInfo("manifest.json")
        member.size = 1 << 40
        path = tmp_path / "large.tar"
        path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(InvalidInput, match="at most"):
            store.restore("copy", path)

    def test_an_archive_of_one_item_twice_is_refused(self, store: Store, tmp_path: Path) -> None:
        twice = [ArchivedItem(NewItem("a")), ArchivedItem(NewItem("a"))]
        path = tmp_path / "twice.tar"
        path.write_bytes(b"".join(write_archive(Contents(CollectionSpec("x"), {}, {}, twice))))
        with pytest.raises(InvalidInput, match="twice"):
            store.restore("copy", path)
        assert store.names() == []

    def _archive(self, store: Store, tmp_path: Path) -> Path:
        collection = new_collection(store)
        collection.put(items(3), {SPACE: vectors(3)})
        return save(store, collection.spec.name, tmp_path / "whole.tar")


def _write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
