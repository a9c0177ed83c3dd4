"""A collection as one file that every store writes and reads.

A plain tar, made and read as a stream:

    manifest.json          format, version, spec, facts, spaces with their dims
    items-000000.jsonl     one line per item: id, metadata, lengths of its bytes, its spaces
    bytes-000000.bin       pictures and thumbnails of those items, in their order
    vectors-000000.f32     their vectors, float32 little endian: by item, then by space
    items-000001.jsonl     ... and so on
    checksums.json         SHA-256 of each member before, and how many items there are

Names, order and kinds of members are fixed and nothing is ever unpacked to a path, so an archive
from anywhere can do no more than be refused. That it ends with the checksums makes a cut one
noticed.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from server.errors import InvalidInput
from server.index.checks import METRICS, check_dim, check_space_key, is_clean
from server.index.contract import Collection, CollectionSpec, NewItem

FORMAT, VERSION = "millrace-collection", 1
MANIFEST, CHECKSUMS = "manifest.json", "checksums.json"
CHUNK_ITEMS = 256
CHUNK_BYTES = 8 << 20  # pictures, thumbnails and vectors together, or one item that has more
MOST_MEMBER_BYTES = 256 << 20  # that a reader takes into memory
MOST_SPACES = 1024
BLOCK = tarfile.BLOCKSIZE
LITTLE_FLOATS = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class ArchivedItem:
    """An item with all that belongs to it."""

    item: NewItem
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # by space


@dataclass(frozen=True, slots=True)
class Contents:
    """A collection on its way into an archive, or out of one."""

    spec: CollectionSpec
    facts: Mapping[str, str]
    spaces: Mapping[str, int]  # key -> dim, oldest first
    items: Iterable[ArchivedItem]


# -- writing ------------------------------------------------------------------------------------


def write_archive(contents: Contents) -> Iterator[bytes]:
    """Give the archive piece by piece; no more than a chunk of items is held at a time."""
    sums: dict[str, str] = {}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created_s": time.time(),
        "spec": asdict(contents.spec),
        "facts": dict(contents.facts),
        "spaces": [{"key": key, "dim": dim} for key, dim in contents.spaces.items()],
    }
    yield from _member(MANIFEST, orjson.dumps(manifest), sums)
    numbers = {key: number for number, key in enumerate(contents.spaces)}
    count = 0
    for index, chunk in enumerate(_chunks(contents.items)):
        names = _chunk_names(index)
        lines = b"".join(orjson.dumps(_line(each, numbers)) + b"\n" for each in chunk)
        pictures = b"".join(
            data for each in chunk for data in (each.item.picture, each.item.thumbnail) if data
        )
        vectors = b"".join(
            np.asarray(each.vectors[key], LITTLE_FLOATS).tobytes()
            for each in chunk
            for key in numbers
            if key in each.vectors
        )
        for name, data in zip(names, (lines, pictures, vectors), strict=True):
            yield from _member(name, data, sums)
        count += len(chunk)
    yield from _member(CHECKSUMS, orjson.dumps({"items": count, "sha256": sums}), {})
    yield bytes(2 * BLOCK)


def _chunk_names(index: int) -> tuple[str, str, str]:
    return f"items-{index:06}.jsonl", f"bytes-{index:06}.bin", f"vectors-{index:06}.f32"


def _line(each: ArchivedItem, numbers: Mapping[str, int]) -> dict[str, Any]:
    item = each.item
    return {
        "id": item.id,
        "metadata": dict(item.metadata),
        "picture": None if item.picture is None else len(item.picture),
        "thumbnail": None if item.thumbnail is None else len(item.thumbnail),
        "spaces": [number for key, number in numbers.items() if key in each.vectors],
    }


def _chunks(items: Iterable[ArchivedItem]) -> Iterator[list[ArchivedItem]]:
    chunk: list[ArchivedItem] = []
    size = 0
    for each in items:
        chunk.append(each)
        size += len(each.item.picture or b"") + len(each.item.thumbnail or b"")
        size += sum(row.nbytes for row in each.vectors.values())
        if len(chunk) >= CHUNK_ITEMS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _member(name: str, data: bytes, sums: dict[str, str]) -> Iterator[bytes]:
    sums[name] = hashlib.sha256(data).hexdigest()
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = len(data), int(time.time()), 0o644
    yield header.tobuf(tarfile.USTAR_FORMAT)
    if data:
        yield data
        yield bytes(-len(data) % BLOCK)


# -- reading ------------------------------------------------------------------------------------


@contextmanager
def open_archive(path: Path) -> Iterator[Contents]:
    """Read an archive, wherever it comes from; its items only when they are asked for.

    Raises:
        InvalidInput: it is no archive of a collection, or a damaged one. Whoever takes its items
            learns that of the last ones only in the end: what was made of them must not count
            before.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path.stat().st_size)
        yield reader.contents()


def restore_into(collection: Collection, contents: Contents) -> None:
    """Put all that an archive holds into an empty collection.

    Raises:
        InvalidInput: it is damaged, or holds what no collection may.
    """
    for key, dim in contents.spaces.items():
        collection.space(key, dim)
    count = 0
    for batch in _chunks(contents.items):
        for keys in dict.fromkeys(tuple(sorted(each.vectors)) for each in batch):
            alike = [each for each in batch if tuple(sorted(each.vectors)) == keys]
            collection.put(
                [each.item for each in alike],
                {key: np.stack([each.vectors[key] for each in alike]) for key in keys},
            )
        count += len(batch)
    for name, value in contents.facts.items():
        collection.set_fact(name, value)
    if collection.size().items != count:
        _refuse("an id occurs twice in it")


