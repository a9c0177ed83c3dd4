"""What looks like this? Pictures, items or vectors in, the nearest items of a collection out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import Conflict, InvalidInput, ModelNotReady, NotFound, ServerError
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.handlers.flights import Flights
from server.index.contract import Collection, Space, Vector
from server.repository.deployment import Deployment
from server.serving import serving_of
from server.similarity.embedding import Timings, embed
from server.similarity.search import Found, ItemId, Sought, Wanted
from server.similarity.service import Collections, given_space, no_model, not_loaded
from server.similarity.spaces import made_by
from server.similarity.stores import THREADS
from server.similarity.together import MOST_QUERIES, Together

# Of hits with thumbnails or vectors, which are long; of others `max_k` for each of ten queries.
MAX_LONG_HITS = 10_000
MAX_QUERIES_OF_MOST = 10
_DECODE = ("decode", "preprocess")
_MODEL = ("queue", "batch", "compute")


@dataclass(frozen=True, slots=True)
class PictureQuery:
    """A query by a picture's bytes."""

    data: bytes
    field: str = "image"


SimilarQuery = PictureQuery | ItemId | Vector | ServerError


@dataclass(slots=True)
class SimilarRequest:
    """What to look for and where; a query that could not be read is its error."""

    queries: list[SimilarQuery]
    collection: str | None = None
    version: str | None = None
    label: str | None = None
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(slots=True)
class SimilarReply:
    """The answer: per query its hits as plain data, or its error."""

    collection: str
    model: str | None
    version: str | None
    space: str | None
    missing: int  # items that this version has not embedded yet
    results: list[list[dict[str, Any]] | ServerError]
    no_thumbnail: int = 0  # hits that are told without one, for lack of room


