"""The collections of a server: opened once, made, described and removed.

What blocks runs in threads of its own (`StoreThreads`), so that a slow disk or database holds up
neither the event loop nor the decoding of pictures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar, TypeVarTuple

from server.errors import InvalidInput, ModelNotReady, NotFound, ServerError, VersionNotFound
from server.execution import WorkerPool
from server.index.checks import check_name, check_vectors, shown
from server.index.contract import Collection, CollectionSpec, Size, Space, Store, Vector
from server.metrics import Metrics
from server.preprocessing import ImageLimits
from server.repository.deployment import Deployment, Lease
from server.repository.registry import Repository
from server.settings import Settings
from server.similarity.bindings import Bindings
from server.similarity.embedding import embedding_task
from server.similarity.probe import Probe
from server.similarity.stores import Stores, StoreThreads

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

GIVEN = "given"  # the space of vectors that came ready-made
DIM = "dim"  # the fact that remembers how long they are
REOPEN_S = 1.0  # after which another process may have put a collection in one's place
USUAL_MODEL = "objects"  # whose vectors a collection gets that names no model


class Collections:
    """What requests on collections share; every method is called on the event loop."""

    def __init__(
        self,
        settings: Settings,
        pool: WorkerPool,
        metrics: Metrics,
        repository: Repository,
        stores: Stores,
        bindings: Bindings,
    ) -> None:
        """Open nothing yet."""
        self.settings = settings
        self.pool = pool
        self.metrics = metrics
        self.repository = repository
        self.stores = stores
        self.bindings = bindings
        self.threads = StoreThreads()
        self.probe = Probe(metrics.collections, settings.recall_probe_share)
        self.image_limits = ImageLimits(settings.max_body_bytes, settings.max_image_pixels)
        self._open: dict[str, tuple[float, Collection]] = {}  # and when it was last opened

    async def run(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        """Call what blocks in one of the stores' threads."""
        return await self.threads.run(fn, *args)

    async def open(self, name: str | None) -> Collection:
        """Return a collection; without a name, the only one.

        Raises:
            NotFound: there is none of that name.
            InvalidInput: no name, and several collections.
        """
        if name is None:
            name = await self._only()
        opened_s, known = self._open.get(name, (0.0, None))
        lasts_s = REOPEN_S if self.stores.is_database else float("inf")
        if known is not None and time.monotonic() - opened_s < lasts_s:
            return known
        try:
            found = await self.run(self._opened, name)
        except NotFound:
            self.forget(name)
            raise
        if known is not None and found is not known:  # what is remembered is of the other one
            self.forget(name)
        self._open[name] = time.monotonic(), found
        return found

    async def create(self, spec: CollectionSpec) -> Collection:
        """Make a collection.

        Raises:
            Conflict: there is one of that name.
            InvalidInput: the name, or its model has no embedding.
            ModelNotFound: there is no such model.
        """
        check_name(spec.name)
        if spec.model is not None:
            self._check_model(spec.model)
        made = await self.run(lambda: self.stores.for_writing().create(spec))
        self.forget(spec.name)
        self._open[spec.name] = time.monotonic(), made
        return made

    async def names(self) -> list[str]:
        """Return the names of all collections."""
        store = await self.run(self.stores.existing)
        return [] if store is None else await self.run(store.names)

    async def drop(self, name: str) -> None:
        """Remove a collection and all it holds."""
        await self.open(name)  # or there is none
        self.forget(name)
        store = await self.store()
        await self.run(store.drop, name)
        self.forget(name)  # again: a request may have opened it in between
        self.probe.forget(name)
        self.metrics.collections.drop(name)

    async def describe(self, name: str) -> dict[str, Any]:
        """Return what a collection is, how much it holds, and how it is searched."""
        collection = await self.open(name)
        spec = collection.spec
        size, status, space = await self.run(self._looked_up, collection)
        space = await self._answering(collection) or space
        self.metrics.collections.of(name).holds(size.items, size.bytes)
        return {
            "name": spec.name,
            "model": spec.model,
            "metric": spec.metric,
            "count": size.items,
            "pictures": size.pictures,
            "bytes": size.bytes,
            **status,
            "dim": None if space is None else space.dim,
            "index": None if space is None else asdict(await self.run(space.state)),
        }

    async def looked_at(self, collection: Collection) -> Space | None:
        """Return the space to look at without a query of a certain version."""
        if collection.spec.model is None:
            return await self.run(given_space, collection)
        answering = await self._answering(collection)
        return answering or await self.run(self.bindings.resting, collection)

    def forget(self, name: str) -> None:
        """Open a collection anew the next time: another process may have removed it."""
        self._open.pop(name, None)
        self.bindings.forget(name)

    async def store(self) -> Store:
        """Return the store that there is.

        Raises:
            NotFound: there is none, since there is no collection.
        """
        store = await self.run(self.stores.existing)
        if store is None:
            raise NotFound("there are no collections yet; make one with POST /collections")
        return store

    async def close(self) -> None:
        """Finish what runs, and close the store."""
        await self.probe.close()
        await asyncio.to_thread(self.threads.close)
        await asyncio.to_thread(self.stores.close)

    # Which model

    async def lease(
        self, collection: Collection, version: str | None = None, label: str | None = None
    ) -> Lease:
        """Take a lease on the version that embeds for a collection.

        The last thing that it does, so that whoever is cancelled meanwhile holds none.

        Raises:
            ModelNotReady, VersionNotFound: it is not loaded.
            Conflict: the collection is pinned to a version that is not loaded.
        """
        if version is not None or label is not None:
            return self.repository.lease(collection.spec.model, version, label)
        if not self.bindings.knows_pin_of(collection):
            await self.run(self.bindings.pin_of, collection)
        pinned = self.bindings.version_for(collection)
        try:
            return self.repository.lease(collection.spec.model, pinned)
        except (ModelNotReady, VersionNotFound) as error:
            pin = self.bindings.pin_of(collection)
            if pin is None:
                raise
            raise self.bindings.unavailable(collection, pin) from error

    async def space_of(self, collection: Collection, deployment: Deployment) -> Space:
        """Return the space of a deployment's vectors; the caller holds a lease on it.

        Raises:
            Conflict: as `Bindings.resolve`.
        """
        resolve = self.bindings.resolve
        if self.bindings.knows_space_of(collection, deployment):
            return resolve(collection, deployment)
        return await self.run(resolve, collection, deployment)

    def usual_model(self) -> str:
        """Return the model of a collection that names none.

        Raises:
            InvalidInput: several models could be meant, or none can.
        """
        names = [each.model for each in self.repository.defaults() if embedding_task(each)]
        if USUAL_MODEL in names:
            return USUAL_MODEL
        if len(names) == 1:
            return names[0]
        raise InvalidInput(
            "name the `model` that embeds the collection's pictures, or the `dim` of ready-made "
            f"vectors; models with an embedding: {', '.join(names[:20]) or 'none'}",
            field="model",
            expected=names[:20],
            got=None,
        )

    def _check_model(self, name: str) -> None:
        self.repository.model(name)
        for deployment in self.repository.defaults():
            if deployment.model == name and embedding_task(deployment) is None:
                raise InvalidInput(
                    f"model {name!r} has no embedding; name its value under [embedding] in its "
                    "model.toml, or take another model",
                    field="model",
                    expected="a model with an embedding",
                    got=name,
                )

    async def _answering(self, collection: Collection) -> Space | None:
        """Return the space that pictures are searched in now."""
        if collection.spec.model is None:
            return None
        try:
            with await self.lease(collection) as lease:
                return await self.space_of(collection, lease.deployment)
        except ServerError:  # told by the status
            return None

    # Blocking

    def _opened(self, name: str) -> Collection:
        store = self.stores.existing()
        if store is None:
            raise NotFound(f"there is no collection {name[:100]!r}: there are none yet")
        return store.open(name)

    def _looked_up(self, collection: Collection) -> tuple[Size, dict[str, Any], Space | None]:
        size = collection.size()
        if collection.spec.model is None:
            return size, {}, given_space(collection)
        return size, self.bindings.status(collection), self.bindings.resting(collection)

    async def _only(self) -> str:
        names = await self.names()
        if len(names) == 1:
            return names[0]
        if not names:
            raise NotFound("there are no collections yet; make one with POST /collections")
        raise InvalidInput(
            f"name the `collection`; there are: {', '.join(names[:20])}",
            field="collection",
            expected=names[:20],
            got=None,
        )


