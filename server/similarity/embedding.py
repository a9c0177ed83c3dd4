"""Pictures to vectors, through a deployment's own batcher like any other request.

What searches, fills and learns stands on `embed`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from server.batching import Work, WorkResult
from server.errors import ModelNotReady, QueueFull, ServerError
from server.execution import WorkerPool, as_server_error
from server.index.contract import Vector
from server.metrics import ModelMetrics, Phase
from server.repository.deployment import Deployment
from server.serving import NAME as SERVING
from server.serving import Serving, serving_of
from server.similarity.spaces import SpaceName, space_key
from server.tasks import ImageItem, Prepared
from server.tasks.embedding import EmbeddingTask

Timings = dict[str, float]  # phase -> seconds, summed over the pictures

GROUP_PICTURES = 16  # decoded by one job of a worker
GROUP_BYTES = 256 * 1024
IN_FLIGHT = 128  # pictures of one call that are decoded or queued at a time
LEAST_WAIT_S = 0.02
# 8 x 8 black pixels, in the plainest of formats.
_BLACK = b"P6 8 8 255\n" + bytes(8 * 8 * 3)
_PHASES = {"decode": Phase.DECODE, "preprocess": Phase.PREPROCESS}

logger = logging.getLogger("millrace.similarity")


_names: WeakKeyDictionary[Deployment, SpaceName | None] = WeakKeyDictionary()


def embedding_space(deployment: Deployment) -> SpaceName | None:
    """Return the space of a deployment's vectors; None if it makes no vectors of pictures.

    The first call for a deployment reads its files and runs it once, on a black picture; the
    attachment makes it off the event loop. All further ones are free.
    """
    task = embedding_task(deployment)
    if task is None:
        return None
    if deployment not in _names:
        dim = _measured_dim(deployment, task)
        made = None if dim is None else SpaceName(space_key(deployment, task.output), dim)
        _names[deployment] = made
    return _names[deployment]


def embedding_task(deployment: Deployment) -> EmbeddingTask | None:
    """Return the task that makes a deployment's vectors; None if it has none."""
    if SERVING not in deployment.attachments:
        return None
    serving = serving_of(deployment)
    task = serving.tasks.get(EmbeddingTask.name) if isinstance(serving, Serving) else None
    return task if isinstance(task, EmbeddingTask) else None


def _measured_dim(deployment: Deployment, task: EmbeddingTask) -> int | None:
    # Most values that can be named are inside of the graph, where no declared shape is at hand.
    try:
        prepared = task.prepare(ImageItem(_BLACK), task.parameters({}))
        outputs = deployment.engine_model.run(prepared.inputs, fetches=list(task.fetches or ()))
        vectors, _ = task.vectors(outputs, normalized=False)
    except Exception as error:
        logger.info(
            "model %s version %s makes no vectors of pictures: %s",
            deployment.model,
            deployment.version,
            as_server_error(error).message,
        )
        return None
    return int(vectors.shape[1])


async def embed(
    deployment: Deployment,
    pictures: Sequence[bytes],
    *,
    pool: WorkerPool,
    priority: int = 0,
    due_us: int | None = None,
    normalized: bool | None = None,
    patient: bool = False,
    timings: Timings | None = None,
) -> list[Vector | ServerError]:
    """Return the vector (dim,) of each picture, or why there is none.

    The caller holds a lease on the deployment. At most `IN_FLIGHT` pictures are under way at a
    time; cancelling the call drops those that have not begun.

    Args:
        deployment: whose vectors.
        pictures: the files' bytes.
        pool: where they are decoded.
        priority: from -9, can wait, to 9.
        due_us: on the batcher's clock; what is not done by then has failed.
        normalized: to length 1; None: as the model is configured.
        patient: wait while queues are full, instead of failing.
        timings: gets the seconds of decode, preprocess, queue, batch and compute added.

    Raises:
        ModelNotReady: the deployment makes no vectors.
    """
    task = embedding_task(deployment)
    if task is None:
        raise ModelNotReady(f"model {deployment.model!r} has no embedding")
    serving = serving_of(deployment)
    assert isinstance(serving, Serving)  # one with an embedding task is
    scale = task.normalizes if normalized is None else normalized
    run = _Run(serving, task, pool, priority, due_us, scale, patient, timings)
    return await run.all(pictures)


