"""Streams of items into a collection, batch by batch, with progress.

While one batch is written, the next one is embedded. What is told as done is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from server.errors import ServerError
from server.index.contract import Collection
from server.similarity.batches import Batch, Entry, Incoming, Refused, prepare, store
from server.similarity.service import Collections

BATCH_ITEMS = 128
BATCH_BYTES = 8 << 20  # of pictures
IDLE_S = 0.05  # a batch that nothing is added to for so long is put in as it is
TOLD_AHEAD = 4  # batches that nobody has been told of yet


@dataclass(slots=True)
class Progress:
    """How far a request has come, and what failed since the last time."""

    added: int = 0
    replaced: int = 0
    failed: int = 0
    total: int | None = None
    errors: list[Refused] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Items that are in, durably."""
        return self.added + self.replaced


class Ingest:
    """Puts a stream of items in, and tells how far it has come."""

    def __init__(
        self,
        collections: Collections,
        collection: Collection,
        *,
        total: int | None = None,
        priority: int = 0,
    ) -> None:
        """Begin with nothing done.

        Args:
            collections: what requests share.
            collection: where the items go.
            total: how many there are, if that is known.
            priority: of their embedding, from -9 to 9.
        """
        self._collections = collections
        self._collection = collection
        self._priority = priority
        self._progress = Progress(total=total)
        self._told: asyncio.Queue[Progress | None] = asyncio.Queue(TOLD_AHEAD)

    async def run(self, source: AsyncIterator[Incoming]) -> AsyncGenerator[Progress]:
        """Yield after each batch that is in; ends when the source does.

        Closing the generator stops the work; a batch that is being written is still written.

        Raises:
            ServerError: the source failed, or no further batch can be put in; what was told before
                is in.
        """
        work = asyncio.ensure_future(self._work_and_end(source))
        try:
            while (told := await self._told.get()) is not None:
                yield told
            await work
        finally:
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await work

    async def _work_and_end(self, source: AsyncIterator[Incoming]) -> None:
        try:
            await self._work(source)
        except asyncio.CancelledError:  # nobody listens any more
            raise
        except BaseException:
            await self._told.put(None)
            raise
        await self._told.put(None)

    async def _work(self, source: AsyncIterator[Incoming]) -> None:
        writing: asyncio.Task[None] | None = None
        try:
            async with aclosing(batched(source)) as batches:
                async for entries in batches:
                    batch = await prepare(
                        self._collections, self._collection, entries, priority=self._priority
                    )
                    before, writing = writing, asyncio.create_task(self._write(batch, writing))
                    # A task that is cancelled before it begins runs none of its own code.
                    writing.add_done_callback(partial(_release, batch))
                    if before is not None:
                        await before
        finally:
            if writing is not None:
                await _finished(writing)

    async def _write(self, batch: Batch, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before  # batches go in one after the other
        outcome = await store(self._collections, self._collection, batch)
        so_far = self._progress
        self._progress = Progress(
            so_far.added + outcome.added,
            so_far.replaced + outcome.replaced,
            so_far.failed + len(batch.refused),
            so_far.total,
            batch.refused,
        )
        await self._told.put(self._progress)


def _release(batch: Batch, _: asyncio.Task[None]) -> None:
    batch.release()


async def _finished(writing: asyncio.Task[None]) -> None:
    """Wait for the last batch; whoever is cancelled does not wait, but stops it."""
    current = asyncio.current_task()
    if current is not None and current.cancelling():
        writing.cancel()
    await writing


async def batched(source: AsyncIterator[Incoming]) -> AsyncGenerator[list[Entry | Refused]]:
    """Gather what comes into batches; what has waited for company long enough goes alone."""
    batch: list[Entry | Refused] = []
    held = 0
    coming: asyncio.Future[Incoming] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(_next(source))
            if batch and not coming.done():
                await asyncio.wait({coming}, timeout=IDLE_S)
                if not coming.done():
                    yield batch
                    batch, held = [], 0
                    continue
            try:
                came = await coming
            except StopAsyncIteration:
                break
            except ServerError:
                if batch:  # what came before goes in
                    yield batch
                raise
            finally:
                if coming.done():
                    coming = None
            for each in came:
                batch.append(each)
                held += len(each.picture or b"") if isinstance(each, Entry) else 0
                if len(batch) >= BATCH_ITEMS or held >= BATCH_BYTES:
                    yield batch
                    batch, held = [], 0
        if batch:
            yield batch
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, ServerError):
                await coming


async def _next(source: AsyncIterator[Incoming]) -> Incoming:
    return await anext(source)
