"""Add versions from files, folders, archives and streams, and remove them.

Everything is put together in `Incoming` and becomes visible whole, or not at all.
"""

from __future__ import annotations

import asyncio
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from server.errors import InvalidInput, PayloadTooLarge
from server.repository import archive, layout
from server.repository.background import in_background
from server.repository.incoming import (
    Incoming,
    Published,
    read_only_is_conflict,
    taken_versions,
    version_exists,
)
from server.repository.layout import TRASH_PREFIX
from server.repository.manifest import version_files
from server.repository.state_file import sync_folder

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 512  # tell what kind of file it is
UPLOAD_FILE = ".upload"


# From a path


def publish_path(
    root: Path,
    model: str,
    version: str | None,
    source: Path,
    limit_bytes: int,
    *,
    beside: Sequence[str] = (),
) -> Published:
    """Publish a `.onnx` file, a version's folder, or a tar or zip of one. Blocking.

    `beside` names the files in the folder of a `.onnx` file that hold its weights.

    Raises:
        InvalidInput, Conflict, PayloadTooLarge: see `Incoming` and `archive`.
    """
    check_names(model, version)
    with Incoming(root, model) as incoming:
        check_free(incoming, version)
        if beside:
            _copy_files(source, beside, incoming.folder, limit_bytes)
        elif source.is_dir():
            _copy_folder(source, incoming.folder, limit_bytes)
        elif source.is_file():
            if source.stat().st_size > limit_bytes:
                raise _too_large(limit_bytes)
            shutil.copyfile(source, incoming.folder / UPLOAD_FILE)
            _take_in(incoming.folder, limit_bytes)
        else:
            raise InvalidInput(f"there is no file or folder {source}", field="path")
        return incoming.publish(version)


def is_archive(path: Path) -> bool:
    """Say whether a file is a tar or a zip; anything else is taken for a model."""
    with path.open("rb") as file:
        return archive.kind_of(file.read(HEAD_BYTES)) is not None


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
        raise version_exists(incoming.model, version)


def _copy_folder(source: Path, target: Path, limit_bytes: int) -> None:
    left = limit_bytes
    for name, path in version_files(source):
        found = path.lstat()
        linked = any(folder.is_symlink() for folder in _folders_between(source, path))
        if linked or not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{name} is a link; a version holds regular files only")
        left -= found.st_size
        if left < 0:
            raise _too_large(limit_bytes)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _copy_files(source: Path, beside: Sequence[str], target: Path, limit_bytes: int) -> None:
    paths = {source.name: source} | {name: source.parent / name for name in beside}
    if sum(path.stat().st_size for path in paths.values()) > limit_bytes:
        raise _too_large(limit_bytes)
    for name, path in paths.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _folders_between(source: Path, path: Path) -> list[Path]:
    return [folder for folder in path.parents if source in folder.parents]


def _take_in(folder: Path, limit_bytes: int) -> None:
    """Turn an uploaded file into the files of a version."""
    upload = folder / UPLOAD_FILE
    with upload.open("rb") as file:
        head = file.read(HEAD_BYTES)
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


# Removing


def remove(root: Path, model: str, version: str) -> None:
    """Remove a version: it vanishes at once, its files a little later."""
    trash = root / model / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"
    with read_only_is_conflict(root):
        (root / model / version).rename(trash)
        sync_folder(root / model)
        shutil.rmtree(trash, ignore_errors=True)  # a starting server may sweep it meanwhile


def check_writable(root: Path, model: str) -> None:
    """Raise `Conflict` when nothing can be changed in the model's folder."""
    probe = root / model / f"{TRASH_PREFIX}{uuid.uuid4().hex[:12]}"
    with read_only_is_conflict(root):
        probe.mkdir()
        probe.rmdir()
