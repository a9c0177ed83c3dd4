"""One file holding raw, aligned byte ranges and a JSON header that tells what they are.

    0   magic "MILLRACE"           8   format version, u32; zero, u32
    16  where the header begins    24  bytes of the header, both u64
    32  sha256 of the header
    64  the blobs, each at a multiple of 64; then the header (UTF-8 JSON), to the file's end

The header holds a checksum of every blob, so that the whole file is covered. Blobs are checked at
the speed of memory: they are large, and what has to be noticed is damage, not an attacker who
writes to the user's own files. No pickle and no code: a reader believes nothing that checksums and
bounds do not cover.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import struct
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from engine.errors import InvalidModel

MAGIC: Final = b"MILLRACE"
FORMAT_VERSION: Final = 3
ALIGNMENT: Final = 64
# Native code reads ahead of what it uses: so many bytes after the last blob belong to the file.
MARGIN: Final = 4096
PREFIX: Final = struct.Struct("<8sIIQQ32s")
COLUMNS: Final = (256, 255)  # words in a row; those in one column are summed
STRETCH_BYTES: Final = 512 << 10  # what has sums of its own; read once, summed twice in the cache
PART_BYTES: Final = 4 << 20  # what a thread takes at a time
HUGE_PAGE: Final = 2 << 20
PARTS_WORTH_THREADS: Final = 8
CHECKING_THREADS: Final = 4  # more do not read memory any faster

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Container:
    """A mapped container: its header, and views of its blobs in the order they were written."""

    header: Mapping[str, Any]
    blobs: Sequence[memoryview]


class ContainerWriter:
    """Writes one container, blob by blob: no more than one of them need be in memory.

    A context manager; a file that was not finished is no container.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file at `path`, which must not exist. Only this user can read it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._entries: list[tuple[int, int, str]] = []
        self._position = 0
        self._waiting = memoryview(bytearray(HUGE_PAGE))
        self._write(bytes(PREFIX.size))

    def add(self, blob: Buffer) -> int:
        """Write a blob; return its number."""
        view = memoryview(blob).cast("B")
        padding = bytes(-view.nbytes % ALIGNMENT)
        self._entries.append((self._position, view.nbytes, checksum(view, view.nbytes)))
        self._write(view)
        self._write(padding)
        return len(self._entries) - 1

    def finish(self, header: Mapping[str, Any]) -> None:
        """Write the header: from now on this is a container."""
        self.add(bytes(MARGIN))
        document = {"header": header, "blobs": self._entries}
        text = json.dumps(document, separators=(",", ":")).encode()
        begin = self._position
        self._write(text)
        self._flush(self._waiting[: self._position % HUGE_PAGE])
        digest = hashlib.sha256(text).digest()
        self._file.seek(0)
        self._file.write(PREFIX.pack(MAGIC, FORMAT_VERSION, 0, begin, len(text), digest))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _write(self, data: Buffer) -> None:
        """Write in pieces that begin and end at large pages: mapped, they take one entry each."""
        view = memoryview(data)
        while view.nbytes:
            begin = self._position % HUGE_PAGE
            piece = view[: HUGE_PAGE - begin]
            self._waiting[begin : begin + piece.nbytes] = piece
            self._position += piece.nbytes
            if begin + piece.nbytes == HUGE_PAGE:
                self._flush(self._waiting)
            view = view[piece.nbytes :]

    def _flush(self, waiting: memoryview) -> None:
        while waiting.nbytes:
            waiting = waiting[self._file.write(waiting) or 0 :]


