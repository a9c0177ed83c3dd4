"""Items that came together, made ready to be put into a collection, and put in.

A batch is in whole or not at all, except for the items of it that were refused by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, QueueFull, ServerError
from server.execution import WorkerPool
from server.index.checks import check_id, metadata_json
from server.index.contract import Collection, NewItem, PutOutcome, Space, Vector
from server.preprocessing import ImageLimits
from server.repository.deployment import Lease
from server.similarity.embedding import embed, embedding_space
from server.similarity.service import (
    Collections,
    checked_row,
    given_space,
    no_model,
)
from server.similarity.spaces import history_of, remember
from server.similarity.thumbnails import thumbnail_of

WAIT_S = 0.1
THUMBNAIL_BYTES = 512 * 1024  # of pictures that one job of a worker shrinks


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it came: a picture, or a ready-made vector."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes | None = None
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """One item that is not put in, and why."""

    id: str
    error: ServerError


Incoming = Sequence[Entry | Refused]  # what came together


@dataclass(slots=True)
class Batch:
    """Items that are ready to be put in."""

    items: list[NewItem]
    vectors: Vector  # (n, dim)
    space: Space | None  # None: nothing is left of the batch
    refused: list[Refused]
    lease: Lease | None
    pins: bool = False  # some of the items came without a picture

    def release(self) -> None:
        """Give the lease back; may be called more than once."""
        if self.lease is not None:
            self.lease.release()


async def prepare(
    collections: Collections, collection: Collection, entries: Incoming, *, priority: int = 0
) -> Batch:
    """Embed what came together; what cannot be put in is refused, by name.

    The batch holds a lease that `store` gives back.

    Raises:
        ServerError: nothing of it can be put in now: no version is loaded, or the store is down.
    """
    refused = [each for each in entries if isinstance(each, Refused)]
    good = [each for each in entries if isinstance(each, Entry)]
    checked = [(entry, _fault(entry)) for entry in good]
    refused += [Refused(entry.id, error) for entry, error in checked if error is not None]
    # Of an id that came twice only the last one counts, so only that one is embedded.
    kept = list({entry.id: entry for entry, error in checked if error is None}.values())
    if collection.spec.model is None:
        return await _given(collections, collection, kept, refused)
    lease = await collections.lease(collection)
    try:
        return await _embedded(collections, collection, kept, refused, lease, priority)
    except BaseException:
        lease.release()
        raise


async def store(collections: Collections, collection: Collection, batch: Batch) -> PutOutcome:
    """Put a batch in; when this returns it is durable, and what was refused is counted."""
    try:
        outcome = PutOutcome(0, 0)
        if batch.items and batch.space is not None:
            outcome = await collections.run(_put, collections, collection, batch)
            through = batch.lease.deployment if batch.lease is not None else None
            collections.bindings.changed(collection, through)
    finally:
        batch.release()
    metrics = collections.metrics.collections.of(collection.spec.name)
    metrics.changed("added", outcome.added)
    metrics.changed("replaced", outcome.replaced)
    metrics.changed("failed", len(batch.refused))
    return outcome


def _put(collections: Collections, collection: Collection, batch: Batch) -> PutOutcome:
    assert batch.space is not None  # there are items
    name = embedding_space(batch.lease.deployment) if batch.lease is not None else None
    if batch.pins and name is not None:
        collections.bindings.pin(collection, name)
    outcome = collection.put(batch.items, {batch.space.key: batch.vectors})
    if name is not None and not history_of(collection):
        remember(collection, name)  # so that it is found while no version is loaded
    return outcome


def _fault(entry: Entry) -> ServerError | None:
    """Return what is wrong with an entry in itself."""
    try:
        check_id(entry.id)
        metadata_json(dict(entry.metadata))
    except InvalidInput as error:
        return error
    return None


async def _given(
    collections: Collections,
    collection: Collection,
    entries: Sequence[Entry],
    refused: list[Refused],
) -> Batch:
    """Take ready-made vectors; a picture beside one is kept to be shown."""
    with_vectors = [entry for entry in entries if entry.vector is not None]
    refused += [
        Refused(entry.id, no_model(collection)) for entry in entries if entry.vector is None
    ]
    if not with_vectors:
        return Batch([], np.zeros((0, 0), np.float32), None, refused, None)
    first = with_vectors[0].vector
    assert first is not None  # as just chosen
    space = await collections.run(_any_given_space, collection, len(first))
    thumbnails = await _thumbnails(collections.pool, collections.image_limits, with_vectors)
    vectors = [entry.vector for entry in with_vectors]
    return _batch(collection, space, with_vectors, vectors, thumbnails, refused, None)


def _any_given_space(collection: Collection, dim: int) -> Space:
    space = given_space(collection) or given_space(collection, dim)
    assert space is not None  # the length is known
    return space


async def _embedded(
    collections: Collections,
    collection: Collection,
    entries: Sequence[Entry],
    refused: list[Refused],
    lease: Lease,
    priority: int,
) -> Batch:
    space = await collections.space_of(collection, lease.deployment)
    both = [entry for entry in entries if entry.picture is not None and entry.vector is not None]
    refused += [Refused(entry.id, _both(entry)) for entry in both]
    kept = [entry for entry in entries if entry not in both] if both else list(entries)
    pictures = [entry.picture for entry in kept if entry.picture is not None]
    embedded, thumbnails = await asyncio.gather(
        embed(lease.deployment, pictures, pool=collections.pool, priority=priority, patient=True),
        _thumbnails(collections.pool, collections.image_limits, kept),
    )
    made = iter(embedded)
    vectors = [next(made) if entry.picture is not None else entry.vector for entry in kept]
    return _batch(collection, space, kept, vectors, thumbnails, refused, lease)


def _both(entry: Entry) -> InvalidInput:
    return InvalidInput(
        f"item {entry.id[:80]!r} has a picture and a vector; this collection's model makes the "
        "vectors: send one of the two",
        field="vector",
    )


def _batch(
    collection: Collection,
    space: Space,
    entries: Sequence[Entry],
    vectors: Sequence[Vector | ServerError | None],
    thumbnails: Sequence[bytes | None],
    refused: list[Refused],
    lease: Lease | None,
) -> Batch:
    items: list[NewItem] = []
    rows: list[Vector] = []
    pins = False
    for entry, vector, thumbnail in zip(entries, vectors, thumbnails, strict=True):
        row = _row(collection, space, vector)
        if isinstance(row, ServerError):
            refused.append(Refused(entry.id, row))
            continue
        items.append(NewItem(entry.id, entry.metadata, entry.picture, thumbnail))
        rows.append(row)
        pins = pins or entry.picture is None
    stacked = np.stack(rows) if rows else np.zeros((0, space.dim), np.float32)
    return Batch(items, stacked, space, refused, lease, pins)


def _row(
    collection: Collection, space: Space, vector: Vector | ServerError | None
) -> Vector | ServerError:
    if vector is None:
        return InvalidInput(
            "an item needs a picture or a vector",
            field="image",
            expected="`image` or `vector`",
            got="neither",
        )
    if isinstance(vector, ServerError):
        return vector
    return checked_row(collection, space, vector)


async def _thumbnails(
    pool: WorkerPool, limits: ImageLimits, entries: Sequence[Entry]
) -> list[bytes | None]:
    """Return the thumbnail of each entry that has a picture and needs one."""
    groups: list[list[bytes | None]] = [[]]
    held = 0
    for entry in entries:
        if held > THUMBNAIL_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(entry.picture)
        held += len(entry.picture or b"")
    made = []
    for group in groups:  # one after the other: the model's pictures need the workers, too
        made += await _when_there_is_room(pool, group, limits)
    return made


async def _when_there_is_room(
    pool: WorkerPool, pictures: Sequence[bytes | None], limits: ImageLimits
) -> list[bytes | None]:
    while True:
        try:
            return await pool.run(_shrink, pictures, limits)
        except QueueFull as error:  # what is being put in can wait
            await asyncio.sleep(float(error.extra.get("retry_after_s", WAIT_S)))


def _shrink(pictures: Sequence[bytes | None], limits: ImageLimits) -> list[bytes | None]:
    return [None if data is None else thumbnail_of(data, limits) for data in pictures]
