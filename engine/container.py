"""One file holding a JSON header and raw, aligned byte ranges: what an artifact is made of.

    0   magic "MILLRACE"          8   format version, u32; reserved, u32
    16  header bytes, u64         24  file bytes, u64
    32  sha256 of everything from byte 64 on
    64  header (UTF-8 JSON), then the blobs, each at a multiple of 64

No pickle and no code: a reader believes nothing that the checksum and the bounds do not cover.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidModel

MAGIC = b"MILLRACE"
FORMAT_VERSION = 1
ALIGNMENT = 64
PREFIX = struct.Struct("<8sIIQQ32s")
CHUNK_BYTES = 1 << 20

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Container:
    """A mapped container: its header, and views of its blobs in the order they were written."""

    header: Mapping[str, Any]
    blobs: Sequence[memoryview]


def write_container(path: Path, header: Mapping[str, Any], blobs: Sequence[Buffer]) -> None:
    """Write one container to `path`, which must not exist, and make it durable."""
    sizes = [memoryview(blob).nbytes for blob in blobs]
    text = json.dumps({"header": header, "blobs": sizes}, separators=(",", ":")).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(bytes(PREFIX.size))
        digest = hashlib.sha256()
        for piece in _aligned_pieces([text, *blobs]):
            digest.update(piece)
            file.write(piece)
        total = file.tell()
        file.seek(0)
        file.write(PREFIX.pack(MAGIC, FORMAT_VERSION, 0, len(text), total, digest.digest()))
        file.flush()
        os.fsync(file.fileno())


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
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise InvalidModel(f"artifact {path.name} cannot be mapped: {error}") from error
    return parse_container(memoryview(mapped), path.name)


def parse_container(data: memoryview, name: str) -> Container:
    """Check prefix, sizes and checksum of a container and cut it into its blobs."""
    if len(data) < PREFIX.size:
        raise InvalidModel(f"artifact {name} has {len(data)} bytes, fewer than its prefix")
    magic, version, _, header_bytes, total, digest = PREFIX.unpack_from(data)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise InvalidModel(f"{name} is not an artifact of format {FORMAT_VERSION}")
    if total != len(data) or header_bytes > total - PREFIX.size:
        raise InvalidModel(f"artifact {name} has {len(data)} bytes, its prefix says {total}")
    if _checksum(data[PREFIX.size :]) != digest:
        raise InvalidModel(f"artifact {name} is damaged: its checksum does not match")
    try:
        document = json.loads(bytes(data[PREFIX.size : PREFIX.size + header_bytes]))
        return Container(document["header"], _cut(data, header_bytes, document["blobs"], name))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidModel(f"artifact {name} has a damaged header: {error}") from error


def _cut(data: memoryview, header_bytes: int, sizes: Sequence[int], name: str) -> list[memoryview]:
    blobs = []
    start = PREFIX.size + header_bytes
    for size in sizes:
        start += -start % ALIGNMENT
        if size < 0 or start + size > len(data):
            raise InvalidModel(f"artifact {name}: a blob of {size} bytes lies beyond its end")
        blobs.append(data[start : start + size])
        start += size
    return blobs


def _aligned_pieces(parts: Sequence[Buffer]) -> Iterator[Buffer]:
    """Yield the parts, each preceded by what aligns it; the first begins right after the prefix."""
    position = PREFIX.size
    for part in parts:
        padding = -position % ALIGNMENT
        view = memoryview(part)
        yield bytes(padding)
        yield view
        position += padding + view.nbytes


def _checksum(data: memoryview) -> bytes:
    digest = hashlib.sha256()
    for start in range(0, len(data), CHUNK_BYTES):  # in pieces: hashing lets go of the GIL for each
        digest.update(data[start : start + CHUNK_BYTES])
    return digest.digest()
