"""A folder of artifacts that several processes share: bounded, checked on every read, renamed into
place.

Artifacts hold machine code, so the folder must be this user's alone: in one that others may write
to, nothing is looked for and nothing is kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from engine.artifact import COMPILER_VERSION
from engine.artifact_source import SUFFIX as NOTE
from engine.artifact_source import FileState, KnownHashes, content_hash
from engine.compiler import Source
from engine.container import is_private
from engine.errors import InvalidModel
from engine.external_files import EXTERNAL, is_unchanged, read_note, write_note
from engine.limits import GIB, Limits

CACHE_BYTES: Final = 4 * GIB
MOST_NOTES: Final = 4096
FOLDER: Final = "models"
SUFFIX: Final = ".artifact"
UNFINISHED: Final = ".unfinished-"
UNFINISHED_S: Final = 3600.0  # older ones belong to a process that died

MISSING: Final = FileState("", (0, 0, 0, 0, 0), settled=False)  # is no file's state

T = TypeVar("T")


class Key:
    """What an artifact is called.

    To read all of a large source takes a while: where no artifact can have its name anyway, that is
    done beside compiling.

    Attributes:
        file: The state of the source when it was looked at; None where it is no file.
    """

    def __init__(self, name: str | Future[str], file: FileState | None = None) -> None:
        """Take a name, or one that is being made."""
        self._name, self.file = name, file

    @property
    def name(self) -> str:
        """Covers source, request, device and the versions that take part."""
        return self._name if isinstance(self._name, str) else self._name.result()

    @property
    def is_new(self) -> bool:
        """Whether nothing can have this name yet: the name itself is still being made."""
        return isinstance(self._name, Future)

    def still_holds(self, again: Callable[[], Key]) -> bool:
        """Whether the source is still what it was; `again` makes the key anew where time stamps
        cannot tell.
        """
        if self.file is None:
            return True
        now = FileState.of(Path(self.file.path))
        if now is None or now.facts != self.file.facts:
            return False
        return self.file.settled or again().name == self.name


class ArtifactCache:
    """Artifacts by key; the longest unused go when the folder holds more than `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int = CACHE_BYTES) -> None:
        """Use a folder inside of `folder`, made if need be."""
        self._folder = folder / FOLDER
        self._max_bytes = max_bytes
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._usable = is_private(self._folder.stat())
        self._hashes = KnownHashes(self._folder)

    def key(
        self, source: Source, request: Mapping[str, Any], limits: Limits, device: str = ""
    ) -> Key:
        """Return the key of what compiling gives; `device` is its fingerprint where that matters.

        Raises:
            InvalidModel: The source cannot be read.
            ResourceLimit: It is larger than `limits.model_bytes`.
        """
        facts = [request, _versions(), device]
        if isinstance(source, (bytes, bytearray, memoryview)):
            return Key(_name(len(source), hashlib.sha256(source).hexdigest(), facts))
        path, state = Path(source), FileState.of(Path(source)) or MISSING

        def name() -> str:
            content = content_hash(path, limits.model_bytes, self._hashes)
            return _name(state.size, content, facts)

        if self._may_hold(state.size):
            return Key(name(), state)
        beside = ThreadPoolExecutor(1)  # to know the name is soon enough when compiling is done
        made = beside.submit(name)
        beside.shutdown(wait=False)
        return Key(made, state)

    def _may_hold(self, size: int) -> bool:
        """Whether there is an artifact of any source of this size."""
        return any(path.name.startswith(f"{size:x}-") for path in list(self._folder.iterdir()))

    def beside(self, key: Key, folder: Path, limits: Limits) -> Key | None:
        """Return the key that also covers the other files that a model's weights come from, as they
        are now; None where an earlier load has not noted any.

        Raises:
            InvalidModel: One of them cannot be read.
            ResourceLimit: One is larger than `limits.model_bytes`.
        """
        if not self._usable or key.is_new:
            return None
        names = read_note(self._folder / (key.name + EXTERNAL))
        return None if names is None else self._joined(key, folder, names, limits)

    def note_beside(
        self, key: Key, folder: Path, files: Mapping[str, tuple[int, ...]], limits: Limits
    ) -> Key | None:
        """Note which other files a model has; return the key that covers their content.

        None when one of them may have changed since it was read.
        """
        if not self._usable or not all(map(partial(is_unchanged, folder), files.items())):
            return None
        joined = self._joined(key, folder, list(files), limits)
        if not all(map(partial(is_unchanged, folder), files.items())):
            return None
        write_note(self._folder / (key.name + EXTERNAL), list(files))
        return joined

    def _joined(self, key: Key, folder: Path, names: Sequence[str], limits: Limits) -> Key:
        hashes = [
            [name, content_hash(folder / name, limits.model_bytes, self._hashes)] for name in names
        ]
        size, _, _ = key.name.partition("-")
        return Key(_name(int(size, 16), key.name, hashes), key.file)

    def find(self, key: Key, read: Callable[[Path], T]) -> T | None:
        """Return what `read` makes of the artifact of a key; one that it refuses is removed."""
        if not self._usable or key.is_new:
            return None
        path = self._path(key)
        if not _is_own_file(path):
            return None
        try:
            found = read(path)
        except InvalidModel:
            path.unlink(missing_ok=True)
            return None
        # Used just now. Where another process made room, ours is mapped already.
        with suppress(OSError):
            os.utime(path)
        return found

    @contextmanager
    def new_file(self) -> Iterator[Path]:
        """Give a path for a new artifact; what is there at the end and was not kept is removed."""
        if not self._usable:
            with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
                yield Path(folder) / "artifact"
            return
        path = self._folder / f"{UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, key: Key) -> None:
        """Make a finished artifact visible under its key, then make room."""
        if self._usable:
            path.rename(self._path(key))
            self._make_room()

    def _path(self, key: Key) -> Path:
        return self._folder / (key.name + SUFFIX)

    def _make_room(self) -> None:
        files: dict[str, list[tuple[float, int, Path]]] = {SUFFIX: [], NOTE: [], EXTERNAL: []}
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.name.startswith(UNFINISHED):
                    if status.st_mtime < time.time() - UNFINISHED_S:
                        path.unlink()
                elif path.suffix in files:
                    files[path.suffix].append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files[SUFFIX])
        for _, size, path in sorted(files[SUFFIX])[:-1]:  # never the newest
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        for kind in (NOTE, EXTERNAL):
            for _, _, path in sorted(files[kind])[:-MOST_NOTES]:
                path.unlink(missing_ok=True)


@cache
def _versions() -> list[str]:
    """Return versions of what takes part in compiling, without importing any of it.

    The name of a package's metadata holds its version; reading the metadata would take longer than
    all the rest of a key.
    """
    onnx = importlib.util.find_spec("onnx")
    beside = Path(onnx.origin).parent.parent if onnx and onnx.origin else None
    names = [path.name for path in beside.iterdir()] if beside and beside.is_dir() else []
    return [str(COMPILER_VERSION), np.__version__, *(n for n in names if n.startswith("onnx-"))]


def _name(size: int, content: str, facts: Sequence[Any]) -> str:
    """Return the name of what a source of this size and content compiles to."""
    text = json.dumps([content, *facts], sort_keys=True)
    return f"{size:x}-{hashlib.sha256(text.encode()).hexdigest()}"


def _is_own_file(path: Path) -> bool:
    """Whether there is a file that only this user can have written; links are not followed."""
    try:
        return is_private(path.lstat()) and path.is_file() and not path.is_symlink()
    except OSError:
        return False
