"""The manifest of a version: which files it has, how long they are, and their SHA-256.

A version with a manifest is complete when every file in it is there with its length and hash.
Files that the manifest does not name are not the version's: they may be added at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from server.repository.layout import MANIFEST_FILE

FORMAT = 1
MAX_MANIFEST_BYTES = 16 << 20
MAX_DEPTH = 8


class ManifestInvalid(ValueError):
    """`manifest.json` itself cannot be read as one."""


class VersionIncomplete(ValueError):
    """The folder does not hold what its manifest says; the message names the first file."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a version."""

    sha256: str
    bytes: int | None = None  # None: a manifest written by hand may leave it out


Manifest = Mapping[str, FileEntry]  # path below the version folder, with "/" -> its entry


def version_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the visible regular files of a folder, as (path with "/", path on disk), sorted."""
    yield from _walk(folder, "", 0)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth < MAX_DEPTH:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", depth + 1)
        elif entry.is_file():
            yield prefix + entry.name, Path(entry.path)


def describe_file(path: Path) -> FileEntry:
    """Read a whole file and return its entry."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileEntry(digest.hexdigest(), file.tell())


def write_manifest(folder: Path) -> dict[str, FileEntry]:
    """Describe every visible file of a version folder in its `manifest.json`."""
    files = {
        name: describe_file(path) for name, path in version_files(folder) if name != MANIFEST_FILE
    }
    body = {
        "format": FORMAT,
        "files": {name: {"sha256": e.sha256, "bytes": e.bytes} for name, e in files.items()},
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return files


def read_manifest(folder: Path) -> dict[str, FileEntry] | None:
    """Return the manifest of a version folder, or None when it has none.

    Raises:
        ManifestInvalid: the file is not a manifest, or names files outside the folder.
    """
    path = folder / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{MANIFEST_FILE} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return _parse(json.loads(raw))
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{MANIFEST_FILE} cannot be used: {error}") from error


def _parse(body: Any) -> dict[str, FileEntry]:
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(files, dict):
        raise ManifestInvalid('expected {"format": 1, "files": {name: {"sha256", "bytes"}}}')
    if body.get("format", FORMAT) != FORMAT:
        raise ManifestInvalid(f"format {body['format']!r} is not known; this server reads {FORMAT}")
    return {_contained(name): _parse_entry(name, entry) for name, entry in files.items()}


def _parse_entry(name: str, entry: Any) -> FileEntry:
    if isinstance(entry, str):
        entry = {"sha256": entry}
    digest = entry.get("sha256") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or len(digest) != 64:
        raise ManifestInvalid(f"{name!r}: expected a sha256 of 64 hex digits, got {digest!r}")
    size = entry.get("bytes")
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ManifestInvalid(f"{name!r}: expected a length in bytes, got {size!r}")
    return FileEntry(digest.lower(), size)


def _contained(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        raise ManifestInvalid(f"{name!r} is not a path inside the version's folder")
    return name


def check_lengths(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the manifest is there and as long as it says. Cheap.

    Raises:
        VersionIncomplete: naming the first file that is not.
    """
    for name, expected in manifest.items():
        size = _size(folder / name)
        if size is None:
            raise VersionIncomplete(f"{name} is in the manifest but not in the folder")
        if expected.bytes is not None and size != expected.bytes:
            raise VersionIncomplete(
                f"{name} has {size} bytes, its manifest says {expected.bytes}; still being copied?"
            )


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Read every file of the manifest and compare its hash.

    Raises:
        VersionIncomplete: naming the first file that differs.
    """
    for name, expected in manifest.items():
        _check_hash(folder / name, name, expected)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _check_hash(path: Path, name: str, expected: FileEntry) -> None:
    try:
        digest = describe_file(path).sha256
    except OSError as error:
        raise VersionIncomplete(f"{name} cannot be read: {error.strerror}") from error
    if digest != expected.sha256:
        raise VersionIncomplete(
            f"{name} has sha256 {digest[:12]}..., its manifest says {expected.sha256[:12]}...; "
            "publish the version again"
        )
