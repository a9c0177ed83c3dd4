"""Make a space complete: from the stored pictures, a few at a time, behind everything else.

What is done is in the store after every step. So a server that is stopped in the middle goes on
where it was, and a step that two processes would do is done by one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from server.errors import RequestRejected, ServerError
from server.execution import WorkerPool
from server.index.contract import Collection, Missing, Space, Vector
from server.repository.background import in_background
from server.repository.deployment import Deployment
from server.similarity.embedding import GROUP_PICTURES, embed
from server.similarity.failures import Failures

LOWEST = -9  # priority
STEP_BYTES = 16 << 20  # of pictures in memory at a time, about
FIRST_STEP, LEAST_STEP, MOST_STEP = 16, 4, 128  # pictures

Told = Callable[[int, int], None]  # done, failed


@dataclass(frozen=True, slots=True)
class Step:
    """Items whose vectors are made together."""

    items: Sequence[Missing]
    pictures: Sequence[bytes]
    failed: int  # of those that were looked at: they have no picture


class Filling:
    """Fills one space of one collection with the vectors of one deployment."""

    def __init__(
        self,
        collection: Collection,
        space: Space,
        deployment: Deployment,
        failures: Failures,
        pool: WorkerPool,
    ) -> None:
        """Prepare; nothing is read before `run`."""
        self._collection = collection
        self._space = space
        self._deployment = deployment
        self._failures = failures
        self._pool = pool
        self._size = FIRST_STEP

    async def run(self, most: int, told: Told) -> int:
        """Go on until `most` items are through, or none is left; returns how many that were.

        Raises:
            ServerError: the store cannot be reached, or the deployment is being unloaded.
        """
        handled = 0
        while handled < most and (step := await in_background(self._next, name="fill")):
            done = await self._embed(step) if step.items else 0
            failed = step.failed + len(step.items) - done
            handled += done + failed
            told(done, failed)
        await in_background(self._save, name="fill")
        return handled

    def _next(self) -> Step | None:
        limit = self._size + len(self._failures)
        found = self._space.missing(limit)
        if len(found) < limit:
            self._failures.keep_only(found)
        fresh = [item for item in found if not self._failures.has(item)][: self._size]
        if not fresh:
            return None
        pictures = self._collection.pictures([item.id for item in fresh])
        pairs = [(item, data) for item, data in zip(fresh, pictures, strict=True) if data]
        for item, data in zip(fresh, pictures, strict=True):
            if not data:  # or it was deleted since, and is forgotten when it is not listed again
                self._failures.add(item, "it has no picture")
        self._adapt([data for _, data in pairs])
        return Step(
            [item for item, _ in pairs], [data for _, data in pairs], len(fresh) - len(pairs)
        )

    def _adapt(self, pictures: Sequence[bytes]) -> None:
        mean = sum(map(len, pictures)) / max(1, len(pictures))
        fits = int(STEP_BYTES / max(1.0, mean))
        self._size = max(LEAST_STEP, min(MOST_STEP, fits, 2 * self._size))

    async def _embed(self, step: Step) -> int:
        """Make and store the vectors of a step; returns how many were made."""
        made = await self._vectors(step.pictures)
        items: list[Missing] = []
        rows: list[Vector] = []
        for item, vector in zip(step.items, made, strict=True):
            reason = self._fault(vector)
            if reason is not None:
                self._failures.add(item, reason)
            elif not isinstance(vector, ServerError):
                items.append(item)
                rows.append(vector)
        if items:
            matrix = np.stack(rows)  # (n, dim)
            await in_background(lambda: self._space.fill(items, matrix), name="fill")
        return len(items)

    async def _vectors(self, pictures: Sequence[bytes]) -> list[Vector | ServerError]:
        # A few at a time: the threads that decode have one queue, whatever the priority, and a
        # search waits behind all that is in it. So about half of the cores are at this.
        made: list[Vector | ServerError] = []
        width = GROUP_PICTURES * max(1, self._pool.threads // 2)
        for first in range(0, len(pictures), width):
            some = pictures[first : first + width]
            made += await embed(
                self._deployment, some, pool=self._pool, priority=LOWEST, patient=True
            )
        return made

    def _fault(self, made: Vector | ServerError) -> str | None:
        """Say what is wrong with an item; raises what is not the item's fault."""
        if isinstance(made, RequestRejected):
            return made.message
        if isinstance(made, ServerError):
            raise made
        if not np.isfinite(made).all():
            return "the model's vector of it is not finite"
        if self._collection.spec.metric == "cosine" and not made.any():
            return "the model's vector of it is zero and has no direction"
        return None

    def _save(self) -> None:
        self._failures.save(self._collection, self._space.key)


@asynccontextmanager
async def alone(collection: Collection, key: str) -> AsyncIterator[bool]:
    """Enter as the only one that fills a space; False when another process does."""
    lock = collection.busy(f"fill {key}", 0.0)

    def leave() -> None:
        lock.__exit__(None, None, None)

    inside = await in_background(lock.__enter__, abandon=lambda _: leave(), name="fill")
    try:
        yield inside
    finally:
        await asyncio.shield(asyncio.ensure_future(in_background(leave, name="fill")))
