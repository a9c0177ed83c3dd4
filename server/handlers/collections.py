"""Collections and their items, whatever protocol asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import InvalidInput, NotFound, ServerError
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.handlers.flights import Flights
from server.index.checks import check_id, metadata_json
from server.index.contract import Collection, CollectionSpec, StoredItem
from server.index.filters import Filter
from server.similarity.archives import ArchiveLimits, PictureArchive
from server.similarity.batches import Entry, Incoming, Refused
from server.similarity.ingest import Ingest, Progress
from server.similarity.search import no_item
from server.similarity.service import Collections
from server.similarity.telling import thumbnails_of

MAX_PAGE = 1000
DELETED_AT_ONCE = 1000
SNAPSHOT_BYTES = 256 * 1024  # of a snapshot that leave together


@dataclass(slots=True)
class NewCollection:
    """What a collection is asked to be."""

    name: str
    model: str | None = None
    metric: str = "cosine"
    dim: int | None = None
    without_model: bool = False  # its vectors come ready-made


class CollectionHandler:
    """Makes, fills, describes and removes collections."""

    def __init__(self, collections: Collections, flights: Flights) -> None:
        """Keep what every request uses."""
        self._collections = collections
        self._flights = flights

    # Collections

    async def create(self, new: NewCollection) -> dict[str, Any]:
        """Make a collection, and describe it."""
        model = new.model
        if model is None and not new.without_model and new.dim is None:
            model = self._collections.usual_model()
        if model is not None and new.dim is not None:
            raise InvalidInput(
                "`dim` is for ready-made vectors; a model says its own: leave one of them out",
                field="dim",
                expected="`model` or `dim`",
                got="both",
            )
        metric: Any = new.metric  # the store says which there are
        await self._collections.create(CollectionSpec(new.name, metric, model, new.dim))
        return await self._collections.describe(new.name)

    async def names(self) -> list[str]:
        """Return the names of all collections."""
        return await self._collections.names()

    async def check(self, name: str) -> None:
        """Raise `NotFound` unless there is such a collection."""
        await self._collections.open(name)

    @property
    def spool(self) -> Path | None:
        """Return the folder for uploads that are being read; None: where temporary files are."""
        return self._collections.stores.folder

    async def show(self, name: str) -> dict[str, Any]:
        """Describe one."""
        return await self._collections.describe(name)

    async def drop(self, name: str) -> None:
        """Remove one with all that it holds."""
        await self._collections.drop(name)

    # Items in

    async def add(
        self, name: str, source: AsyncIterator[Incoming], call: Call, total: int | None = None
    ) -> AsyncGenerator[Progress]:
        """Put items in as they come, and yield after each batch that is durable.

        Raises:
            ServerError: no further batch can be put in; what was told before is in.
        """
        collection = await self._collections.open(name)
        ingest = Ingest(self._collections, collection, total=total, priority=call.priority)
        try:
            async for progress in ingest.run(source):
                yield progress
        except ServerError:
            raise
        except Exception as error:
            raise as_server_error(error, call.id) from error

    async def add_all(self, name: str, entries: Incoming, call: Call) -> Progress:
        """Put items in that are all here; every refusal is told at the end.

        Raises:
            ServerError: as `add`; also when the client has gone.
        """
        source = _once(entries)
        work = asyncio.ensure_future(self._all(self.add(name, source, call, len(entries))))
        due = call.due(None, self._collections.settings.request_timeout_s)
        return await self._flights.wait(work, call, due)

    async def _all(self, told: AsyncGenerator[Progress]) -> Progress:
        last, errors = Progress(), list[Refused]()
        async with contextlib.aclosing(told):
            async for last in told:
                errors += last.errors
        last.errors = errors
        return last

    async def unpacked(
        self, file: Any, most_total_bytes: int
    ) -> tuple[int | None, AsyncIterator[Incoming]]:
        """Return how many pictures an archive has, if that is known, and the pictures.

        Raises:
            InvalidInput: it is no archive.
        """
        settings = self._collections.settings
        limits = ArchiveLimits(settings.max_body_bytes, most_total_bytes, settings.max_bulk_items)
        archive = await self._collections.run(PictureArchive, file, limits)

        async def pictures() -> AsyncGenerator[list[Entry | Refused]]:
            while not archive.ended:
                if batch := await self._collections.run(archive.batch):
                    yield batch

        return archive.total, pictures()

    # Items out, and changed

    async def page(
        self, name: str, after: str | None, limit: int, wanted: Filter | None
    ) -> tuple[list[StoredItem], str | None]:
        """Return items in the order of their ids, and the id to go on after, if there are more."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(
                f"`limit` must be 1 to {MAX_PAGE}, got {limit}",
                field="limit",
                expected=f"1..{MAX_PAGE}",
                got=limit,
            )
        collection = await self._collections.open(name)
        items = await self._collections.run(collection.page, after, limit + 1, wanted)
        return items[:limit], items[limit - 1].id if len(items) > limit else None

    async def items(self, name: str, ids: Sequence[str]) -> list[StoredItem | None]:
        """Return items by their ids."""
        collection = await self._collections.open(name)
        return await self._collections.run(collection.get, [check_id(id) for id in ids])

    async def item(self, name: str, id: str) -> StoredItem:
        """Return one item.

        Raises:
            NotFound: it is not there.
        """
        collection = await self._collections.open(name)
        [item] = await self.items(name, [id])
        if item is None:
            raise no_item(collection, id)
        return item

    async def picture(self, name: str, id: str, *, small: bool = False) -> bytes:
        """Return an item's picture, or its thumbnail.

        Raises:
            NotFound: it is not there, or came without a picture.
        """
        collection = await self._collections.open(name)
        look = _thumbnails if small else _pictures
        [found] = await self._collections.run(look, collection, [check_id(id)])
        if found is not None:
            return found
        await self.item(name, id)  # or it is not there at all
        raise NotFound(f"item {id[:80]!r} came without a picture", item=id[:512])

    async def update(self, name: str, id: str, metadata: Mapping[str, Any]) -> StoredItem:
        """Replace an item's metadata."""
        metadata_json(metadata)
        collection = await self._collections.open(name)
        if not await self._collections.run(collection.update_metadata, check_id(id), metadata):
            raise no_item(collection, id)
        return await self.item(name, id)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Remove items; returns how many there were."""
        collection = await self._collections.open(name)
        for id in ids:
            check_id(id)
        count = await self._collections.run(collection.delete, ids)
        self._collections.metrics.collections.of(name).changed("deleted", count)
        return count

    async def delete_matching(self, name: str, wanted: Filter) -> int:
        """Remove the items that a filter finds, a thousand at a time."""
        collection = await self._collections.open(name)
        count, after = 0, None
        while found := await self._collections.run(collection.page, after, DELETED_AT_ONCE, wanted):
            after = found[-1].id
            count += await self.delete(name, [item.id for item in found])
        return count

    # Whole collections out and in

    async def snapshot(self, name: str) -> AsyncGenerator[bytes]:
        """Yield a collection as an archive; the first piece comes once it has been begun.

        Raises:
            NotFound: there is no such collection.
        """
        await self._collections.open(name)
        store = await self._collections.store()
        # One thread from beginning to end: what a store reads with may be bound to it.
        thread = ThreadPoolExecutor(1, thread_name_prefix="millrace-snapshot")
        loop = asyncio.get_running_loop()
        stack = contextlib.ExitStack()

        def begin() -> Callable[[], bytes]:
            pieces = stack.enter_context(store.snapshot(name))
            return lambda: _some(pieces)

        try:
            read = await loop.run_in_executor(thread, begin)
            while data := await loop.run_in_executor(thread, read):
                yield data
        finally:
            thread.submit(stack.close)
            thread.shutdown(wait=False)

    async def restore(self, name: str, archive: Path) -> dict[str, Any]:
        """Make a collection of an archive.

        Raises:
            Conflict: there is one of that name.
            InvalidInput: it is no archive, or a damaged one.
        """
        collections = self._collections

        def restored() -> Collection:
            return collections.stores.for_writing().restore(name, archive)

        collections.forget(name)
        collection = await collections.run(restored)
        collections.bindings.forget(name)
        collections.bindings.changed(collection, None)
        return await collections.describe(name)


async def _once(entries: Incoming) -> AsyncGenerator[Incoming]:
    yield entries


def _pictures(collection: Collection, ids: Sequence[str]) -> list[bytes | None]:
    return collection.pictures(ids)


def _thumbnails(collection: Collection, ids: Sequence[str]) -> list[bytes | None]:
    return thumbnails_of(collection, ids, None)


def _some(pieces: Any) -> bytes:
    """Return a few of the pieces together; nothing at the end."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= SNAPSHOT_BYTES:
            break
    return bytes(found)


def progress_dict(progress: Progress, most_errors: int) -> dict[str, Any]:
    """Return progress as plain data."""
    errors = [error_dict(each) for each in progress.errors[:most_errors]]
    told: dict[str, Any] = {
        "done": progress.done,
        "added": progress.added,
        "replaced": progress.replaced,
        "failed": progress.failed,
        "total": progress.total,
        "errors": errors,
    }
    if len(progress.errors) > len(errors):
        told["errors_omitted"] = len(progress.errors) - len(errors)
    return told


def error_dict(refused: Refused) -> dict[str, Any]:
    """Return a refusal as plain data: the item, and the one shape of an error."""
    error: ServerError = refused.error
    return {"id": refused.id, **error.body()}
