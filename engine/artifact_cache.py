"""A folder of artifacts that several processes share: bounded, checked on every read, renamed into
place.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifact import COMPILER_VERSION, Artifact, map_artifact
from engine.compiler import Source
from engine.errors import InvalidModel
from engine.frontend.safety import read_model_file
from engine.limits import GIB, Limits

CACHE_BYTES = 4 * GIB
SUFFIX = ".artifact"
UNFINISHED = ".unfinished-"
UNFINISHED_S = 3600.0  # older ones belong to a process that died


def cache_key(source: Source, request: Mapping[str, Any], limits: Limits) -> str:
    """Return a name for what compiling gives: it covers source, request and the versions that take
    part.
    """
    if not isinstance(source, (bytes, bytearray, memoryview)):
        source = read_model_file(Path(source), limits.model_bytes)
    versions = [COMPILER_VERSION, np.__version__, metadata.version("onnx")]
    digest = hashlib.sha256(json.dumps([request, versions], sort_keys=True).encode())
    digest.update(source)
    return digest.hexdigest()


class ArtifactCache:
    """Artifacts by key; the longest unused go when the folder holds more than `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int = CACHE_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(self, key: str) -> Artifact | None:
        """Return the artifact of a key; a damaged one is removed and not returned."""
        path = self._folder / (key + SUFFIX)
        if not path.exists():
            return None
        try:
            artifact = map_artifact(path)
        except InvalidModel:
            path.unlink(missing_ok=True)
            return None
        # Used just now. Where another process made room, or owns the file, ours is mapped already.
        with suppress(OSError):
            os.utime(path)
        return artifact

    @contextmanager
    def new_file(self) -> Iterator[Path]:
        """Give a path for a new artifact; what is there at the end and was not kept is removed."""
        path = self._folder / f"{UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, key: str) -> None:
        """Make a finished artifact visible under its key, then make room."""
        path.rename(self._folder / (key + SUFFIX))
        self._make_room()

    def _make_room(self) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.name.startswith(UNFINISHED):
                    if status.st_mtime < time.time() - UNFINISHED_S:
                        path.unlink()
                elif path.suffix == SUFFIX:
                    files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda f: f[0])[:-1]:  # never the newest
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
