"""Object files in a folder that several processes share: bounded, checked on every read, renamed
into place.

What is read is run, so the folder must be this user's alone: files that others could have written
are not looked at.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.container import is_private

MAX_BYTES: Final = 512 << 20
SUFFIX: Final = ".kernel"
UNFINISHED: Final = ".unfinished-"
UNFINISHED_S: Final = 3600.0  # older ones belong to a process that died
FRESH_S: Final = 600.0  # a file used so lately need not be marked as used again
_MAGIC: Final = b"MRKERNEL"
_DIGEST_BYTES: Final = 32


def default_folder() -> Path | None:
    """Return where kernels are kept: in $MILLRACE_CACHE_DIR or the user's cache; None: nowhere."""
    named = os.environ.get("MILLRACE_CACHE_DIR")
    if named:
        return Path(named) / "kernels"
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "millrace" / "kernels"
    except RuntimeError:  # a user without a home
        return None


class CodeFiles:
    """Object files by key; the longest unused go when they take more than `max_bytes`.

    Never fails: what cannot be read or written is as if it were not there.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        """Use a folder, made if need be; one that others may write to is not used."""
        self._folder, self._max_bytes = folder, max_bytes
        self._usable = False
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._usable = is_private(folder.stat())

    def read(self, key: str) -> bytes | None:
        """Return the object file of a key; a damaged one is removed and not returned."""
        if not self._usable:
            return None
        path = self._folder / (key + SUFFIX)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and is_private(status)):
                return None
            try:
                content = file.read()
            except OSError:
                return None
        code = _unwrapped(content, key)
        with suppress(OSError):
            if code is None:
                path.unlink()
            elif time.time() - status.st_mtime > FRESH_S:
                os.utime(path)
        return code

    def write(self, key: str, code: bytes) -> None:
        """Keep an object file under a key."""
        if not self._usable:
            return
        unfinished = self._folder / f"{UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
                file.write(_MAGIC + _digest(code, key) + code)
            unfinished.rename(self._folder / (key + SUFFIX))
        except OSError:  # a full disk, a folder gone: it will be compiled again
            with suppress(OSError):
                unfinished.unlink()

    def make_room(self) -> None:
        """Remove the longest unused files until the rest fits; never the newest."""
        with suppress(OSError):
            files = sorted(self._finished_files())
            total = sum(size for _, size, _ in files)
            for _, size, path in files[:-1]:
                if total <= self._max_bytes:
                    break
                with suppress(OSError):
                    path.unlink()
                total -= size

    def _finished_files(self) -> list[tuple[float, int, Path]]:
        files = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.lstat()
                if path.name.startswith(UNFINISHED):
                    if status.st_mtime < time.time() - UNFINISHED_S:
                        path.unlink()
                elif path.suffix == SUFFIX:
                    files.append((status.st_mtime, status.st_size, path))
        return files


def _digest(code: bytes, key: str) -> bytes:
    """Cover the key, too: a file under another's name is not what was asked for."""
    return hashlib.sha256(key.encode() + b"\0" + code).digest()


def _unwrapped(content: bytes, key: str) -> bytes | None:
    begin = len(_MAGIC) + _DIGEST_BYTES
    code = content[begin:]
    return code if content[:begin] == _MAGIC + _digest(code, key) else None
