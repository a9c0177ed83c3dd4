"""Unpack a tar or zip file that came from outside into a folder, and nowhere else.

Only regular files and folders; no links, no devices, no path that leaves the folder; bounded in
bytes and in number, counted while unpacking, since headers may lie.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

MAX_ENTRIES = 10_000
MAX_DEPTH = 8
MAX_PART_BYTES = 255
CHUNK_BYTES = 1 << 20
# A tar header may claim to be any length and is read in one piece.
MAX_HEADER_BYTES = 4 << 20

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = b"\x1f\x8b"
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257

# What Python's readers raise at files that are damaged, or made to do harm.
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, struct.error, ValueError, OverflowError, IndexError),
    *(NotImplementedError, RuntimeError),  # a compression that Python does not have; encryption
)


class ArchiveInvalid(ValueError):
    """The archive is damaged, or holds something that a version cannot."""


class ArchiveTooLarge(ValueError):
    """The archive unpacks to more than the limit."""


@dataclass
class _Budget:
    """What may still be unpacked."""

    left_bytes: int
    limit_bytes: int
    left_entries: int

    def spend(self, count: int) -> None:
        self.left_bytes -= count
        if self.left_bytes < 0:
            raise ArchiveTooLarge(f"it unpacks to more than {self.limit_bytes} bytes")

    def entry(self) -> None:
        self.left_entries -= 1
        if self.left_entries < 0:
            raise ArchiveInvalid(f"it has more than {MAX_ENTRIES} entries")


def kind_of(head: bytes) -> str | None:
    """Return "zip" or "tar" by the first bytes of a file; None for anything else."""
    if head.startswith(ZIP_MAGIC):
        return "zip"
    tar = head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + len(TAR_MAGIC)] == TAR_MAGIC
    return "tar" if tar or head.startswith(GZIP_MAGIC) else None


def unpack(
    archive: Path,
    kind: str,
    target: Path,
    limit_bytes: int,
    *,
    keeps_top: Callable[[Path], bool] = lambda _: False,
) -> None:
    """Unpack into an empty folder.

    A single top folder is taken off, since that is how people pack a folder; unless `keeps_top`
    says of it that it means something.

    Raises:
        ArchiveInvalid: naming the entry that cannot be unpacked.
        ArchiveTooLarge: it is longer than the limit once unpacked.
    """
    budget = _Budget(limit_bytes, limit_bytes, MAX_ENTRIES)
    try:
        with archive.open("rb") as file:
            if kind == "zip":
                _unpack_zip(file, target, budget)
            else:
                _unpack_tar(file, target, budget)
    except (ArchiveInvalid, ArchiveTooLarge):
        raise
    except DAMAGED as error:
        raise ArchiveInvalid(f"it is not a readable {kind} file: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk; bzip2's complaints are without a number
            raise
        raise ArchiveInvalid(f"it is not a readable {kind} file: {error}") from error
    _take_off_top(target, keeps_top)


def _unpack_zip(file: BinaryIO, target: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            budget.entry()
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveInvalid(f"{entry.filename!r} is a link or a device; only files may be")
            if entry.flag_bits & 0x1:
                raise ArchiveInvalid(f"{entry.filename!r} is encrypted")
            place = _place(entry.filename)
            if place is not None and not entry.is_dir():
                with archive.open(entry) as content:
                    _write(content, target / place, budget)


def _unpack_tar(file: BinaryIO, target: Path, budget: _Budget) -> None:
    with plain_tar(file) as plain, tarfile.open(fileobj=plain, mode="r:") as archive:
        for entry in archive:
            budget.entry()
            budget.spend(tarfile.BLOCKSIZE)
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
                raise ArchiveInvalid(f"{entry.name!r} is a link or a device; only files may be")
            place = _place(entry.name)
            content = None if entry.isdir() else archive.extractfile(entry)
            if content is None:
                continue
            if place is None:
                budget.spend(entry.size)  # skipped, but read all the same
            else:
                _write(content, target / place, budget)


@contextmanager
def plain_tar(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a tar file, unpacked on the way if it is compressed, with bounded reads."""
    compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    if compressed:
        with gzip.GzipFile(fileobj=file) as plain:
            yield _BoundedReads(plain)
    else:
        yield _BoundedReads(file)


class _BoundedReads(io.RawIOBase, BinaryIO):
    """A file of which nobody may read a huge piece at once."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_HEADER_BYTES:
            raise ArchiveInvalid(f"it has a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _place(name: str) -> PurePosixPath | None:
    """Return where an entry belongs below the target; None for what is left out.

    Raises:
        ArchiveInvalid: the name leads out of the target, or no file system takes it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise ArchiveInvalid(f"the entry {name[:200]!r} leads out of the version's folder")
    if len(path.parts) > MAX_DEPTH:
        raise ArchiveInvalid(f"the entry {name[:200]!r} is nested deeper than {MAX_DEPTH} folders")
    try:
        too_long = any(len(part.encode()) > MAX_PART_BYTES for part in path.parts)
    except UnicodeEncodeError as error:
        raise ArchiveInvalid(f"the entry {name[:200]!r} is not named in UTF-8") from error
    if too_long:
        raise ArchiveInvalid(f"the entry {name[:200]!r} has a name of over {MAX_PART_BYTES} bytes")
    # Hidden files and what macOS adds are nobody's model; a version has none.
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path if path.parts and not hidden else None


def _write(content: IO[bytes], path: Path, budget: _Budget) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while chunk := content.read(CHUNK_BYTES):
                budget.spend(len(chunk))
                file.write(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveInvalid(f"it has the entry {path.name!r} twice") from error


def _take_off_top(target: Path, keeps: Callable[[Path], bool]) -> None:
    names = list(target.iterdir())
    if len(names) != 1 or not names[0].is_dir() or names[0].name == "samples" or keeps(names[0]):
        return
    top = names[0].rename(target / ".top")  # its own entries may be called as it is
    for entry in list(top.iterdir()):
        entry.rename(target / entry.name)
    top.rmdir()
