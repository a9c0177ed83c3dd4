"""What the repository tells about itself: plain data for status routes, metrics and people."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a version is in its life."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"  # takes no new requests, finishes those it has
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"  # tried again when its files change, or on request


@dataclass(frozen=True)
class VersionStatus:
    """One version, loaded or not."""

    version: str
    state: State
    reason: str | None  # why it is not served, or why newer files of it are not
    since: float  # wall-clock time of the last change of state
    default: bool = False  # requests without a version get it
    labels: tuple[str, ...] = ()
    progress: str | None = None  # the stage of a running load
    bytes: int = 0  # on disk
    leases: int = 0  # requests in flight
    metadata: dict[str, Any] = field(default_factory=dict)  # of the loaded model


@dataclass(frozen=True)
class ModelStatus:
    """One model with all its versions, oldest first."""

    name: str
    versions: tuple[VersionStatus, ...]
    default: str | None  # version that the default route serves now
    previous: str | None  # version that a rollback would go to
    pinned: str | None  # version that was promoted, if it is not simply the newest
    labels: dict[str, str]
    task: str | None
    description: str
    version_policy: Any
    generation: int  # of the desired state
    error: str | None  # a fault of `model.toml` or `.state.json`


@dataclass(frozen=True)
class IndexEntry:
    """One line of the repository's index."""

    name: str
    version: str
    state: State
    reason: str | None