def given_space(collection: Collection, dim: int | None = None) -> Space | None:
    """Return the space of ready-made vectors; None while there are none. Blocking.

    Args:
        collection: one without a model.
        dim: how long the vectors are that are to be put in; None: for looking only.

    Raises:
        InvalidInput: they have another length than those that are there.
    """
    known = collection.spec.dim
    if known is None:
        remembered = collection.fact(DIM)
        known = int(remembered) if remembered else None
    if known is None and dim is not None:
        collection.set_fact(DIM, str(dim))
        known = dim
    if known is None:
        return None
    if dim is not None and dim != known:
        raise wrong_length(collection, known, dim)
    return collection.space(GIVEN, known)


def wrong_length(collection: Collection, expected: int, got: int) -> InvalidInput:
    """Return the error of a vector that does not fit."""
    return InvalidInput(
        f"vectors of collection {shown(collection.spec.name)} have {expected} numbers, got {got}",
        field="vector",
        expected=f"{expected} numbers",
        got=got,
    )


def checked_row(collection: Collection, space: Space, vector: Vector) -> Vector | InvalidInput:
    """Return a vector (dim,) as the space takes it, or the error of one that does not fit."""
    if vector.shape != (space.dim,):
        return wrong_length(collection, space.dim, len(vector))
    try:
        row: Vector = check_vectors(vector[None], 1, space.dim, collection.spec.metric)[0]
    except InvalidInput as error:
        return error
    return row


def no_model(collection: Collection) -> InvalidInput:
    """Return the error of a picture in a collection of ready-made vectors."""
    return InvalidInput(
        f"collection {shown(collection.spec.name)} has no model to embed pictures with; send "
        "vectors, or make a collection with a model",
        field="image",
        expected="a vector",
        got="a picture",
    )


def not_loaded(collection: Collection) -> ModelNotReady:
    """Return the error of a search that no loaded version and no space can answer."""
    return ModelNotReady(
        f"model {shown(collection.spec.model)} of collection {shown(collection.spec.name)} is not "
        "loaded, and no space of it is complete; see GET /models"
    )