def _refuse(why: str) -> NoReturn:
    raise InvalidInput(
        f"this is not a whole archive of a collection: {why}; take a new snapshot", field="archive"
    )


class _Reader:
    """Reads the members in the one order there is."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self._sums: dict[str, str] = {}

    def contents(self) -> Contents:
        manifest = _object(self._member((MANIFEST,))[1], MANIFEST)
        if manifest.get("format") != FORMAT:
            _refuse(f"{MANIFEST} does not say {FORMAT!r}")
        if manifest.get("version") != VERSION:
            _refuse(f"it has version {manifest.get('version')!r}, this release reads {VERSION}")
        facts = manifest.get("facts")
        if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
            _refuse("its facts are not texts")
        spaces = _read_spaces(manifest.get("spaces"))
        return Contents(_read_spec(manifest.get("spec")), facts, spaces, self._items(spaces))

    def _items(self, spaces: Mapping[str, int]) -> Iterator[ArchivedItem]:
        count = index = 0
        while True:
            names = _chunk_names(index)
            name, data = self._member((names[0], CHECKSUMS))
            if name == CHECKSUMS:
                self._check_sums(_object(data, CHECKSUMS), count)
                return
            pictures = io.BytesIO(self._member((names[1],))[1])
            vectors = io.BytesIO(self._member((names[2],))[1])
            for line in io.BytesIO(data):  # one after the other: there may be very many
                yield _read_item(_object(line, names[0]), pictures, vectors, list(spaces.items()))
                count += 1
            if pictures.read(1) or vectors.read(1):
                _refuse(f"{names[0]} does not account for all bytes beside it")
            index += 1

    def _check_sums(self, found: dict[str, Any], count: int) -> None:
        del self._sums[CHECKSUMS]
        if found.get("sha256") != self._sums:
            _refuse("a checksum is wrong")
        if found.get("items") != count:
            _refuse(f"it should have {found.get('items')!r} items, and has {count}")

    def _member(self, names: Sequence[str]) -> tuple[str, bytes]:
        expected = " or ".join(names)
        try:
            header = tarfile.TarInfo.frombuf(self._take(BLOCK, expected), "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            _refuse(f"no member where {expected} should be")
        if header.type != tarfile.REGTYPE or header.name not in names:
            _refuse(f"a member {header.name[:80]!r} where {expected} should be")
        if not 0 <= header.size <= MOST_MEMBER_BYTES:
            _refuse(f"{header.name} has {header.size} bytes, at most {MOST_MEMBER_BYTES} are read")
        data = self._take(header.size, header.name)
        self._take(-header.size % BLOCK, header.name)
        self._sums[header.name] = hashlib.sha256(data).hexdigest()
        return header.name, data

    def _take(self, count: int, what: str) -> bytes:
        if count > self._left:
            _refuse(f"it ends before the end of {what}")
        self._left -= count
        return self._file.read(count)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        _refuse(f"{where} is not JSON")
    if not isinstance(value, dict):
        _refuse(f"{where} is not a JSON object")
    return value


def _read_spec(value: Any) -> CollectionSpec:
    if not isinstance(value, dict):
        _refuse("it does not say what the collection was made with")
    metric, model, dim = value.get("metric"), value.get("model"), value.get("dim")
    if metric not in METRICS or not (model is None or (isinstance(model, str) and is_clean(model))):
        _refuse("its metric or model is none")
    return CollectionSpec(
        str(value.get("name")), metric, model, None if dim is None else check_dim(dim)
    )


def _read_spaces(value: Any) -> dict[str, int]:
    if not isinstance(value, list) or len(value) > MOST_SPACES:
        _refuse("its spaces are not a list")
    found = {}
    for each in value:
        if not isinstance(each, dict) or not isinstance(each.get("key"), str):
            _refuse("a space has no key")
        dim = each.get("dim")
        found[check_space_key(each["key"])] = check_dim(dim if isinstance(dim, int) else 0)
    if len(found) != len(value):
        _refuse("two spaces have one key")
    return found


def _read_item(
    line: dict[str, Any], pictures: IO[bytes], vectors: IO[bytes], spaces: list[tuple[str, int]]
) -> ArchivedItem:
    id, metadata, numbers = line.get("id"), line.get("metadata"), line.get("spaces")
    if not isinstance(id, str) or not isinstance(metadata, dict) or not isinstance(numbers, list):
        _refuse("an item has no id, metadata or spaces")
    rows = {}
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number < len(spaces):
            _refuse(f"item {id[:80]!r} is in a space that there is not")
        key, dim = spaces[number]
        data = _exactly(vectors, dim * LITTLE_FLOATS.itemsize, id)
        rows[key] = np.frombuffer(data, LITTLE_FLOATS).astype(np.float32)
    picture, thumbnail = (_blob(pictures, line.get(name), id) for name in ("picture", "thumbnail"))
    return ArchivedItem(NewItem(id, metadata, picture, thumbnail), rows)


def _blob(source: IO[bytes], length: Any, id: str) -> bytes | None:
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        _refuse(f"item {id[:80]!r} has bytes of no length")
    return _exactly(source, length, id)


def _exactly(source: IO[bytes], count: int, id: str) -> bytes:
    # No member is longer, so that no number is too large to be read.
    data = source.read(min(count, MOST_MEMBER_BYTES + 1))
    if len(data) != count:
        _refuse(f"bytes of item {id[:80]!r} are missing")
    return data
