"""What an administrator wants of a model, kept in `.state.json` so that it survives restarts.

It overrides `model.toml`, which the server never writes. Every change raises `generation`; changes
are made under a lock, written beside the file and renamed over it, so that a reader always sees a
whole file and two writers never lose each other's change.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import Conflict
from server.repository.layout import STATE_FILE

LOCK_FILE = ".state.lock"
MAX_STATE_BYTES = 1 << 20
READ_ONLY_ERRNOS = frozenset({errno.EPERM, errno.EACCES, errno.EROFS})


class StateInvalid(ValueError):
    """`.state.json` cannot be read; the model goes on with what `model.toml` says."""


class DesiredState(BaseModel):
    """What is wanted; every default means "as `model.toml` and the files say"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: Annotated[int, Field(ge=0)] = 0
    loaded: bool | None = None  # None: the server's `control` setting decides
    versions: tuple[str, ...] = ()  # loaded on request, beside what the policy serves
    excluded: tuple[str, ...] = ()  # unloaded on request: as if they were not there
    labels: dict[str, str | None] = Field(default_factory=dict)  # None hides one of model.toml's
    pinned: str | None = None  # the version that the default route serves; None: the newest
    previous: str | None = None  # what the default route served before


Change = Callable[[DesiredState], DesiredState]


class StateFile:
    """The state file of one model, in its own folder or under `state_dir`."""

    def __init__(self, folder: Path) -> None:
        """Use the folder, which is created with the first change."""
        self._folder = folder
        self._path = folder / STATE_FILE

    def read(self) -> DesiredState:
        """Return the state; a file that is not there yet means that nothing was asked for.

        Raises:
            StateInvalid: the file is damaged.
        """
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_STATE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return DesiredState()
        except OSError as error:
            raise StateInvalid(f"{self._path} cannot be read: {error.strerror}") from error
        if len(raw) > MAX_STATE_BYTES:
            raise StateInvalid(f"{self._path} is longer than {MAX_STATE_BYTES} bytes")
        try:
            return DesiredState.model_validate_json(raw)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the file"
            raise StateInvalid(f"{self._path}: {where}: {fault['msg']}") from error

    def change(self, change: Change, expected_generation: int | None = None) -> DesiredState:
        """Apply a change to what is on disk now, and return the result.

        Raises:
            Conflict: the generation is not the expected one, or nothing can be written here.
        """
        if expected_generation is None and self._is_so_already(change):
            return self.read()  # also where nothing can be written
        try:
            with self._locked():
                return self._change(change, expected_generation)
        except OSError as error:
            if error.errno not in READ_ONLY_ERRNOS:
                raise
            raise Conflict(
                f"the model's state cannot be written to {self._folder}: {error.strerror}; "
                "make it writable, or set MILLRACE_STATE_DIR to a folder that is"
            ) from error

    def _is_so_already(self, change: Change) -> bool:
        try:
            current = self.read()
        except StateInvalid:
            return False
        return change(current) == current

    def _change(self, change: Change, expected_generation: int | None) -> DesiredState:
        try:
            current = self.read()
        except StateInvalid:
            # Keep what is damaged for whoever wants to look, and start again.
            self._path.replace(self._path.with_name(STATE_FILE + ".damaged"))
            current = DesiredState()
        if expected_generation is not None and current.generation != expected_generation:
            raise Conflict(
                f"the state has generation {current.generation}, expected {expected_generation}: "
                "someone else changed it; read it again and retry",
                generation=current.generation,
            )
        changed = change(current)
        if changed == current:
            return current
        changed = changed.model_copy(update={"generation": current.generation + 1})
        self._write(changed.model_dump(mode="json"))
        return changed

    def _write(self, body: dict[str, Any]) -> None:
        temporary = self._path.with_name(f"{STATE_FILE}.new")  # the lock makes it ours alone
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(body, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        sync_folder(self._folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / LOCK_FILE).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when the process dies
            yield


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
