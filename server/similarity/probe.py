"""Does the index still find what an exact search finds? Asked of real queries, a few of them.

One probe at a time, on a low-priority thread, after the answer has gone: what is sampled while one
runs is left out. A collection whose searches are exact anyway costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from server.index.contract import Query, Space, Vectors
from server.metrics.collections import CollectionsMetrics
from server.repository.background import in_background

K = 10
MOST_ROWS = 8  # of one request
WINDOW = 200  # probed queries that the metric is the mean of

logger = logging.getLogger("millrace.similarity")


class Probe:
    """Samples searches and compares them with exact ones; `offer` is for the event loop."""

    def __init__(
        self,
        metrics: CollectionsMetrics,
        share: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Probe `share` of the requests, from 0 for none to 1 for all; `draw` is for tests."""
        self._metrics = metrics
        self._share = share
        self._draw = draw
        self._running: asyncio.Task[None] | None = None
        self._recalls: dict[str, deque[float]] = {}

    def offer(self, collection: str, space: Space, vectors: Vectors, query: Query) -> bool:
        """Consider a search that was answered; says whether it will be probed.

        Args:
            collection: where it was.
            space: what was searched.
            vectors: (m, dim), as they were searched with.
            query: how.
        """
        if query.exact or self._running is not None or self._draw() >= self._share:
            return False
        rows = vectors[:MOST_ROWS].copy()
        self._running = asyncio.create_task(self._probe(collection, space, rows, query))
        return True

    def forget(self, collection: str) -> None:
        """Drop what was measured of a collection."""
        self._recalls.pop(collection, None)

    async def close(self) -> None:
        """Wait for the probe that runs."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _probe(self, collection: str, space: Space, rows: Vectors, query: Query) -> None:
        try:
            found = await in_background(lambda: recalls(space, rows, query), name="probe")
        except Exception as error:  # its collection or space may be gone; a search would tell
            logger.info("collection %s could not be probed: %s", collection, error)
        else:
            window = self._recalls.setdefault(collection, deque(maxlen=WINDOW))
            window.extend(found)
            if window:
                self._metrics.of(collection).recall[K] = float(np.mean(window))
        finally:
            self._running = None


def recalls(space: Space, rows: Vectors, query: Query) -> list[float]:
    """Return recall@10 of queries (m, dim), one number a row. Blocking.

    Without a filter the index measures itself, and acts on what it finds.
    """
    if space.state().kind == "exact":
        return [1.0] * len(rows)
    if query.filter is None:
        return [space.measure_recall(row[None], K) for row in rows]
    automatic = replace(query, k=K, offset=0, min_score=None)
    found = space.search(rows, automatic)
    best = space.search(rows, replace(automatic, exact=True))
    return [
        len({hit.id for hit in some} & {hit.id for hit in all_}) / len(all_)
        for some, all_ in zip(found, best, strict=True)
        if all_
    ]
