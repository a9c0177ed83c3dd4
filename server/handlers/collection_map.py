"""The map of a collection: its vectors as points in the plane, and as one picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.errors import DeadlineExceeded, InvalidInput
from server.handlers.call import Call
from server.handlers.flights import Flights
from server.handlers.similar import MAX_LONG_HITS
from server.repository.background import in_background
from server.similarity.compiled_code import is_loaded, keep_code
from server.similarity.projection import MAX_POINTS, METHODS, Points, project
from server.similarity.projection_picture import draw_map
from server.similarity.service import Collections
from server.similarity.telling import Extras, Want, extras_of, thumbnails_of

T = TypeVar("T")

USUAL_POINTS = 1000
AT_ONCE = 1  # maps that are drawn at a time; the others wait


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Which map."""

    collection: str
    method: str = "pca"
    limit: int = USUAL_POINTS
    seed: int = 0
    size: int = 1200  # pixels of a side, of the picture
    wants: frozenset[Want] = frozenset({"metadata"})


@dataclass(slots=True)
class CollectionMap:
    """Items and their points."""

    space: str | None
    total: int
    ids: list[str]
    points: Points
    extras: Extras

    def items(self) -> list[dict[str, Any]]:
        """Return the points as plain data."""
        return [
            {"id": id, "x": float(x), "y": float(y), **self.extras.of[id]}
            for id, (x, y) in zip(self.ids, self.points, strict=True)
            if id in self.extras.of
        ]


class MapHandler:
    """Draws maps, one at a time."""

    def __init__(self, collections: Collections, flights: Flights) -> None:
        """Keep what every request uses."""
        self._collections = collections
        self._flights = flights
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._under_way = ""  # what the thread that draws is at

    async def points(self, request: MapRequest, call: Call) -> CollectionMap:
        """Return the map as points."""
        return await self._within(self._points(request), call)

    async def picture(self, request: MapRequest, call: Call) -> bytes:
        """Return the map as a PNG picture of thumbnails."""
        return await self._within(self._picture(request), call)

    async def _within(self, work: Coroutine[Any, Any, T], call: Call) -> T:
        due = call.due(None, self._collections.settings.request_timeout_s)
        try:
            return await self._flights.wait(asyncio.ensure_future(work), call, due)
        except DeadlineExceeded as error:
            if not self._under_way:
                raise
            raise DeadlineExceeded(
                f"no map within the request's deadline ({call.elapsed():.0f} s passed): "
                f"{self._under_way}; ask again in a while, for fewer items (`limit`), or for "
                "method=pca",
                **error.extra,
            ) from error

    async def _drawn(self, work: Callable[[], T], what: str) -> T:
        """Do what takes long when it is its turn; the turn lasts until the thread is through.

        That cannot be stopped: who asks and goes away, again and again, must not start many.
        """
        await self._turn.acquire()
        self._under_way = what
        drawing = asyncio.ensure_future(in_background(work, name="map"))
        drawing.add_done_callback(self._done)
        return await asyncio.shield(drawing)

    def _done(self, drawing: asyncio.Future[T]) -> None:
        self._under_way = ""
        self._turn.release()

    def _project(self, vectors: NDArray[np.float32], request: MapRequest) -> Points:
        if request.method == "umap":
            keep_code(self._collections.settings.cache_dir)
        return project(vectors, request.method, request.seed)

    async def _picture(self, request: MapRequest) -> bytes:
        found = await self._points(request)
        collection = await self._collections.open(request.collection)
        thumbnails = await self._collections.run(thumbnails_of, collection, found.ids)
        title = f"{request.collection}, {request.method}"
        return await self._drawn(
            lambda: draw_map(found.points, thumbnails, request.size, title),
            f"a picture of {len(thumbnails)} items is being drawn",
        )

    async def _points(self, request: MapRequest) -> CollectionMap:
        _check(request)
        collection = await self._collections.open(request.collection)
        space = await self._collections.looked_at(collection)
        size = await self._collections.run(collection.size)
        if space is None:
            return CollectionMap(None, size.items, [], project([[0.0]])[:0], Extras())
        ids, vectors = await self._collections.run(space.sample, request.limit, request.seed)
        points = await self._drawn(lambda: self._project(vectors, request), _stage(request))
        most = self._collections.settings.max_answer_bytes
        told = dict.fromkeys(ids, 1)
        extras = await self._collections.run(
            extras_of, collection, space, told, request.wants, most
        )
        return CollectionMap(space.key, size.items, ids, points, extras)


def _stage(request: MapRequest) -> str:
    """Say what takes so long."""
    drawn = f"a map by {request.method} is being drawn"
    if request.method != "umap" or is_loaded():
        return drawn
    return f"{drawn}, and its code compiled before, most of it once per machine"


def _check(request: MapRequest) -> None:
    most = MAX_POINTS.get(request.method)
    if most is None:
        raise InvalidInput(
            f"no method is called {request.method[:40]!r}; choose one of {', '.join(METHODS)}",
            field="method",
            expected=list(METHODS),
            got=request.method[:40],
        )
    if not 1 <= request.limit <= most:
        raise InvalidInput(
            f"a map by {request.method} shows 1 to {most} items, got {request.limit}",
            field="limit",
            expected=f"1..{most}",
            got=request.limit,
        )
    if request.wants & {"thumbnail", "vector"} and request.limit > MAX_LONG_HITS:
        raise InvalidInput(
            f"thumbnails and vectors come with at most {MAX_LONG_HITS} items, got {request.limit}",
            field="limit",
            expected=f"1..{MAX_LONG_HITS}",
            got=request.limit,
        )
