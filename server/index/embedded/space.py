"""A space of a collection: searches, and vectors in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.errors import NotFound
from server.index.contract import Hits, IndexState, Missing, Query, Vector, Vectors
from server.index.embedded.held import HeldSpace
from server.index.embedded.table import Names, Slots
from server.index.search import Selection

if TYPE_CHECKING:
    from server.index.embedded.collection import EmbeddedCollection

T = TypeVar("T")

TRIES = 2  # of a search beside writers, before it makes them wait
Scores = NDArray[np.float32]

MOST_SKIPPED = 64  # excluded items that a search skips; more of them are left out of it


class EmbeddedSpace:
    """The vectors of a collection that one model version made."""

    def __init__(self, collection: EmbeddedCollection, held: HeldSpace) -> None:
        self._collection = collection
        self._key, self._dim = held.row.key, held.row.dim
        self._held: HeldSpace | None = held

    @property
    def key(self) -> str:
        """Return the key it was made with."""
        return self._key

    @property
    def dim(self) -> int:
        """Return the length of its vectors."""
        return self._dim

    def hold(self, held: HeldSpace | None) -> None:
        """Go on with other files, or with none when it is dropped; searches under way go on."""
        self._held = held

    def held(self) -> HeldSpace:
        """Return the files that count now.

        Raises:
            NotFound: the space was dropped, or the collection closed.
        """
        held = self._held
        if held is None:
            raise NotFound(
                f"the space {self._key!r} of collection {self._collection.spec.name!r} has been "
                "closed or dropped"
            )
        return held

    def search(self, queries: Vectors, query: Query) -> list[Hits]:
        """Return the nearest items; see `Space.search`."""
        return self._steady(lambda held: _search(held, queries, query), query.filter is not None)

    def _steady(self, read: Callable[[HeldSpace], T], asks_sqlite: bool = False) -> T:
        """Return what is read while no item is being replaced, and no file is exchanged."""
        for _ in range(TRIES):
            held = self.held()
            turn = held.table.turn
            before = turn.committing if asks_sqlite else turn.updating
            if not before & 1:
                found = read(held)
                after = turn.committing if asks_sqlite else turn.updating
                if before == after and self._held in (held, None):
                    return found
        return self._alone(read)

    def _alone(self, read: Callable[[HeldSpace], T]) -> T:
        while True:
            held = self.held()
            with held.table.turn.lock:
                found = read(held)
                if self._held in (held, None):
                    return found

    def missing(self, limit: int) -> list[Missing]:
        """Return items whose vector is still to be made, oldest first."""
        return self._collection.missing(self.held, limit)

    def fill(self, made_of: Sequence[Missing], vectors: Vectors) -> int:
        """Store vectors of items that are still what they were made of; returns how many."""
        return self._collection.fill(self.held, made_of, vectors)

    def vectors(self, ids: Sequence[str]) -> list[Vector | None]:
        """Return the vectors of items as they were given; None where there is none."""
        return self._steady(lambda held: _vectors(held, ids))

    def sample(self, count: int, seed: int = 0) -> tuple[list[str], Vectors]:
        """Return at most `count` items and their vectors, the same for the same seed."""
        return self._steady(lambda held: _sample(held, count, seed))

    def state(self) -> IndexState:
        """Tell how it is searched."""
        held = self.held()
        missing = self._steady(lambda held: len(held.empty_slots()))
        state = held.index.state()
        return replace(state, missing=missing, bytes=state.bytes + held.file.bytes)

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        """Compare an automatic search with an exact one."""
        return self.held().index.measure_recall(queries, k)

    def settle(self, timeout_s: float) -> bool:
        """Wait for the index to be as good as it gets; False if it takes longer."""
        return self.held().index.settle(timeout_s)


def _search(held: HeldSpace, queries: Vectors, query: Query) -> list[Hits]:
    """Search once. Nothing is asked of SQLite unless there is a filter."""
    wanted = query.k + query.offset
    selection = None if query.filter is None else held.selections.of(query.filter)
    skipped = query.exclude
    if skipped:
        selection, skipped = _without(held, selection, skipped)
        wanted += len(skipped)
    if query.k <= 0:
        wanted = 0
    slots, scores = held.index.search(queries, wanted, selection, query.exact)
    ids = held.table.ids
    plain = not skipped and not query.offset and query.min_score is None
    # A slot of -1 stands where the filter, or a deletion meanwhile, left fewer than were asked for.
    if plain and _is_full(slots):
        return _whole(held.table.names, slots, scores)
    return [
        _part(ids, row, of_row, query, skipped)
        for row, of_row in zip(slots.tolist(), scores.tolist(), strict=True)
    ]


def _vectors(held: HeldSpace, ids: Sequence[str]) -> list[Vector | None]:
    matrix, filled, slots = held.file.matrix, held.filled, held.table.slots
    found: list[Vector | None] = []
    for id in ids:
        slot = slots.get(id, -1)
        has_row = 0 <= slot < min(filled.size, len(matrix)) and filled[slot]
        found.append(matrix[slot].copy() if has_row else None)
    return found


def _sample(held: HeldSpace, count: int, seed: int) -> tuple[list[str], Vectors]:
    slots = held.filled_slots()
    if len(slots) > count:
        chosen = np.random.default_rng(seed).choice(len(slots), max(count, 0), replace=False)
        slots = slots[np.sort(chosen)]
    return [held.table.ids[slot] for slot in slots.tolist()], held.file.matrix[slots]


def _is_full(slots: Slots) -> bool:
    if len(slots) == 1:
        return not slots.size or slots.item(-1) >= 0
    return not slots.size or bool(slots[:, -1].min() >= 0)


def _whole(names: Names, slots: Slots, scores: Scores) -> list[Hits]:
    """Return every answer as hits; a batch has a thousand, so that no Python runs for each."""
    return list(map(Hits, names[slots].tolist(), scores.tolist()))


def _part(
    ids: list[str], slots: list[int], scores: list[float], query: Query, skipped: frozenset[str]
) -> Hits:
    least = -np.inf if query.min_score is None else query.min_score
    hits = [
        (ids[slot], score)
        for slot, score in zip(slots, scores, strict=True)
        if slot >= 0 and score >= least and ids[slot] not in skipped
    ][query.offset : query.offset + query.k]
    return Hits([id for id, _ in hits], [score for _, score in hits])


def _without(
    held: HeldSpace, selection: Selection | None, ids: frozenset[str]
) -> tuple[Selection | None, frozenset[str]]:
    """Return what to search, and which of the hits to skip."""
    slots = [slot for id in ids if (slot := held.table.slots.get(id)) is not None]
    if len(slots) <= MOST_SKIPPED:
        return selection, frozenset(held.table.ids[slot] for slot in slots)
    mask = (held.table.live if selection is None else selection.mask).copy()
    mask[[slot for slot in slots if slot < mask.size]] = False
    return Selection(mask), frozenset()
