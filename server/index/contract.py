"""What a store of collections does, whatever it keeps them in.

A collection holds items: an id, metadata, and (if it is to survive a change of its model) the
picture itself. A *space* holds one vector per item, made by one version of one model; vectors of
two spaces are never compared. A collection can have several spaces at one time: while a new
version of its model is being brought up, the new space fills beside the one that answers.

All calls block and may come from any thread at any time. A call that has returned is durable: a
process that is killed right after it loses nothing, and one that is killed during it leaves all
of the call's items or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from server.index.filters import Filter

Metric = Literal["cosine", "dot", "l2"]
Vector = NDArray[np.float32]  # (dim,)
Vectors = NDArray[np.float32]  # (n, dim)
Metadata = Mapping[str, Any]  # a JSON object


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What a collection is made with, for good."""

    name: str
    metric: Metric = "cosine"
    model: str | None = None  # None: its vectors come ready-made
    dim: int | None = None  # of ready-made vectors; a model's space says its own


@dataclass(frozen=True, slots=True)
class NewItem:
    """One item to be put in; it replaces the one of the same id, if there is one."""

    id: str
    metadata: Metadata = field(default_factory=dict)
    picture: bytes | None = None  # the file as it came; None: only a vector, or not to be kept
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as it stands in the store, without its bytes."""

    id: str
    metadata: Metadata
    revision: int  # grows each time it is put in; its metadata alone may change without
    has_picture: bool
    has_thumbnail: bool
    updated_s: float  # Unix time


@dataclass(frozen=True, slots=True)
class Missing:
    """An item that has no vector in a space yet, or one of an older revision."""

    id: str
    revision: int
    has_picture: bool


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What became of the items of one `put`."""

    added: int
    replaced: int


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, the same for every vector of a search."""

    k: int = 10
    filter: Filter | None = None
    min_score: float | None = None
    offset: int = 0
    exact: bool = False
    exclude: frozenset[str] = frozenset()  # ids that are not to be answered with


class Hit(NamedTuple):
    """One answer. A larger score is always nearer: cosine, dot product, or minus the distance."""

    id: str
    score: float


class Hits(Sequence[Hit]):
    """What was found for one query, nearest first.

    Ids and scores lie side by side, and a `Hit` is made of them when it is looked at: a batch
    has thousands.
    """

    __slots__ = ("ids", "scores")

    def __init__(self, ids: list[str], scores: list[float]) -> None:
        """Take ids (n,) and their scores (n,)."""
        self.ids, self.scores = ids, scores

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> Hits: ...
    def __getitem__(self, at: int | slice) -> Hit | Hits:
        if isinstance(at, slice):
            return Hits(self.ids[at], self.scores[at])
        return Hit(self.ids[at], self.scores[at])

    def __iter__(self) -> Iterator[Hit]:
        return map(Hit, self.ids, self.scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # as of a list: its parts may change

    def __repr__(self) -> str:
        return f"Hits({list(self)})"


@dataclass(frozen=True, slots=True)
class IndexState:
    """How a space is searched now, and why."""

    kind: Literal["exact", "approximate"]
    reason: str  # a sentence for people
    vectors: int
    missing: int  # items that have no vector here yet
    bytes: int  # memory and files of this space
    building: float | None = None  # share done of an index that is being built beside
    recall: float | None = None  # recall@10 against exact search, as last measured
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Size:
    """How much a collection holds."""

    items: int
    pictures: int
    bytes: int


class Space(Protocol):
    """The vectors of a collection that one model version made."""

    @property
    def key(self) -> str:
        """Name the space; see `Collection.space`."""

    @property
    def dim(self) -> int:
        """Return the length of its vectors."""

    def search(self, queries: Vectors, query: Query) -> list[Hits]:
        """Return the nearest items of each row of `queries` (m, dim), nearest first.

        A row has min(k, matches) hits always; `offset`, `min_score` and `exclude` take their part
        of the matches first. Equal scores come in an order of the store's own.

        Raises:
            InvalidInput: the rows have another length, or are not finite.
        """

    def missing(self, limit: int) -> list[Missing]:
        """Return items whose vector is still to be made, oldest first."""

    def fill(self, made_of: Sequence[Missing], vectors: Vectors) -> int:
        """Store vectors of `missing` items; those that changed meanwhile are left out.

        Returns how many were stored.
        """

    def vectors(self, ids: Sequence[str]) -> list[Vector | None]:
        """Return the vectors (dim,) of items, as they were given; None where there is none."""

    def sample(self, count: int, seed: int = 0) -> tuple[list[str], Vectors]:
        """Return at most `count` items and their vectors, the same for the same seed."""

    def state(self) -> IndexState:
        """Tell how it is searched."""

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        """Compare an automatic search with an exact one; the result is in `state()` from then."""


class Collection(Protocol):
    """Items, and their vectors in one or more spaces."""

    @property
    def spec(self) -> CollectionSpec:
        """Return what it was made with."""

    def put(
        self,
        items: Sequence[NewItem],
        vectors: Mapping[str, Vectors] | None = None,
    ) -> PutOutcome:
        """Add or replace items, all of them or none.

        `vectors` holds, by space, one row per item. In spaces that are not named the items are
        missing from then on, and an older vector of theirs is not answered with any more. Of an
        id that comes twice the last one counts.
        """

    def update_metadata(self, id: str, metadata: Metadata) -> bool:
        """Replace an item's metadata; its vectors stay. False if it is not there."""

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items and their vectors; returns how many there were."""

    def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """Return items by id, in the order asked for."""

    def page(
        self, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[StoredItem]:
        """Return items in the order of their ids, beginning after `after`."""

    def pictures(self, ids: Sequence[str], most_bytes: int | None = None) -> list[bytes | None]:
        """Return the stored pictures; longer ones than `most_bytes` are left out, unread."""

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored thumbnails."""

    def size(self) -> Size:
        """Count."""

    def space(self, key: str, dim: int) -> Space:
        """Return the space of that key, an empty one if it is new.

        Raises:
            InvalidInput: it exists with vectors of another length.
        """

    def spaces(self) -> list[str]:
        """Return the keys of all spaces, oldest first."""

    def drop_space(self, key: str) -> None:
        """Forget a space and its vectors; one that is not there is no error."""

    def fact(self, name: str) -> str | None:
        """Read a small text kept with the collection."""

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a small text with the collection."""

    def busy(self, name: str, wait_s: float) -> AbstractContextManager[bool]:
        """Enter as the only one of all processes; False when another is inside for `wait_s`."""


class Store(Protocol):
    """All collections of one folder or database."""

    def create(self, spec: CollectionSpec) -> Collection:
        """Make a collection.

        Raises:
            Conflict: there is one of that name.
        """

    def open(self, name: str) -> Collection:
        """Return a collection; the same object each time.

        Raises:
            NotFound: there is none; the message lists some that there are.
        """

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""

    def drop(self, name: str) -> None:
        """Remove a collection with all it holds."""

    def snapshot(self, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Give a collection as it is at this moment as the bytes of one archive."""

    def restore(self, name: str, archive: Path) -> Collection:
        """Make a collection from an archive of any store.

        Raises:
            Conflict: there is one of that name.
            InvalidInput: it is not an archive, or a damaged one; nothing is made.
        """

    def close(self) -> None:
        """Write what is pending, and let go of files and connections."""
