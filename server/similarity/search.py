"""What is near to pictures, items or vectors: one search of one space, and what hits are told with.

Everything here blocks and knows neither requests nor models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, NotFound, ServerError
from server.index.checks import shown
from server.index.contract import Collection, Hit, Query, Space, Vector
from server.similarity.service import checked_row
from server.similarity.telling import Told, Want, tell


@dataclass(frozen=True, slots=True)
class ItemId:
    """A query by an item of the collection."""

    id: str


Sought = Vector | ItemId | ServerError  # an error takes its query's place in the answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to search for, and what to tell of each hit."""

    query: Query = field(default_factory=Query)
    wants: frozenset[Want] = frozenset({"metadata"})
    keep_self: bool = False  # answer a query by item with that item, too


@dataclass(slots=True)
class Found:
    """The hits of each query, as plain data, or its error; and the time that it took."""

    results: list[Told]
    rows: Sequence[Vector | ServerError]  # that were searched with
    no_thumbnail: Sequence[int] = ()  # per query: hits without one, for lack of room; (): none
    index_s: float = 0.0
    fetch_s: float = 0.0

    @property
    def vectors(self) -> NDArray[np.float32] | None:
        """Return the rows that were right (m, dim); None if none was."""
        good = [row for row in self.rows if not isinstance(row, ServerError)]
        return np.stack(good) if good else None

    def part(self, start: int, end: int) -> Found:
        """Return what some of the queries found; the time is that of all."""
        if start == 0 and end == len(self.results):
            return self
        return Found(
            self.results[start:end],
            self.rows[start:end],
            self.no_thumbnail[start:end],
            self.index_s,
            self.fetch_s,
        )


def search(
    collection: Collection,
    space: Space | None,
    sought: Sequence[Sought],
    wanted: Wanted,
    requests: Sequence[int],
    most_bytes: int,
) -> Found:
    """Search a space for all queries together.

    Args:
        collection: the space's.
        space: None: there is nothing to be found yet.
        sought: one per query.
        wanted: how to search, and what to tell.
        requests: how many queries each of several requests has, which are searched together.
        most_bytes: of what one request is told.

    Raises:
        ServerError: the search itself failed; what is wrong with one query is its result.
    """
    began = time.perf_counter()
    rows = [_row(collection, space, each) for each in _filled(collection, space, sought)]
    hits = _search_all(space, sought, rows, wanted)
    searched = time.perf_counter()
    told, lacking = tell(collection, space, hits, wanted.wants, requests, most_bytes)
    return Found(told, rows, lacking, searched - began, time.perf_counter() - searched)


def _filled(
    collection: Collection, space: Space | None, sought: Sequence[Sought]
) -> list[Vector | ServerError]:
    """Put the vectors of items in place of their ids."""
    ids = [each.id for each in sought if isinstance(each, ItemId)]
    if not ids:
        return [each for each in sought if not isinstance(each, ItemId)]
    vectors = iter(space.vectors(ids) if space is not None else [None] * len(ids))
    items = iter(collection.get(ids))
    filled: list[Vector | ServerError] = []
    for each in sought:
        if not isinstance(each, ItemId):
            filled.append(each)
            continue
        item, vector = next(items), next(vectors)
        if item is None:
            filled.append(no_item(collection, each.id))
        elif vector is None:
            filled.append(_no_vector(each.id))
        else:
            filled.append(vector)
    return filled


def _row(
    collection: Collection, space: Space | None, vector: Vector | ServerError
) -> Vector | ServerError:
    if isinstance(vector, ServerError) or space is None:
        return vector
    return checked_row(collection, space, vector)


def _search_all(
    space: Space | None,
    sought: Sequence[Sought],
    rows: Sequence[Vector | ServerError],
    wanted: Wanted,
) -> list[Sequence[Hit] | ServerError]:
    """Search with the good rows; queries by item apart, since each leaves out another item."""
    results: list[Sequence[Hit] | ServerError] = [
        row if isinstance(row, ServerError) else [] for row in rows
    ]
    if space is None:
        return results
    good = [place for place, row in enumerate(rows) if not isinstance(row, ServerError)]
    apart = [place for place in good if not wanted.keep_self and isinstance(sought[place], ItemId)]
    together = [place for place in good if place not in set(apart)]
    query = wanted.query
    if together:
        _put(results, together, space.search(_stacked(rows, together), query))
    if len(apart) == 1:
        [place] = apart
        excluded = replace(query, exclude=query.exclude | {_id_of(sought[place])})
        _put(results, apart, space.search(_stacked(rows, apart), excluded))
    elif apart:
        # One more than asked for, from the first on: itself may be anywhere among them.
        wider = replace(query, k=query.offset + query.k + 1, offset=0)
        found = space.search(_stacked(rows, apart), wider)
        for place, hits in zip(apart, found, strict=True):
            others = [hit for hit in hits if hit.id != _id_of(sought[place])]
            results[place] = others[query.offset : query.offset + query.k]
    return results


def _put(
    results: list[Sequence[Hit] | ServerError],
    places: Sequence[int],
    found: Sequence[Sequence[Hit]],
) -> None:
    for place, hits in zip(places, found, strict=True):
        results[place] = hits


def _stacked(rows: Sequence[Vector | ServerError], places: Sequence[int]) -> Vector:
    if len(places) == 1:
        row = rows[places[0]]
        assert not isinstance(row, ServerError)  # the places are those of good rows
        return row[None]
    return np.stack([row for row in map(rows.__getitem__, places) if isinstance(row, np.ndarray)])


def _id_of(sought: Sought) -> str:
    assert isinstance(sought, ItemId)
    return sought.id


def no_item(collection: Collection, id: str) -> NotFound:
    """Return the error of an id that no item has."""
    return NotFound(
        f"collection {shown(collection.spec.name)} has no item {shown(id)}", item=id[:512]
    )


def _no_vector(id: str) -> InvalidInput:
    return InvalidInput(
        f"item {shown(id)} has no vector of this model version yet; see the collection's status",
        field="id",
        expected="an item that has been embedded",
        got=id[:512],
    )