@dataclass(slots=True)
class _Run:
    """One call of `embed` on its way."""

    serving: Serving
    task: EmbeddingTask
    pool: WorkerPool
    priority: int
    due_us: int | None
    normalized: bool
    patient: bool
    timings: Timings | None
    slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(IN_FLIGHT // GROUP_PICTURES)
    )

    async def all(self, pictures: Sequence[bytes]) -> list[Vector | ServerError]:
        if len(pictures) == 1:
            return await self.group(pictures)
        async with asyncio.TaskGroup() as tasks:
            groups = [tasks.create_task(self.next_group(each)) for each in _groups(pictures)]
        return [vector for group in groups for vector in group.result()]

    async def next_group(self, pictures: Sequence[bytes]) -> list[Vector | ServerError]:
        async with self.slots:
            return await self.group(pictures)

    async def group(self, pictures: Sequence[bytes]) -> list[Vector | ServerError]:
        """Decode some pictures in one job, then queue them one by one."""
        try:
            prepared = await self.decoded(pictures)
        except ServerError as error:
            return [error] * len(pictures)
        if len(prepared) == 1:
            return [await self.vector(prepared[0])]
        return await asyncio.gather(*[self.vector(each) for each in prepared])

    async def decoded(self, pictures: Sequence[bytes]) -> list[Prepared | ServerError]:
        while True:
            try:
                return await self.pool.run(_prepare, self.task, pictures)
            except QueueFull as error:
                await self.wait_for_room(error)

    async def vector(self, prepared: Prepared | ServerError) -> Vector | ServerError:
        if isinstance(prepared, ServerError):
            return prepared
        try:
            return self.finish(await self.result(prepared))
        except ServerError as error:
            return error

    async def result(self, prepared: Prepared) -> WorkResult:
        metrics = self.serving.metrics
        for phase, seconds in prepared.timings.items():
            self.took(phase, seconds, metrics)
        work = Work(prepared.inputs, prepared.rows, self.task.fetches, self.due_us, self.priority)
        while True:
            try:
                return await self.serving.batcher.submit(work)
            except QueueFull as error:
                await self.wait_for_room(error)

    async def wait_for_room(self, error: QueueFull) -> None:
        if not self.patient:
            raise error
        await asyncio.sleep(max(LEAST_WAIT_S, float(error.extra.get("retry_after_s", 0.0))))

    def finish(self, result: WorkResult) -> Vector:
        self.took("queue", result.queue_us * 1e-6)
        self.took("batch", result.batch_us * 1e-6)
        self.took("compute", result.compute_us * 1e-6)
        vectors, _ = self.task.vectors(result.outputs, normalized=self.normalized)
        return np.array(vectors[0], np.float32)  # a copy: the batch's memory is not kept

    def took(self, phase: str, seconds: float, metrics: ModelMetrics | None = None) -> None:
        if metrics is not None:
            metrics.observe(_PHASES[phase], seconds)
        if self.timings is not None:
            self.timings[phase] = self.timings.get(phase, 0.0) + seconds


def _prepare(task: EmbeddingTask, pictures: Sequence[bytes]) -> list[Prepared | ServerError]:
    parameters = task.parameters({})
    found: list[Prepared | ServerError] = []
    for data in pictures:
        try:
            found.append(task.prepare(ImageItem(data), parameters))
        except ServerError as error:
            found.append(error)
        except Exception as error:  # of one picture only; the others go on
            logger.exception("a picture could not be prepared")
            found.append(as_server_error(error))
    return found


def _groups(pictures: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut into runs of a few pictures, small enough for one job of a worker."""
    start, held = 0, 0
    for place, data in enumerate(pictures):
        if place > start and (place - start >= GROUP_PICTURES or held + len(data) > GROUP_BYTES):
            yield pictures[start:place]
            start, held = place, 0
        held += len(data)
    if start < len(pictures):
        yield pictures[start:]
