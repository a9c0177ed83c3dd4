"""A repository whose collections move with their models, without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.errors import NotFound
from server.execution import WorkerPool
from server.index.contract import Collection, CollectionSpec, NewItem, Query, Store
from server.metrics import Metrics
from server.repository import Repository
from server.serving import attachments
from server.settings import Settings
from server.similarity.attachment import SimilarityAttachment
from server.similarity.bindings import Bindings
from server.similarity.embedding import embed, embedding_space
from tests.server.repository.serving import until
from tests.server.similarity.memory import MemoryStore
from tests.server.similarity.nets import png


@dataclass
class Moving:
    repository: Repository
    bindings: Bindings
    store: Store
    pool: WorkerPool
    metrics: Metrics

    def collection(self, name: str = "c", model: str = "eyes") -> Collection:
        with contextlib.suppress(NotFound):
            return self.store.open(name)
        return self.store.create(CollectionSpec(name, model=model))

    async def add(self, seeds: Iterable[int], name: str = "c", version: str | None = None) -> None:
        """Put pictures in, as a request does."""
        collection = self.collection(name)
        pictures = [png(seed) for seed in seeds]
        version = version or self.bindings.version_for(collection)
        with self.repository.lease(collection.spec.model, version) as lease:
            vectors = await embed(lease.deployment, pictures, pool=self.pool)
            space = self.bindings.resolve(collection, lease.deployment)
            items = [
                NewItem(str(seed), picture=data) for seed, data in zip(seeds, pictures, strict=True)
            ]
            collection.put(items, {space.key: np.stack(vectors)})
            self.bindings.changed(collection, lease.deployment)

    async def nearest(
        self, seed: int, name: str = "c", version: str | None = None, k: int = 1
    ) -> tuple[str, list[str]]:
        """Search by a picture; returns the version that answered and the ids."""
        collection = self.collection(name)
        version = version or self.bindings.version_for(collection)
        with self.repository.lease(collection.spec.model, version) as lease:
            [vector] = await embed(lease.deployment, [png(seed)], pool=self.pool)
            await self.bindings.caught_up(collection, lease.deployment)
            space = self.bindings.resolve(collection, lease.deployment)
            [hits] = space.search(vector[None], Query(k))
            return lease.deployment.version, [hit.id for hit in hits]

    def key(self, version: str, model: str = "eyes") -> str:
        with self.repository.lease(model, version) as lease:
            name = embedding_space(lease.deployment)
            assert name is not None
            return name.key

    async def serves(self, version: str, model: str = "eyes") -> None:
        await self.repository.refresh()
        await until(lambda: self.default(model) == version)

    def default(self, model: str = "eyes") -> str | None:
        return next((d.version for d in self.repository.defaults() if d.model == model), None)


@asynccontextmanager
async def moving(root: Path, store: Store | None = None, **more: object) -> AsyncIterator[Moving]:
    """Start a repository with collections in memory."""
    defaults = {"isolate": False, "settle_s": 0.0, "watch": False, "reconcile_s": 600.0}
    settings = Settings(repository=root, worker_threads=2, **{**defaults, **more})
    store = store if store is not None else MemoryStore()
    pool, metrics = WorkerPool(2), Metrics()
    bindings = Bindings(lambda: store, metrics.collections)
    binding = SimilarityAttachment(bindings, pool, poll_s=0.05)
    repository = Repository(settings, metrics, (*attachments(pool, metrics, settings), binding))
    await repository.start()
    try:
        await until(lambda: repository.ready)
        yield Moving(repository, bindings, store, pool, metrics)
    finally:
        await repository.stop()
        await asyncio.to_thread(pool.close)
        assert bindings.live == {} and bindings.moves == {}
