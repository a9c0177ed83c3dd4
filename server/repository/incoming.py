"""A version being put together where nobody sees it, and the one rename that shows it whole.

    <model>/.incoming-<id>/  ->  files, manifest, sync  ->  rename to <model>/<version>/

The folder is locked while its process lives; what a dead process left is swept at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server.errors import Conflict, InvalidInput
from server.repository import layout
from server.repository.layout import INCOMING_PREFIX, MANIFEST_FILE, TRASH_PREFIX
from server.repository.manifest import (
    ManifestInvalid,
    VersionIncomplete,
    check_hashes,
    check_lengths,
    read_manifest,
    version_files,
    write_manifest,
)
from server.repository.state_file import READ_ONLY_ERRNOS, sync_folder

YOUNG_S = 60.0  # a folder younger than this may not have been locked yet


@dataclass(frozen=True)
class Published:
    """A version that was added."""

    model: str
    version: str
    folder: Path
    files: tuple[str, ...]
    bytes: int


class Incoming:
    """A version being put together, invisible until `publish`."""

    def __init__(self, root: Path, model: str) -> None:
        """Name the folder; it is created on entering."""
        self._root = root
        self.model = model
        self.model_folder = root / model
        self.folder = self.model_folder / f"{INCOMING_PREFIX}{uuid.uuid4().hex[:12]}"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Create and lock the folder.

        Raises:
            Conflict: nothing can be written to the repository.
        """
        with read_only_is_conflict(self._root):
            self.folder.mkdir(parents=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not published."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.model_folder.rmdir()  # only if this was to be its first version
        if self._lock is not None:
            os.close(self._lock)

    def publish(self, version: str | None) -> Published:
        """Check, describe and sync the files, and make them visible as a version.

        Raises:
            InvalidInput: they are not a version.
            Conflict: there is such a version already.
        """
        _check_content(self.folder)
        entries = write_manifest(self.folder)
        _sync_tree(self.folder)
        name = self._move(version)
        sync_folder(self.model_folder)
        sync_folder(self._root)
        total = sum(entry.bytes or 0 for entry in entries.values())
        return Published(self.model, name, self.model_folder / name, tuple(entries), total)

    def _move(self, version: str | None) -> str:
        while True:
            taken = taken_versions(self.model_folder)
            name = version or layout.next_version(taken)
            if name in taken:
                raise version_exists(self.model, name)
            try:
                # The kernel refuses to rename over a folder that is not empty, and every version
                # has a manifest: of two publishers of one version, one fails here.
                self.folder.rename(self.model_folder / name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if version is not None:
                    raise version_exists(self.model, name) from error
                continue
            return name


def version_exists(model: str, version: str) -> Conflict:
    """Return the error of publishing what is there already."""
    return Conflict(
        f"model {model!r} already has a version {version!r}; publish under another name, or "
        "delete it first",
        model=model,
        version=version,
    )


def taken_versions(model_folder: Path) -> set[str]:
    """Return the names that a new version cannot have."""
    with os.scandir(model_folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    names = {entry.name for entry in visible} | {layout.FLAT_FOLDER}
    flat = any(layout.is_graph_file(name) for name in names)
    nested = model_folder / layout.FLAT_FOLDER
    if not flat and nested.is_dir():
        flat = any(layout.is_graph_file(entry.name) for entry in nested.iterdir())
    return names | ({layout.FLAT_VERSION} if flat else set())


def _check_content(folder: Path) -> None:
    files = [name for name, _ in version_files(folder)]
    if layout.find_model_file(files) is None:
        raise InvalidInput(
            "this is not a version: expected model.onnx or a single .onnx file (text to text: "
            "encoder_model.onnx and decoder_model*.onnx), got "
            f"{', '.join(files[:10]) or 'no files'}",
            field="body",
        )
    # A manifest that came along says what its maker meant to send.
    try:
        manifest = read_manifest(folder)
        if manifest is not None:
            check_lengths(folder, manifest)
            check_hashes(folder, manifest)
    except (ManifestInvalid, VersionIncomplete) as error:
        raise InvalidInput(
            f"the content does not match its own {MANIFEST_FILE}: {error}; copy it again, or "
            "leave the manifest out",
            field="body",
        ) from error


def sweep(root: Path) -> list[Path]:
    """Remove what publishers and removals that were killed left behind; return it."""
    swept = []
    with contextlib.suppress(OSError):
        for prefix in (INCOMING_PREFIX, TRASH_PREFIX):
            swept += [path for path in root.glob(f"*/{prefix}*") if _is_abandoned(path)]
    for path in swept:
        shutil.rmtree(path, ignore_errors=True)
    return swept


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Locking comes just after creating; a young folder without a lock may be between the two.
        empty = not any(folder.iterdir())
        return not empty or time.time() - os.fstat(descriptor).st_mtime > YOUNG_S
    except OSError:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def read_only_is_conflict(root: Path) -> Iterator[None]:
    """Turn a file system's refusal to be written to into a `Conflict`."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY_ERRNOS:
            raise
        raise Conflict(
            f"the repository {root} cannot be written to ({error.strerror}); make it writable, or "
            "publish where it is filled from"
        ) from error


def _sync_tree(folder: Path) -> None:
    for _, path in version_files(folder):
        _sync_file(path)
    for path in [p for p in folder.rglob("*") if p.is_dir()]:
        sync_folder(path)
    sync_folder(folder)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