class SimilarHandler:
    """Answers `SimilarRequest`s."""

    def __init__(self, collections: Collections, flights: Flights) -> None:
        """Keep what every request uses."""
        self._collections = collections
        self._flights = flights
        self._settings = collections.settings
        # A database searches side by side; in memory, together is quicker.
        lanes, most = (THREADS, 1) if collections.stores.is_database else (1, MOST_QUERIES)
        most_bytes = self._settings.max_answer_bytes
        self._together = Together(collections.run, most_bytes, lanes, most)

    async def similar(self, request: SimilarRequest, call: Call) -> SimilarReply:
        """Answer every query; raises only what concerns the whole request."""
        self._check(request)
        collection = await self._collections.open(request.collection)
        metrics = self._collections.metrics.collections.of(collection.spec.name)
        try:
            reply = await self._answer(collection, request, call)
        except ServerError as error:
            if isinstance(error, NotFound):  # another process may have removed it
                self._collections.forget(collection.spec.name)
            metrics.search(error.code, call.elapsed())
            raise
        for result in reply.results:
            code = result.code if isinstance(result, ServerError) else "ok"
            metrics.search(code, call.elapsed())
        return reply

    async def _answer(
        self, collection: Collection, request: SimilarRequest, call: Call
    ) -> SimilarReply:
        if collection.spec.model is None:
            return await self._given(collection, request, call)
        try:
            lease = await self._collections.lease(collection, request.version, request.label)
        except (ModelNotReady, Conflict):
            if request.version is None and request.label is None and not _pictures(request):
                return await self._resting(collection, request, call)
            raise
        with lease:
            deployment = lease.deployment
            call.of(deployment.model, deployment.version, serving_of(deployment).metrics)
            due = call.due(deployment.config.batching.timeout_ms, self._settings.request_timeout_s)
            work = asyncio.ensure_future(
                self._through(collection, deployment, request, call, int(due * 1e6))
            )
            return await self._flights.wait(work, call, due)

    async def _through(
        self,
        collection: Collection,
        deployment: Deployment,
        request: SimilarRequest,
        call: Call,
        due_us: int,
    ) -> SimilarReply:
        bindings = self._collections.bindings
        try:
            space = await self._collections.space_of(collection, deployment)
        except Conflict:
            if _pictures(request) or request.version is not None or request.label is not None:
                raise
            return await self._resting(collection, request, call)
        await bindings.caught_up(collection, deployment)
        sought = await self._embedded(collection, deployment, request, call, due_us)
        found = await self._search(collection, space, sought, request.wanted, call)
        missing = bindings.missing(collection, deployment)
        return SimilarReply(
            collection.spec.name,
            deployment.model,
            deployment.version,
            space.key,
            missing,
            found.results,
            sum(found.no_thumbnail),
        )

    async def _embedded(
        self,
        collection: Collection,
        deployment: Deployment,
        request: SimilarRequest,
        call: Call,
        due_us: int,
    ) -> list[Sought]:
        """Put vectors in place of pictures."""
        pictures = _pictures(request)
        if not pictures:
            return [each for each in request.queries if not isinstance(each, PictureQuery)]
        timings: Timings = {}
        vectors = iter(
            await embed(
                deployment,
                [each.data for each in pictures],
                pool=self._collections.pool,
                priority=call.priority,
                due_us=due_us,
                timings=timings,
            )
        )
        for phase, seconds in timings.items():
            call.add(phase, seconds)
        metrics = self._collections.metrics.collections.of(collection.spec.name)
        metrics.phase("decode", sum(timings.get(phase, 0.0) for phase in _DECODE))
        metrics.phase("model", sum(timings.get(phase, 0.0) for phase in _MODEL))
        return [
            next(vectors) if isinstance(each, PictureQuery) else each for each in request.queries
        ]

    async def _given(
        self, collection: Collection, request: SimilarRequest, call: Call
    ) -> SimilarReply:
        """Search a collection without a model."""
        if request.version is not None or request.label is not None:
            raise InvalidInput(
                f"collection {collection.spec.name!r} has no model, and so no versions",
                field="version",
                expected="no version",
                got=request.version or request.label,
            )
        sought: list[Sought] = [
            no_model(collection) if isinstance(each, PictureQuery) else each
            for each in request.queries
        ]
        space = await self._collections.run(given_space, collection)
        return await self._bounded(collection, space, None, sought, request, call)

    async def _resting(
        self, collection: Collection, request: SimilarRequest, call: Call
    ) -> SimilarReply:
        """Search by item or vector without any version that is loaded."""
        space = await self._collections.run(self._collections.bindings.resting, collection)
        if space is None:
            raise not_loaded(collection)
        sought = [each for each in request.queries if not isinstance(each, PictureQuery)]
        return await self._bounded(collection, space, collection.spec.model, sought, request, call)

    async def _bounded(
        self,
        collection: Collection,
        space: Space | None,
        model: str | None,
        sought: Sequence[Sought],
        request: SimilarRequest,
        call: Call,
    ) -> SimilarReply:
        due = call.due(None, self._settings.request_timeout_s)
        work = asyncio.ensure_future(self._search(collection, space, sought, request.wanted, call))
        found = await self._flights.wait(work, call, due)
        key = None if space is None else space.key
        version = None if key is None or model is None else version_in(key)
        lacking = sum(found.no_thumbnail)
        return SimilarReply(collection.spec.name, model, version, key, 0, found.results, lacking)

    async def _search(
        self,
        collection: Collection,
        space: Space | None,
        sought: Sequence[Sought],
        wanted: Wanted,
        call: Call,
    ) -> Found:
        try:
            found = await self._together.search(collection, space, sought, wanted)
        except ServerError:
            raise
        except Exception as error:
            raise as_server_error(error, call.id) from error
        call.add("index", found.index_s)
        call.add("fetch", found.fetch_s)
        metrics = self._collections.metrics.collections.of(collection.spec.name)
        metrics.phase("index", found.index_s)
        metrics.phase("fetch", found.fetch_s)
        vectors = found.vectors if space is not None else None
        if space is not None and vectors is not None:
            self._collections.probe.offer(collection.spec.name, space, vectors, wanted.query)
        return found

    def _check(self, request: SimilarRequest) -> None:
        settings, wanted = self._settings, request.wanted
        count, reach = len(request.queries), wanted.query.offset + wanted.query.k
        if not 1 <= count <= settings.max_items:
            raise InvalidInput(
                f"send 1 to {settings.max_items} queries at a time, got {count}",
                field="queries",
                expected=f"1..{settings.max_items} queries",
                got=count,
            )
        if reach > settings.max_k:
            raise InvalidInput(
                f"`offset` + `k` may be {settings.max_k} at most, got {reach}; raise "
                "MILLRACE_MAX_K, or narrow the search with a filter",
                field="k",
                expected=f"at most {settings.max_k}",
                got=reach,
            )
        long = wanted.wants & {"thumbnail", "vector"}
        most = MAX_LONG_HITS if long else settings.max_k * MAX_QUERIES_OF_MOST
        if count > 1 and count * wanted.query.k > most:
            raise InvalidInput(
                f"{count} queries of {wanted.query.k} answers each are more than the {most} that "
                "one request may ask for; send fewer queries, or a smaller k",
                field="queries",
                expected=f"at most {most} answers",
                got=count * wanted.query.k,
            )


def _pictures(request: SimilarRequest) -> list[PictureQuery]:
    return [each for each in request.queries if isinstance(each, PictureQuery)]


def version_in(key: str) -> str | None:
    """Return the version that made a space, by its key."""
    maker = made_by(key)
    return None if maker is None else maker.version
