"""Notes of which other files a model's weights come from: only parsing tells, and a process that
finds a compiled model does not parse.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.container import is_private
from engine.errors import InvalidModel
from engine.frontend.safety import facts_of, safe_components

EXTERNAL: Final = ".external"
# Two changes within one tick of the clock of a file system leave one time stamp.
TICK_NS: Final = 20_000_000


def is_unchanged(folder: Path, file: tuple[str, tuple[int, ...]]) -> bool:
    """Whether a file is surely what it was when it was read; `file` is a name, facts and the time
    of reading.
    """
    name, (*facts, read_ns) = file
    try:
        now = facts_of((folder / name).lstat())
    except OSError:
        return False
    return now == tuple(facts) and max(now[-2:]) < read_ns - TICK_NS


def write_note(path: Path, names: list[str]) -> None:
    """Note names; a note that cannot be written costs a later load its time and nothing else."""
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(unfinished, flags, 0o600), "w") as file:
            json.dump(names, file)
        unfinished.rename(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()


def read_note(path: Path) -> list[str] | None:
    """Return the names of a note, or None where there is none that can be relied on."""
    try:
        with path.open("rb") as file:
            if not is_private(os.fstat(file.fileno())):
                return None
            names = json.load(file)
        for name in names:
            safe_components("a note", name)
    except (OSError, ValueError, TypeError, AttributeError, InvalidModel):
        return None
    return names if isinstance(names, list) and names else None
