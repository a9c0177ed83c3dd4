"""Zip and tar files of pictures, read entry by entry: names become ids, folders metadata.

Nothing is written anywhere, and no more than one batch is in memory. What an archive claims is
not believed: every read is bounded, and what was unpacked is counted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from tarfile import BLOCKSIZE, TarInfo
from typing import IO, BinaryIO

from server.errors import InvalidInput, PayloadTooLarge, ServerError
from server.index.checks import check_id, shown
from server.repository.bounded_archives import (
    DAMAGED,
    MAX_ZIP_ENTRIES,
    ArchiveTooLarge,
    TarEntries,
    fault_of,
    kind_of,
    open_tar,
    open_zip,
)
from server.similarity.batches import Entry, Refused

BATCH_ITEMS = 64
BATCH_BYTES = 4 << 20
PASSED_AT_ONCE = 1000  # entries that are no pictures: after so many, others have their turn
ENTRIES_BESIDE = 10_000  # folders and what is left out, beside as many as there are pictures

# What systems leave behind; nobody means to send it.
_LEFT_BEHIND = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_DAMAGED = (*DAMAGED, OSError)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Bounds on what comes out of an archive."""

    file_bytes: int
    total_bytes: int
    entries: int


class PictureArchive:
    """The pictures of an archive, a batch at a time; every method blocks.

    Attributes:
        total: How many pictures there are, where the archive tells beforehand.
        ended: Whether there is no further batch.
    """

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        """Look at the file.

        Raises:
            InvalidInput: it is neither a zip nor a tar file, or cannot be read.
            PayloadTooLarge: its list of entries is too long to be read.
        """
        file.seek(0)
        kind = kind_of(file.read(512))
        if kind is None:
            raise InvalidInput(
                "the body is neither a zip nor a tar file (plain or with gzip)",
                field="body",
                expected="a zip or tar file",
                got="something else",
            )
        file.seek(0)
        self._limits = limits
        self._left = limits.total_bytes
        self._kind = kind
        self._seen: set[str] = set()
        self.total: int | None = None
        self.ended = False
        # Entries of every kind: to read what is left out takes time as well.
        self._most = 2 * limits.entries + ENTRIES_BESIDE
        self._entries = self._zip(self._listed(file)) if kind == "zip" else self._tar(file)

    def batch(self) -> list[Entry | Refused]:
        """Return what comes next: it may be nothing before the end, where much is passed over.

        Raises:
            InvalidInput: the archive is damaged from here on.
            PayloadTooLarge: it holds more than the limits allow.
        """
        found: list[Entry | Refused] = []
        held = passed = 0
        try:
            for each in self._entries:
                if each is None:
                    passed += 1
                else:
                    found.append(each)
                held += len(each.picture or b"") if isinstance(each, Entry) else 0
                full = len(found) >= BATCH_ITEMS or held >= BATCH_BYTES
                if full or passed >= PASSED_AT_ONCE:
                    break
            else:
                self.ended = True
        except ArchiveTooLarge as error:
            raise self._too_long(error) from error
        except _DAMAGED as error:
            raise self._damaged(error) from error
        return found

    def _too_long(self, error: ArchiveTooLarge) -> PayloadTooLarge:
        advice = "send it in parts"
        if self._kind == "zip" and self._most > MAX_ZIP_ENTRIES:
            advice += f", or as a tar file: of a zip at most {MAX_ZIP_ENTRIES} entries are read"
        return PayloadTooLarge(f"the {self._kind} file is too large: {error}; {advice}")

    def _damaged(self, error: Exception) -> InvalidInput:
        after = f" after {len(self._seen)} entries" if self._seen else ""
        return InvalidInput(
            f"the {self._kind} file cannot be read{after}: {error or type(error).__name__}",
            field="body",
            expected="a whole, undamaged archive",
            got=str(error)[:200],
        )

    def _enter(self, name: str) -> str | Refused | None:
        """Return the id of an entry; None for one that nobody meant."""
        if len(self._seen) >= self._limits.entries:
            raise PayloadTooLarge(
                f"the archive has more than max_bulk_items = {self._limits.entries} entries; "
                "send it in parts",
                max_bulk_items=self._limits.entries,
            )
        try:
            id = entry_id(name)
        except InvalidInput as error:
            return Refused(name[:200], error)
        if id is None:
            return None
        if id in self._seen:
            return Refused(id, InvalidInput(f"the archive has {shown(id)} twice", field="id"))
        self._seen.add(id)
        return id

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PayloadTooLarge(
                f"the archive unpacks to more than {self._limits.total_bytes} bytes; send it in "
                "parts, or raise MILLRACE_MAX_UPLOAD_BYTES",
                max_upload_bytes=self._limits.total_bytes,
            )

    def _read(self, id: str, content: IO[bytes]) -> Entry | Refused:
        data = content.read(self._limits.file_bytes + 1)
        self._spend(len(data))
        if len(data) > self._limits.file_bytes:
            return Refused(id, self._too_large(id))
        return Entry(id, folder_of(id), data)

    def _too_large(self, id: str) -> ServerError:
        most = self._limits.file_bytes
        return PayloadTooLarge(f"{shown(id)} has more than {most} bytes", max_body_bytes=most)

    # Zip files

    def _listed(self, file: BinaryIO) -> zipfile.ZipFile:
        """Read the list of entries, if it is not too long, and count what it holds."""
        try:
            archive = open_zip(file, self._most)
        except ArchiveTooLarge as error:
            raise self._too_long(error) from error
        except _DAMAGED as error:
            raise self._damaged(error) from error
        names = (entry.filename for entry in archive.infolist() if not _is_folder(entry))
        self.total = sum(not _is_left_out(PurePosixPath(name)) for name in names)
        return archive

    def _zip(self, archive: zipfile.ZipFile) -> Iterator[Entry | Refused | None]:
        for entry in archive.infolist():
            found = None if _is_folder(entry) else self._enter(entry.filename)
            yield self._unpacked(archive, entry, found) if isinstance(found, str) else found

    def _unpacked(
        self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, id: str
    ) -> Entry | Refused:
        fault = fault_of(entry)
        if fault is not None:
            return Refused(id, InvalidInput(f"{shown(id)} {fault}", field="id"))
        try:
            with archive.open(entry) as content:
                return self._read(id, content)
        except _DAMAGED as error:  # of one entry; the others have places of their own
            reason = f"{shown(id)} cannot be unpacked: {error}"
            return Refused(id, InvalidInput(reason, field="id"))

    # Tar files

    def _tar(self, file: BinaryIO) -> Iterator[Entry | Refused | None]:
        with open_tar(file, self._most, self._limits.total_bytes) as entries:
            for entry in entries:
                self._spend(BLOCKSIZE)
                found = None if entry.isdir() else self._enter(entry.name)
                if isinstance(found, str):
                    yield self._tar_entry(entries, entry, found)
                else:
                    self._spend(entry.size if entry.isreg() else 0)
                    yield found

    def _tar_entry(self, entries: TarEntries, entry: TarInfo, id: str) -> Entry | Refused:
        content = entries.content(entry)
        if content is None:
            reason = f"{shown(id)} is a link or a device, not a file"
            return Refused(id, InvalidInput(reason, field="id"))
        if entry.size > self._limits.file_bytes:
            self._spend(entry.size)  # skipped, but read all the same
            return Refused(id, self._too_large(id))
        return self._read(id, content)


def entry_id(name: str) -> str | None:
    """Return the id of an archive's entry, or of an uploaded file; None for one to leave out.

    Raises:
        InvalidInput: no file should be called so.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(ord(c) < 0x20 for c in name):
        raise InvalidInput(
            f"the name {shown(name)} leads elsewhere, or has control characters",
            field="id",
            expected="a path inside of the archive",
            got=shown(name),
        )
    return None if not path.parts or _is_left_out(path) else check_id(str(path))


def folder_of(id: str) -> dict[str, str]:
    """Return the metadata that a path says: its folder, if it is in one."""
    folder = str(PurePosixPath(id).parent)
    return {} if folder == "." else {"folder": folder}


def _is_left_out(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in _LEFT_BEHIND for part in path.parts)


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith("/")  # `is_dir` trips over an empty name
