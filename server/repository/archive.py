"""Unpack a tar or zip file that came from outside into a folder, and nowhere else.

Only regular files and folders; no links, no devices, no path that leaves the folder; bounded in
bytes and in number, counted while unpacking, since headers may lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tarfile import AREGTYPE, BLOCKSIZE, DIRTYPE, REGTYPE
from typing import IO, BinaryIO

from server.repository.bounded_archives import (
    DAMAGED,
    ArchiveInvalid,
    ArchiveTooLarge,
    fault_of,
    kind_of,
    open_tar,
    open_zip,
)

__all__ = ["ArchiveInvalid", "ArchiveTooLarge", "kind_of", "unpack"]

MAX_ENTRIES = 10_000
MAX_DEPTH = 8
MAX_PART_BYTES = 255
CHUNK_BYTES = 1 << 20


@dataclass
class _Budget:
    """What may still be unpacked."""

    left_bytes: int
    limit_bytes: int

    def spend(self, count: int) -> None:
        self.left_bytes -= count
        if self.left_bytes < 0:
            raise ArchiveTooLarge(f"it unpacks to more than {self.limit_bytes} bytes")


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
    budget = _Budget(limit_bytes, limit_bytes)
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
    with open_zip(file, MAX_ENTRIES) as archive:
        for entry in archive.infolist():
            fault = fault_of(entry)
            if fault is not None:
                raise ArchiveInvalid(f"{entry.filename[:200]!r} {fault}")
            place = _place(entry.filename)
            if place is not None and not entry.is_dir():
                with archive.open(entry) as content:
                    _write(content, target / place, budget)


def _unpack_tar(file: BinaryIO, target: Path, budget: _Budget) -> None:
    with open_tar(file, MAX_ENTRIES, budget.limit_bytes) as entries:
        for entry in entries:
            budget.spend(BLOCKSIZE)
            if entry.type not in (REGTYPE, AREGTYPE, DIRTYPE):
                raise ArchiveInvalid(f"{entry.name[:200]!r} is a link or a device, not a file")
            place = _place(entry.name)
            content = entries.content(entry)
            if content is None:
                continue
            if place is None:
                budget.spend(entry.size)  # skipped, but read all the same
            else:
                _write(content, target / place, budget)


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
