"""Add and remove versions so that nobody ever sees half of one, not even after a `kill -9`.

    <model>/.incoming-<id>/  ->  files, manifest, sync  ->  rename to <model>/<version>/

The folder is locked while its process lives; what a dead process left is swept at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server.errors import Conflict, InvalidInput, PayloadTooLarge
from server.repository import archive, layout
from server.repository.background import in_background
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

CHUNK_BYTES = 1 << 20
YOUNG_S = 60.0  # a folder younger than this may not have been locked yet
UPLOAD_FILE = ".upload"


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
        with _read_only_is_conflict(self._root):
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
            name = version or layout.next_version(taken_versions(self.model_folder))
            if name in taken_versions(self.model_folder):
                raise _version_exists(self.model, name)
            try:
                # The kernel refuses to rename over a folder that is not empty, and every version
                # has a manifest: of two publishers of one version, one fails here.
                self.folder.rename(self.model_folder / name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if version is not None:
                    raise _version_exists(self.model, name) from error
                continue
            return name


def _version_exists(model: str, version: str) -> Conflict:
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
    graph = layout.find_model_file([name for name in files if "/" not in name])
    if graph is None:
        raise InvalidInput(
            "this is not a version: expected model.onnx or a single .onnx file at the top, got "
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


# From a path


def publish_path(
    root: Path, model: str, version: str | None, source: Path, limit_bytes: int
) -> Published:
    """Publish a `.onnx` file, a version's folder, or a tar or zip of one. Blocking.

    Raises:
        InvalidInput, Conflict, PayloadTooLarge: see `Incoming` and `archive`.
    """
    check_names(model, version)
    with Incoming(root, model) as incoming:
        check_free(incoming, version)
        if source.is_dir():
            _copy_folder(source, incoming.folder, limit_bytes)
        elif source.is_file():
            if source.stat().st_size > limit_bytes:
                raise _too_large(limit_bytes)
            shutil.copyfile(source, incoming.folder / UPLOAD_FILE)
            _take_in(incoming.folder, limit_bytes)
        else:
            raise InvalidInput(f"there is no file or folder {source}", field="path")
        return incoming.publish(version)


def check_names(model: str, version: str | None) -> None:
    """Raise `InvalidInput` when a model or a version cannot be called so."""
    try:
        layout.check_name(model, "model")
        if version is not None:
            layout.check_name(version, "version")
    except layout.NameInvalid as error:
        raise InvalidInput(str(error)) from error


def check_free(incoming: Incoming, version: str | None) -> None:
    """Raise `Conflict` before any work is done for a version that exists."""
    if version is not None and version in taken_versions(incoming.model_folder):
        raise _version_exists(incoming.model, version)


def _copy_folder(source: Path, target: Path, limit_bytes: int) -> None:
    left = limit_bytes
    for name, path in version_files(source):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{path} is a link; a version holds regular files only")
        left -= found.st_size
        if left < 0:
            raise _too_large(limit_bytes)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _take_in(folder: Path, limit_bytes: int) -> None:
    """Turn an uploaded file into the files of a version."""
    upload = folder / UPLOAD_FILE
    with upload.open("rb") as file:
        head = file.read(512)
    kind = archive.kind_of(head)
    if kind is None:
        upload.rename(folder / layout.MODEL_FILE)
        return
    content = folder / ".content"
    content.mkdir()
    try:
        archive.unpack(upload, kind, content, limit_bytes)
    except archive.ArchiveInvalid as error:
        raise InvalidInput(f"the {kind} file cannot be used: {error}", field="body") from error
    except archive.ArchiveTooLarge as error:
        raise PayloadTooLarge(f"the {kind} file is too large: {error}") from error
    upload.unlink()
    for entry in list(content.iterdir()):
        entry.rename(folder / entry.name)
    content.rmdir()


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the version is longer than max_upload_bytes = {limit_bytes}; raise the setting",
        limit=limit_bytes,
    )


# From a stream


async def publish_stream(
    root: Path, model: str, version: str | None, chunks: AsyncIterator[bytes], limit_bytes: int
) -> Published:
    """Publish what arrives: the bytes of a `.onnx` file, or of a tar or zip of a version's folder.

    Nothing is held in memory but a chunk.

    Raises:
        InvalidInput, Conflict, PayloadTooLarge: see `Incoming` and `archive`.
    """
    check_names(model, version)
    incoming = await in_background(Incoming(root, model).__enter__, name="publish")
    try:
        check_free(incoming, version)
        await _receive(chunks, incoming.folder / UPLOAD_FILE, limit_bytes)
        return await in_background(lambda: _finish(incoming, version, limit_bytes), name="publish")
    finally:
        await asyncio.shield(in_background(lambda: incoming.__exit__(None, None, None)))


def _finish(incoming: Incoming, version: str | None, limit_bytes: int) -> Published:
    _take_in(incoming.folder, limit_bytes)
    return incoming.publish(version)


async def _receive(chunks: AsyncIterator[bytes], path: Path, limit_bytes: int) -> None:
    received = 0
    pending = bytearray()
    with path.open("xb") as file:
        async for chunk in chunks:
            received += len(chunk)
            if received > limit_bytes:
                raise _too_large(limit_bytes)
            pending += chunk
            if len(pending) >= CHUNK_BYTES:
                full, pending = pending, bytearray()
                await asyncio.to_thread(file.write, full)
        await asyncio.to_thread(file.write, pending)


# Removing and clearing up


def remove(root: Path, model: str, version: str) -> None:
    """Remove a version: it vanishes at once, its files a little later."""
    trash = root / model / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"
    with _read_only_is_conflict(root):
        (root / model / version).rename(trash)
        sync_folder(root / model)
        shutil.rmtree(trash, ignore_errors=True)  # a starting server may sweep it meanwhile


def check_writable(root: Path, model: str) -> None:
    """Raise `Conflict` when nothing can be changed in the model's folder."""
    probe = root / model / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"
    with _read_only_is_conflict(root):
        probe.mkdir()
        probe.rmdir()


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
def _read_only_is_conflict(root: Path) -> Iterator[None]:
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