def is_private(status: os.stat_result) -> bool:
    """Return whether only this user can have written a file or folder: what is read may be run."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class MappedFile(mmap.mmap):
    """A mapped file that can be opened anew: also when it has lost its name meanwhile.

    Attributes:
        descriptor: Open as long as this lives.
    """

    descriptor: int

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """Map a file read-only."""
        mapped = cls(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        mapped.descriptor = os.dup(descriptor)
        weakref.finalize(mapped, os.close, mapped.descriptor)
        return mapped


def descriptor_of(blob: memoryview) -> int | None:
    """Return a descriptor of the file that a blob is a view of; None where it is of none."""
    mapped = blob.obj
    return mapped.descriptor if isinstance(mapped, MappedFile) else None


def write_container(path: Path, header: Mapping[str, Any], blobs: Sequence[Buffer]) -> None:
    """Write one container to `path`, which must not exist."""
    with ContainerWriter(path) as writer:
        for blob in blobs:
            writer.add(blob)
        writer.finish(header)


def is_container(path: Path) -> bool:
    """Whether the file begins like a container; False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def map_container(path: Path) -> Container:
    """Map a container read-only and check all of it; anything wrong is an `InvalidModel`."""
    try:
        with path.open("rb") as file:
            mapped = MappedFile.of(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise InvalidModel(f"artifact {path.name} cannot be mapped: {error}") from error
    _advise(mapped)
    return parse_container(memoryview(mapped), path.name)


def map_descriptor(descriptor: int, name: str) -> Container:
    """Map an open file as `map_container` does one with a path; `name` is for messages."""
    return parse_container(memoryview(MappedFile.of(descriptor)), name)


def parse_container(data: memoryview, name: str) -> Container:
    """Check prefix, sizes and checksums of a container and cut it into its blobs."""
    if len(data) < PREFIX.size:
        raise InvalidModel(f"artifact {name} has {len(data)} bytes, fewer than its prefix")
    magic, version, zero, begin, length, digest = PREFIX.unpack_from(data)
    if magic != MAGIC or version != FORMAT_VERSION or zero:
        raise InvalidModel(f"{name} is not an artifact of format {FORMAT_VERSION}")
    if begin < PREFIX.size or begin + length != len(data):
        raise InvalidModel(
            f"artifact {name} has {len(data)} bytes, its prefix says {begin + length}"
        )
    text = bytes(data[begin:])
    if hashlib.sha256(text).digest() != digest:
        raise InvalidModel(f"artifact {name} is damaged: the checksum of its header does not match")
    try:
        document = json.loads(text)
        blobs = _cut(data, begin, document["blobs"], name)
        return Container(document["header"], blobs[:-1])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidModel(f"artifact {name} has a damaged header: {error}") from error


def checksum(data: memoryview, size: int) -> str:
    """Return a digest of a blob: of sums of its words, and of what is left over.

    `data` is the blob of `size` bytes, with or without the zeros that follow it.
    """
    digest = hashlib.sha256(struct.pack("<Q", size))
    parts = [data[begin : min(begin + PART_BYTES, size)] for begin in range(0, size, PART_BYTES)]
    for sums in _each(_sums, parts):
        digest.update(sums)
    digest.update(data[size:])
    digest.update(bytes(size + -size % ALIGNMENT - len(data)))
    return digest.hexdigest()


def _sums(part: memoryview) -> bytes:
    """Return sums over the columns of words laid out in rows, of two lengths: what moved along one
    column has changed columns of the other.
    """
    found: list[Buffer] = []
    for begin in range(0, len(part), STRETCH_BYTES):
        stretch = part[begin : begin + STRETCH_BYTES]
        words = np.frombuffer(stretch, np.uint64, len(stretch) // 8)
        for columns in COLUMNS:
            whole = len(words) // columns * columns
            rows = words[:whole].reshape(-1, columns)
            found += [np.add.reduce(rows, axis=0).data, words[whole:].data]
        found.append(stretch[len(words) * 8 :])
    return b"".join(found)


def _each(function: Callable[[memoryview], bytes], parts: Sequence[memoryview]) -> Iterable[bytes]:
    """Apply a function to parts, several at a time where there are many.

    numpy lets go of the GIL meanwhile.
    """
    if len(parts) < PARTS_WORTH_THREADS:
        return map(function, parts)
    with ThreadPoolExecutor(min(CHECKING_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, parts))


def _cut(
    data: memoryview, end: int, entries: Sequence[tuple[int, int, str]], name: str
) -> list[memoryview]:
    blobs = []
    position = PREFIX.size
    for begin, size, digest in entries:
        padded = size + -size % ALIGNMENT
        if begin != position or size < 0 or begin + padded > end:
            raise InvalidModel(f"artifact {name}: a blob of {size} bytes lies beyond its end")
        if checksum(data[begin : begin + padded], size) != digest:
            raise InvalidModel(f"artifact {name} is damaged: a checksum does not match")
        blobs.append(data[begin : begin + size])
        position = begin + padded
    if position != end or not blobs:
        raise InvalidModel(f"artifact {name} is damaged: its blobs end at {position}, not {end}")
    return blobs


def _advise(mapped: mmap.mmap) -> None:
    """Ask for large pages and for reading ahead, where the system knows of such things."""
    for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED"):
        option = getattr(mmap, advice, None)
        if option is not None:
            try:
                mapped.madvise(option)
            except OSError:  # a file system or kernel that has none
                continue
