"""Which space a request is answered from: keys, pins, and what a collection remembers of them.

A key is `model@version:hash`. The hash is of what the vectors depend on: the version's files by
their content, how pictures are prepared, and which value of the graph is taken. So all replicas
and all copies of a version share a space, and two that differ never do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from server.index.contract import Collection
from server.repository import layout
from server.repository.deployment import Deployment
from server.repository.manifest import describe_file, version_files

PINNED = "pinned"  # names of facts
HISTORY = "history"
KEPT_VERSIONS = 2  # whose spaces stay, so that a rollback finds them
MAX_HISTORY = 16
_HASH_DIGITS = 12
# Beside the graph and its weights a version has notes, labels and samples, which change no vector.
_NO_GRAPH = frozenset({".md", ".txt", ".json", ".toml", ".png", ".jpg", ".jpeg", ".webp"})


class SpaceName(NamedTuple):
    """The space that a deployment's vectors live in."""

    key: str
    dim: int


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What a key says."""

    model: str
    version: str
    digest: str


def space_key(deployment: Deployment, output: str) -> str:
    """Return the key of the space of a deployment's value `output`.

    The first call for a deployment reads its files.
    """
    config = deployment.config
    parts = [
        _content(deployment),
        output,
        config.preprocess.model_dump_json() if config.preprocess else "",
        config.embedding.model_dump_json() if config.embedding else "",
        config.precision,
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH_DIGITS]
    return f"{deployment.model}@{deployment.version}:{digest}"


def made_by(key: str) -> MadeBy | None:
    """Read a key; None if it is not one of a model's."""
    # Neither names nor digests have a ":" in them; a model's name may have an "@".
    whole, colon, digest = key.rpartition(":")
    model, at, version = whole.rpartition("@")
    return MadeBy(model, version, digest) if colon and at and model and version else None


_contents: WeakKeyDictionary[Deployment, str] = WeakKeyDictionary()


def _content(deployment: Deployment) -> str:
    found = _contents.get(deployment)
    if found is None:
        found = _contents[deployment] = _digest(deployment)
    return found


def _digest(deployment: Deployment) -> str:
    listed = [f"{name} {describe_file(path).sha256}" for name, path in _graph_files(deployment)]
    # What was loaded may be gone from the disk by now; its key tells it from all others still.
    return hashlib.sha256("\n".join(listed or [deployment.key]).encode()).hexdigest()


def _graph_files(deployment: Deployment) -> Iterator[tuple[str, Path]]:
    folder = deployment.folder
    if not folder.is_dir():
        return
    for name, path in version_files(folder):
        parts = name.split("/")
        # A model without version folders has its files beside those of others' versions.
        foreign = folder.name != deployment.version and len(parts) > 1
        if foreign and parts[0] != layout.FLAT_FOLDER:
            continue
        if parts[0] != layout.SAMPLES_FOLDER and path.suffix.lower() not in _NO_GRAPH:
            yield name, path


# What a collection remembers


def pin_of(collection: Collection) -> SpaceName | None:
    """Return the one space that a collection is bound to, if it cannot move."""
    return _read_name(collection.fact(PINNED))


def set_pin(collection: Collection, name: SpaceName | None) -> None:
    """Bind a collection to a space, or let it go."""
    collection.set_fact(PINNED, None if name is None else json.dumps([name.key, name.dim]))


def history_of(collection: Collection) -> list[SpaceName]:
    """Return the spaces that were made complete, the latest one first."""
    try:
        listed = json.loads(collection.fact(HISTORY) or "[]")
    except ValueError:
        return []
    names = (_as_name(each) for each in listed) if isinstance(listed, list) else ()
    return [name for name in names if name is not None]


def remember(collection: Collection, name: SpaceName) -> list[SpaceName]:
    """Put a space in front of the history, and return that."""
    before = history_of(collection)
    if before and before[0] == name:
        return before
    after = [name, *(each for each in before if each.key != name.key)][:MAX_HISTORY]
    collection.set_fact(HISTORY, json.dumps([[each.key, each.dim] for each in after]))
    return after


def superseded(
    spaces: Sequence[str], history: Sequence[SpaceName], in_use: Iterable[str]
) -> list[str]:
    """Return the spaces of models that nothing needs: pure.

    The newest space of each of the last `KEPT_VERSIONS` versions stays, and so do those in use. One
    that was never complete goes once a later one is: before that, another process may be at it.

    Args:
        spaces: all that there are, oldest first.
        history: those that were complete, the latest one first.
        in_use: keys of this process's versions.
    """
    keep, versions = set(in_use), list[tuple[str, str]]()
    for name in history:
        maker = made_by(name.key)
        if maker is None or (maker.model, maker.version) in versions:
            continue
        if len(versions) == KEPT_VERSIONS:
            break
        versions.append((maker.model, maker.version))
        keep.add(name.key)
    known = {name.key for name in history}
    latest = spaces.index(history[0].key) if history and history[0].key in spaces else 0
    return [
        key
        for place, key in enumerate(spaces)
        if key not in keep and made_by(key) is not None and (key in known or place < latest)
    ]


def _read_name(text: str | None) -> SpaceName | None:
    try:
        return _as_name(json.loads(text)) if text else None
    except ValueError:
        return None


def _as_name(value: object) -> SpaceName | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    key, dim = value
    return SpaceName(key, dim) if isinstance(key, str) and isinstance(dim, int) else None
