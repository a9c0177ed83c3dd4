"""What a model's source is, as a key: the hash of its content, remembered for files that did not
change.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.container import is_private
from engine.frontend.safety import facts_of, hash_model_file

SUFFIX: Final = ".source"
# A file changed so lately may change again without another time stamp to show for it.
SETTLED_NS: Final = 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """What tells a file's content from what it was, without reading it.

    Attributes:
        path: Where it is, links resolved.
        facts: Device, inode, size, and when content and entry were last changed.
        settled: Whether it has not been changed for a while.
    """

    path: str
    facts: tuple[int, ...]
    settled: bool

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.facts[2]

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """Return the state of a file; None when there is none."""
        try:
            resolved = path.resolve(strict=True)
            status = resolved.stat()
        except (OSError, RuntimeError):
            return None
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        return cls(str(resolved), facts_of(status), changed < time.time_ns() - SETTLED_NS)


class KnownHashes:
    """Hashes of files in a folder of notes, one per file. Never fails: unknown is None."""

    def __init__(self, folder: Path) -> None:
        """Keep notes in a folder that exists."""
        self._folder = folder

    def find(self, state: FileState) -> str | None:
        """Return the hash of a file in this state."""
        try:
            with self._path(state).open("rb") as file:
                if not is_private(os.fstat(file.fileno())):
                    return None
                note = json.load(file)
            known = note["path"] == state.path and tuple(note["facts"]) == state.facts
            return str(note["sha256"]) if known else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def add(self, state: FileState, digest: str) -> None:
        """Note the hash of a file."""
        unfinished = self._folder / f".unfinished-{os.getpid()}-{uuid.uuid4().hex}"
        note = {"path": state.path, "facts": state.facts, "sha256": digest}
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(unfinished, flags, 0o600), "w") as file:
                json.dump(note, file)
            unfinished.rename(self._path(state))
        except OSError:
            with suppress(OSError):
                unfinished.unlink()

    def _path(self, state: FileState) -> Path:
        return self._folder / (hashlib.sha256(os.fsencode(state.path)).hexdigest() + SUFFIX)


def content_hash(path: Path, max_bytes: int, known: KnownHashes) -> str:
    """Return the sha256 of a model file, without reading it if its hash is known."""
    before = FileState.of(path)
    if before is not None:
        found = known.find(before)
        if found is not None:
            return found
    digest = hash_model_file(path, max_bytes)
    after = FileState.of(path)
    if after is not None and before is not None and after.facts == before.facts and before.settled:
        known.add(after, digest)
    return digest
