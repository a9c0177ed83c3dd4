"""Opens model files and their external data without trusting them.

External data stays in the model's folder: every component of a location is opened relative to that
folder without following links, the file must be a regular one with a single name, and sizes are
compared with the file before anything is allocated. Knows nothing of ONNX.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InvalidModel, ResourceLimit

HASHED_AT_ONCE = 1 << 20
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # NONBLOCK: opening a FIFO must not hang


def read_model_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of the model file; the path itself is the caller's and may be a link."""
    with opened_model(path, max_bytes) as (descriptor, size):
        return read_whole(descriptor, size, path.name)


def hash_model_file(path: Path, max_bytes: int) -> str:
    """Return the sha256 of the model file without holding it in memory."""
    digest = hashlib.sha256()
    with opened_model(path, max_bytes) as (descriptor, size):
        buffer, left = memoryview(bytearray(min(size, HASHED_AT_ONCE))), size
        while left and (count := os.readv(descriptor, [buffer[:left]])) > 0:
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


@contextmanager
def opened_model(path: Path, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Give descriptor and size of a model file."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError as error:
        raise InvalidModel(f"cannot open model file {path}: {error.strerror}") from error
    try:
        size = _regular_size(descriptor, str(path))
        if size > max_bytes:
            raise ResourceLimit(
                f"model file {path.name}", f"{size} bytes", f"model_bytes={max_bytes}"
            )
        yield descriptor, size
    finally:
        os.close(descriptor)


class ExternalData:
    """The folder whose files a model's tensors may name, and a bound on all they take.

    Attributes:
        folder: None where a model has no files beside it.
        files: What was read so far: paths within the folder, with `facts_of` each and the time.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self.folder = folder
        self._left = max_bytes
        self._max_bytes = max_bytes
        self.files: dict[str, tuple[int, ...]] = {}

    def read(self, tensor: str, location: str, offset: int, length: int) -> bytearray:
        """Return `length` bytes at `offset` of the file `location`, for the tensor of that name."""
        where = f"external data of tensor {tensor!r}"
        if length > self._left:
            raise ResourceLimit(where, f"{length} more bytes", f"model_bytes={self._max_bytes}")
        if offset < 0 or length < 0:
            raise InvalidModel(f"{where}: offset {offset} and length {length} must not be negative")
        with self._opened(where, location) as descriptor:
            size = _regular_size(descriptor, where)
            if offset + length > size:
                raise InvalidModel(
                    f"{where}: bytes {offset}..{offset + length} are beyond "
                    f"the {size} bytes of {location!r}"
                )
            self._left -= length
            parts = "/".join(safe_components(where, location))
            if parts not in self.files:
                self.files[parts] = (*facts_of(os.fstat(descriptor)), time.time_ns())
            return read_range(descriptor, offset, length, where)

    @contextmanager
    def _opened(self, where: str, location: str) -> Iterator[int]:
        if self.folder is None:
            raise InvalidModel(
                f"{where}: a model given as bytes has no folder; load it from its path"
            )
        *folders, name = safe_components(where, location)
        held = [_open(self.folder, OPEN_FLAGS | os.O_DIRECTORY, None, where)]
        try:
            for part in folders:
                held.append(
                    _open(part, OPEN_FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW, held[-1], where)
                )
            held.append(_open(name, OPEN_FLAGS | os.O_NOFOLLOW, held[-1], where))
            if os.fstat(held[-1]).st_nlink > 1:
                raise InvalidModel(
                    f"{where}: {location!r} has hard links; a copy of the file is needed"
                )
            yield held[-1]
        finally:
            for descriptor in held:
                os.close(descriptor)


def facts_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells that a file is still the one it was: device, inode, size, time stamps."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def safe_components(where: str, location: str) -> list[str]:
    """Return the path components of a location that stays inside its folder."""
    parts = location.split("/")
    if parts and parts[0] == "." and len(parts) > 1:
        parts = parts[1:]  # "./weights.bin" is what some exporters write
    if "\\" in location or "\0" in location or any(part in ("", ".", "..") for part in parts):
        raise InvalidModel(
            f"{where}: location {location!r} must be a plain relative path inside the folder"
        )
    return parts


def read_range(descriptor: int, offset: int, length: int, where: str) -> bytearray:
    """Read exactly `length` bytes at `offset`; a file that shrinks is an `InvalidModel`."""
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        count = os.preadv(descriptor, [view[done : done + (1 << 30)]], offset + done)
        if count == 0:
            raise InvalidModel(f"{where}: file ended {length - done} bytes early while being read")
        done += count
    return data


def read_whole(descriptor: int, size: int, where: str) -> bytes:
    """Read a file of this size. A large model is copied once, not again to make it immutable."""
    whole = os.pread(descriptor, size, 0)  # the kernel gives at most 2 GiB at a time
    if len(whole) < size:
        whole += read_range(descriptor, len(whole), size - len(whole), where)
    return whole


def _open(path: str | Path, flags: int, folder: int | None, where: str) -> int:
    try:
        return os.open(path, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise InvalidModel(
                f"{where}: {str(path)!r} is a link; links are not followed"
            ) from error
        hint = ""
        if error.errno == errno.ENOENT:
            hint = "; it belongs beside the model file, and has to be copied together with it"
        raise InvalidModel(f"{where}: cannot open {str(path)!r}: {error.strerror}{hint}") from error


def _regular_size(descriptor: int, where: str) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidModel(f"{where}: not a regular file")
    return status.st_size
