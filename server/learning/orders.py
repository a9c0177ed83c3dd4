"""What is asked for, what is told on the way, and what comes of it. Plain objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.learning.examples import Example


@dataclass(frozen=True)
class FromCollection:
    """Examples that a collection holds: items with a label in `labels`, or in their metadata.

    Exactly one of the two is given.
    """

    collection: str
    labels: Mapping[str, str] | None = None  # item id -> label
    label_field: str | None = None  # a path into the metadata: "kind" or "shop.kind"


@dataclass(frozen=True)
class Order:
    """One classifier to be learned.

    Attributes:
        base: The model whose features are learned from; or one that was learned itself, to which
            pictures are added.
        pictures: Labelled pictures.
        name: Of the model that is made; left out when pictures are added.
        version: Of the new model; by default the next number.
        base_version: Of the base; by default the one it serves.
        method: "logistic" or "svm"; by default as before, or logistic.
        publish: Write and load a version; else only tell how well it would do.
        keep_pictures: Keep them in the version, so that a later base can be learned on.
        skip_unreadable: Leave pictures out that cannot be read, instead of refusing all.
        ignored: Files beside the pictures that are none, for the report.
    """

    base: str
    pictures: Sequence[Example] | FromCollection = ()
    name: str | None = None
    version: str | None = None
    base_version: str | None = None
    method: str | None = None
    publish: bool = True
    keep_pictures: bool = True
    skip_unreadable: bool = False
    ignored: Sequence[str] = ()


@dataclass(frozen=True)
class Step:
    """What is being done: `done` of `total` pictures, where they are counted."""

    stage: str  # waiting, reading, embedding, fitting, publishing, loading
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Taught:
    """The end: what was learned, and where it is served."""

    model: str
    version: str | None  # None: nothing was published
    loaded: bool
    report: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)  # per stage
