"""What is told of items beside their ids, and no more of it than an answer may hold.

Metadata and vectors are what was asked for, so an answer that they would make too long is refused.
Thumbnails are there to be looked at, and each can be had by itself: the nearest hits get theirs, as
far as there is room. Everything is read piece by piece and counted, so that neither a refusal nor
what is left out costs the memory that it is about.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Final, Literal

import orjson

from server.errors import InvalidInput, ServerError
from server.index.checks import MAX_METADATA
from server.index.contract import Collection, Hit, Space
from server.similarity.thumbnails import SMALL_BYTES, media_type

Want = Literal["metadata", "thumbnail", "vector"]
WANTS: tuple[Want, ...] = ("metadata", "thumbnail", "vector")
Hits = Sequence[Hit] | ServerError
Told = list[dict[str, Any]] | ServerError  # of one query

READ_AT_ONCE: Final = 256  # items
NUMBER_BYTES: Final = 12  # of a vector, as JSON has them
THUMBNAIL_FRAME: Final = 64  # bytes around it
MOST_THUMBNAIL: Final = SMALL_BYTES * 4 // 3 + THUMBNAIL_FRAME  # as a rule


@dataclass(slots=True)
class Extras:
    """What is told of items, by id; items that are not there are left out."""

    of: dict[str, dict[str, Any]] = field(default_factory=dict)
    no_thumbnail: set[str] = field(default_factory=set)  # of those, for lack of room


def tell(
    collection: Collection,
    space: Space | None,
    found: Sequence[Hits],
    wants: frozenset[Want],
    requests: Sequence[int],
    most_bytes: int,
) -> tuple[list[Told], list[int]]:
    """Return the hits of queries as plain data, and how many of each lack a thumbnail that it has.

    Args:
        collection: the hits'.
        space: whose vectors are told.
        found: per query.
        wants: what to tell.
        requests: how many of the queries, one after the other, each of several requests has made.
        most_bytes: of one request's answer; one that would be longer is an error in all its places.
    """
    count = sum(len(hits) for hits in found if not isinstance(hits, ServerError))
    if count * _most_of_one(space, wants) <= most_bytes:
        requests = (len(found),)  # nobody can get too much: all are read in one go
    told: list[Told] = []
    left_out: list[int] = []
    start = 0
    for queries in requests:
        part = found[start : start + queries]
        start += queries
        try:
            ids = _by_rank(part) if wants else Counter[str]()
            extras = extras_of(collection, space, ids, wants, most_bytes)
        except InvalidInput as error:
            told += [hits if isinstance(hits, ServerError) else error for hits in part]
            left_out += [0] * queries
            continue
        told += [_plain(hits, extras if wants else None) for hits in part]
        left_out += [_lacking(hits, extras.no_thumbnail) for hits in part]
    return told, left_out


def _by_rank(found: Sequence[Hits]) -> Counter[str]:
    """Return how often items were found; those that were nearest for any query come first."""
    ranks = zip_longest(*(hits for hits in found if not isinstance(hits, ServerError)))
    return Counter(hit.id for hit in chain.from_iterable(ranks) if hit is not None)


def _plain(hits: Hits, extras: Extras | None) -> Told:
    if isinstance(hits, ServerError):
        return hits
    if extras is None:
        return [{"id": id, "score": score} for id, score in hits]
    # An item that was removed since it was found is left out: it is no answer any more.
    return [
        {"id": hit.id, "score": hit.score, **extras.of[hit.id]}
        for hit in hits
        if hit.id in extras.of
    ]


def _lacking(hits: Hits, ids: set[str]) -> int:
    return 0 if isinstance(hits, ServerError) or not ids else sum(hit.id in ids for hit in hits)


def _most_of_one(space: Space | None, wants: frozenset[Want]) -> int:
    most = MAX_METADATA if "metadata" in wants else 0
    most += MOST_THUMBNAIL if "thumbnail" in wants else 0
    return most + (_vector_bytes(space) if "vector" in wants else 0)


def _vector_bytes(space: Space | None) -> int:
    return 0 if space is None else space.dim * NUMBER_BYTES


def extras_of(
    collection: Collection,
    space: Space | None,
    ids: Mapping[str, int],
    wants: frozenset[Want],
    most_bytes: int,
) -> Extras:
    """Return what is wanted of items.

    Args:
        collection: the items'.
        space: whose vectors are told.
        ids: in order of weight, with how often the answer tells of each.
        wants: what to tell.
        most_bytes: of all of it, as often as it is told.

    Raises:
        InvalidInput: metadata or vectors would be more.
    """
    extras = Extras()
    left = most_bytes - _vectors(space, ids, wants, most_bytes)
    counted = "metadata" in wants and sum(ids.values()) * MAX_METADATA > left
    for some in _parts(list(ids)):
        for id, item in zip(some, collection.get(some), strict=True):
            if item is None:
                continue
            extras.of[id] = {"metadata": item.metadata} if "metadata" in wants else {}
            left -= ids[id] * len(orjson.dumps(item.metadata)) if counted else 0
        if left < 0:
            raise _too_long(most_bytes)
    there = list(extras.of)
    if "thumbnail" in wants:
        _add_thumbnails(collection, ids, extras, left)
    if "vector" in wants and space is not None:
        for id, vector in zip(there, space.vectors(there), strict=True):
            extras.of[id]["vector"] = vector
    return extras


def _vectors(
    space: Space | None, ids: Mapping[str, int], wants: frozenset[Want], most_bytes: int
) -> int:
    taken = sum(ids.values()) * _vector_bytes(space) if "vector" in wants else 0
    if taken > most_bytes:
        raise _too_long(most_bytes)
    return taken


def _too_long(most_bytes: int) -> InvalidInput:
    return InvalidInput(
        f"the answer would be longer than max_answer_bytes = {most_bytes}; ask for fewer items at "
        "a time (`k` with `offset`, `limit`), or for less of each (`return`)",
        field="return",
        expected=f"at most {most_bytes} bytes",
        got="more",
    )


def _add_thumbnails(
    collection: Collection, ids: Mapping[str, int], extras: Extras, left: int
) -> None:
    """Add thumbnails as long as there is room: the first that has none left ends it."""
    for some in _parts(list(extras.of)):
        if left > 0:
            for id, thumbnail in zip(some, thumbnails_of(collection, some), strict=True):
                size = 0 if thumbnail is None else len(thumbnail) * 4 // 3 + THUMBNAIL_FRAME
                left -= ids[id] * size
                if left < 0:
                    break
                extras.of[id]["thumbnail"] = None if thumbnail is None else _inline(thumbnail)
        if left <= 0:
            extras.no_thumbnail.update(id for id in some if "thumbnail" not in extras.of[id])


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), READ_AT_ONCE):
        yield ids[start : start + READ_AT_ONCE]


def thumbnails_of(
    collection: Collection, ids: Sequence[str], most_bytes: int | None = SMALL_BYTES
) -> list[bytes | None]:
    """Return the thumbnails of items; the picture, where that is small enough to be its own.

    A longer picture than `most_bytes` without a thumbnail, which is one that cannot be decoded, is
    left out.
    """
    found = collection.thumbnails(ids)
    lacking = [id for id, thumbnail in zip(ids, found, strict=True) if thumbnail is None]
    if not lacking:
        return found
    pictures = dict(zip(lacking, collection.pictures(lacking, most_bytes), strict=True))
    return [
        pictures.get(id) if thumbnail is None else thumbnail
        for id, thumbnail in zip(ids, found, strict=True)
    ]


def _inline(picture: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(picture).decode(), "type": media_type(picture)}
