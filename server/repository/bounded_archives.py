"""Zip and tar files from outside, opened so that what they claim to be costs nothing.

Python's readers believe a file. The list of a zip's entries is read and turned into objects in one
go, whatever its length; a tar's header may be of any length, be followed by any number of further
ones, or hold a map of holes without end. Here the pieces are bounded where they are read, below
the readers, so that it does not matter how one of their releases understands a file. Every door
that takes an archive opens it here.
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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, Final, Self

# A tar entry's headers: names, attributes, what extensions add. Other readers take as much.
MAX_HEADER_BYTES: Final = 1 << 20
MAX_GLOBAL_HEADERS: Final = 64  # each is copied into every entry that follows
# Each is held in memory, about 0.5 KB, as long as the zip file is open; a tar file is a stream.
MAX_ZIP_ENTRIES: Final = 250_000
LISTED_BYTES: Final = 256  # of the list, for each entry that there may be
SLACK_BYTES: Final = 64 << 10
BLOCKS_OF_ENTRY: Final = 4  # of a tar: headers and what fills the last block

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = b"\x1f\x8b"
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257
_LISTED = b"PK\x01\x02"  # begins every entry of a zip's list
# Others may ask for gigabytes of memory, and hardly anybody packs with them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

# What Python's readers raise at files that are damaged, or made to do harm.
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, struct.error, ValueError, OverflowError, IndexError),
    *(NotImplementedError, RuntimeError),  # a compression that Python does not have; encryption
)


class ArchiveInvalid(ValueError):
    """The archive is damaged, or holds something that nobody can use."""


class ArchiveTooLarge(ValueError):
    """The archive holds more than the limit."""


def kind_of(head: bytes) -> str | None:
    """Return "zip" or "tar" by the first bytes of a file; None for anything else."""
    if head.startswith(ZIP_MAGIC):
        return "zip"
    tar = head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + len(TAR_MAGIC)] == TAR_MAGIC
    return "tar" if tar or head.startswith(GZIP_MAGIC) else None


# -- zip ----------------------------------------------------------------------------------------


def open_zip(file: BinaryIO, most_entries: int) -> zipfile.ZipFile:
    """Open a zip file of at most so many entries, or `MAX_ZIP_ENTRIES`.

    The file stays the caller's, who closes it.

    Raises:
        ArchiveTooLarge: its list of entries is longer; nothing of it was parsed.
        zipfile.BadZipFile: it is damaged, as are other errors of `DAMAGED`.
    """
    listing = _Listing(file, min(most_entries, MAX_ZIP_ENTRIES))
    archive = zipfile.ZipFile(listing)
    listing.is_read = True
    return archive


def fault_of(entry: zipfile.ZipInfo) -> str | None:
    """Return why an entry of a zip file cannot be unpacked; None if it can."""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return f"is compressed by method {entry.compress_type}; stored, deflate and bzip2 are read"
    return None


class _Around(io.RawIOBase, BinaryIO):
    """A file that is read through somebody who looks at what is read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Listing(_Around):
    """A zip file of which nobody reads a list that is too long."""

    def __init__(self, file: BinaryIO, most_entries: int) -> None:
        super().__init__(file)
        self._most_entries = most_entries
        self._most_bytes = SLACK_BYTES + 2 * io.DEFAULT_BUFFER_SIZE + most_entries * LISTED_BYTES
        self.is_read = False  # from here on entries are read, which their readers bound

    def read(self, size: int = -1) -> bytes:
        if self.is_read:
            return self._file.read(size)
        if size > self._most_bytes:
            raise ArchiveTooLarge(
                f"its list of entries is {size} bytes long, and at most {self._most_bytes} are read"
            )
        data = self._file.read(self._most_bytes if size < 0 else size)
        if data.count(_LISTED) > self._most_entries:
            raise ArchiveTooLarge(f"it has more than {self._most_entries} entries")
        return data


# -- tar ----------------------------------------------------------------------------------------


@contextmanager
def open_tar(file: BinaryIO, most_entries: int, most_bytes: int) -> Iterator[TarEntries]:
    """Open a tar file, plain or with gzip, of at most so many entries.

    `most_bytes` is what the caller takes of contents. What is passed over counts as well, since a
    compressed file is unpacked for it: headers may lie about how much that is.

    Raises:
        ArchiveInvalid: what is opened, or an entry that is asked for, has headers without end.
        ArchiveTooLarge: it holds more than the limits.
        tarfile.TarError: it is damaged, as are other errors of `DAMAGED`.
    """
    compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    total = most_bytes + SLACK_BYTES + most_entries * BLOCKS_OF_ENTRY * tarfile.BLOCKSIZE
    if compressed:
        with gzip.GzipFile(fileobj=file) as plain:
            yield TarEntries(_Stream(plain, total), most_entries)
    else:
        yield TarEntries(_Stream(file, total), most_entries)


class TarEntries:
    """The entries of a tar file, one after the other."""

    def __init__(self, stream: _Stream, most_entries: int) -> None:
        """Read the first header."""
        self._stream = stream
        self._most = most_entries
        stream.begin_header()
        # Nothing is to be closed: the stream is of whoever opened the file below it.
        self._archive = tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo)  # noqa: SIM115

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Give each entry; what is not read of it before the next one is passed over."""
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._most:
                raise ArchiveTooLarge(f"it has more than {self._most} entries")
            yield entry

    def _next(self) -> tarfile.TarInfo | None:
        self._stream.begin_header()
        entry = self._archive.next()
        self._stream.end_header()
        self._archive.members = []  # type: ignore[attr-defined]  # or all of them are kept
        if len(self._archive.pax_headers) > MAX_GLOBAL_HEADERS:
            raise ArchiveInvalid(f"it has more than {MAX_GLOBAL_HEADERS} global headers")
        if entry is not None and entry.issparse():
            raise ArchiveInvalid(f"{entry.name[:200]!r} is a sparse file; pack it as a plain one")
        return entry

    def content(self, entry: tarfile.TarInfo) -> IO[bytes] | None:
        """Return what is in the entry; None if it is no regular file."""
        return self._archive.extractfile(entry) if entry.isreg() else None


class _StrictInfo(tarfile.TarInfo):
    """A header that is damaged is an error; to tarfile it is the end, unless it is the first."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(error)) from error
            raise  # the end


class _Stream(_Around):
    """A tar file of which nobody reads a huge header, or more than all of it may be."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, most_bytes: int) -> None:
        super().__init__(file)
        self._most_bytes = most_bytes
        self._header_left: int | None = None  # bytes; None: contents are read

    def begin_header(self) -> None:
        self._header_left = MAX_HEADER_BYTES

    def end_header(self) -> None:
        self._header_left = None

    def read(self, size: int = -1) -> bytes:
        if self._header_left is not None:
            if not 0 <= size <= self._header_left:
                raise ArchiveInvalid(f"an entry has headers of over {MAX_HEADER_BYTES} bytes")
            self._header_left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self._most_bytes:
            raise ArchiveTooLarge(f"it unpacks to more than {self._most_bytes} bytes")
        return super().seek(offset, whence)
