"""Read what is in the repository's folder now. Looks at names, sizes and times; opens no model.

One unreadable or broken model never hides the others: its fault is part of its own snapshot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.model_config import ModelConfig
from server.repository import config as configuration
from server.repository import layout, manifest
from server.repository.state_file import DesiredState, StateFile, StateInvalid

logger = logging.getLogger(__name__)

# Parts of `model.toml` that say which versions are served, not how: changing them reloads nothing.
ROUTING_KEYS = frozenset({"version_policy", "version_labels", "description"})


@dataclass(frozen=True)
class VersionSnapshot:
    """One version's folder as it was found."""

    version: str
    folder: Path
    model_file: str | None
    key: str  # changes when the files or the configuration change in a way that needs a new load
    changed_s: float  # wall-clock time of the latest change to one of its files
    bytes: int
    flat: bool = False  # its files are directly in the model's folder


@dataclass(frozen=True)
class ModelSnapshot:
    """One model's folder as it was found."""

    name: str
    folder: Path
    versions: Mapping[str, VersionSnapshot] = field(default_factory=dict)  # in natural order
    body: Mapping[str, Any] = field(default_factory=dict)  # of model.toml, checked
    config: ModelConfig = field(default_factory=ModelConfig)
    desired: DesiredState = field(default_factory=DesiredState)
    error: str | None = None  # why `model.toml` or the state file cannot be used
    usable: bool = True  # False: `model.toml` is wrong, nothing new may be loaded
    desired_known: bool = True  # False: the state file cannot be used, `desired` is the default


def state_file(repository: Path, state_dir: Path | None, model: str) -> StateFile:
    """Return a model's state file, beside the model or in the folder that was set for states."""
    return StateFile((state_dir or repository) / model)


def scan_repository(repository: Path, state_dir: Path | None = None) -> dict[str, ModelSnapshot]:
    """Return every model of the repository.

    Raises:
        OSError: the repository's folder itself cannot be read.
    """
    found: dict[str, ModelSnapshot] = {}
    for folder in _folders(repository):
        if not layout.is_name(folder.name):
            logger.debug("ignored: folder %r cannot be a model's name", folder.name)
            continue
        snapshot = _scan_model(folder, state_file(repository, state_dir, folder.name))
        if snapshot is not None:
            found[folder.name] = snapshot
    return found


def _scan_model(folder: Path, state: StateFile) -> ModelSnapshot | None:
    try:
        return _read_model(folder, state)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = f"{folder.name}/ cannot be read: {error}"
        return ModelSnapshot(folder.name, folder, error=reason, usable=False)


def _read_model(folder: Path, state: StateFile) -> ModelSnapshot | None:
    top, inner = _list(folder), {path.name: _list_deep(path) for path in _folders(folder)}
    places = layout.version_folders(top, inner)
    if not places and layout.CONFIG_FILE not in top.files:
        return None
    errors: list[str] = []
    body: dict[str, Any] = {}
    usable = True
    try:
        body = configuration.read_model_config(folder)
    except configuration.ConfigInvalid as error:
        errors.append(str(error))
        usable = False
    config = configuration.parse_model_config(body)
    desired, known = DesiredState(), False
    try:
        desired, known = state.read(), True
    except StateInvalid as error:
        errors.append(str(error))
    how = {key: value for key, value in body.items() if key not in ROUTING_KEYS}
    common = [json.dumps(how, sort_keys=True, default=str)]
    versions = {v: _scan_version(v, folder, parts, config, common) for v, parts in places.items()}
    return ModelSnapshot(
        folder.name,
        folder,
        versions,
        body,
        config,
        desired,
        error="; ".join(errors) or None,
        usable=usable,
        desired_known=known,
    )


def _scan_version(
    version: str, model: Path, parts: tuple[str, ...], config: ModelConfig, common: list[str]
) -> VersionSnapshot:
    folder = model.joinpath(*parts)
    files = dict(_files_of(folder, flat=not parts))
    # Labels and processor settings may lie beside `model.toml` for all versions.
    shared = (*configuration.SHARED_FILES, config.class_labels or "")
    beside = {name: model / name for name in shared if name}
    seen = [str(folder), *common]
    changed_s, total = 0.0, 0
    for name, path in [*files.items(), *(("../" + n, p) for n, p in beside.items() if parts)]:
        try:
            stat = path.stat()
        except OSError:
            continue
        seen.append(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
        # Copies keep the time of their source as mtime; ctime is when the bytes came here.
        changed_s = max(changed_s, stat.st_mtime, stat.st_ctime)
        total += stat.st_size if name in files else 0
    key = hashlib.sha256("\n".join(seen).encode("utf-8", "surrogateescape")).hexdigest()
    graph = layout.find_model_file(list(files))
    return VersionSnapshot(version, folder, graph, key, changed_s, total, flat=not parts)


def rescan_version(seen: VersionSnapshot, model: ModelSnapshot) -> VersionSnapshot | None:
    """Look at one version again; None when it is gone."""
    fresh = _scan_model(model.folder, StateFile(model.folder))
    return fresh.versions.get(seen.version) if fresh is not None else None


def _files_of(folder: Path, *, flat: bool) -> Iterator[tuple[str, Path]]:
    """Yield the files that make up a version: not notes, and not the other versions' folders."""
    listed = _flat_files(folder) if flat else manifest.version_files(folder)
    for name, path in listed:
        # The model's own configuration is read apart; a version's is one of its files.
        if not (flat and name == layout.CONFIG_FILE) and not name.lower().endswith(".md"):
            yield name, path


def _flat_files(folder: Path) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if not entry.name.startswith(".") and entry.is_file():
            yield entry.name, Path(entry.path)
    samples = folder / layout.SAMPLES_FOLDER
    if samples.is_dir():
        for name, path in manifest.version_files(samples):
            yield f"{layout.SAMPLES_FOLDER}/{name}", path


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    return [folder / name for name in layout.natural_sorted(names)]


def _list_deep(folder: Path) -> layout.Listing:
    """List a folder, and what its `onnx/` holds as `onnx/<name>`."""
    listing = _list(folder)
    if layout.FLAT_FOLDER not in listing.folders:
        return listing
    nested = _list(folder / layout.FLAT_FOLDER).files
    inner = {f"{layout.FLAT_FOLDER}/{name}" for name in nested}
    return layout.Listing(listing.files | inner, listing.folders)


def _list(folder: Path) -> layout.Listing:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return layout.Listing(
        frozenset(entry.name for entry in visible if entry.is_file()),
        frozenset(entry.name for entry in visible if entry.is_dir()),
    )
