"""Pictures to the base model's features: of all examples, and of a few golden ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from server.errors import Conflict, InvalidInput, QueueFull, ServerError
from server.execution import WorkerPool
from server.learning.examples import Example, Lesson
from server.learning.kept import Base
from server.learning.version_folder import Golden, golden_pictures
from server.repository.deployment import Deployment
from server.similarity.embedding import embed, embedding_task
from server.tasks import ImageItem

PRIORITY: Final = -5  # behind requests
WAIT_S: Final = 0.1


async def with_features(
    base: Deployment,
    examples: Sequence[Example],
    pool: WorkerPool,
    failed: list[tuple[str, str]],
) -> list[Example]:
    """Return the examples with features; those that cannot be read go to `failed`, with why."""
    todo = [k for k, each in enumerate(examples) if each.features is None]
    pictures = [examples[k].data or b"" for k in todo]
    found = await embed(
        base, pictures, pool=pool, priority=PRIORITY, normalized=False, patient=True
    )
    result: list[Example | None] = list(examples)
    for k, vector in zip(todo, found, strict=True):
        if isinstance(vector, ServerError):
            failed.append((examples[k].name, vector.message))
            result[k] = None
        elif not np.isfinite(vector).all():
            failed.append((examples[k].name, "its features are not finite"))
            result[k] = None
        else:
            result[k] = replace(examples[k], features=vector)
    return [each for each in result if each is not None]


async def golden_rows(base: Deployment, lesson: Lesson, pool: WorkerPool) -> Golden | None:
    """Run a few of the pictures through the base, as the new version will have to."""
    pictures = golden_pictures(lesson)
    task = embedding_task(base)
    if not pictures or task is None:
        return None
    if base.engine_model.batch is None:
        pictures = pictures[:1]
    run, parameters, output = base.engine_model.run, task.parameters({}), task.output

    def work() -> Golden:
        prepared = [task.prepare(ImageItem(data), parameters).inputs for data in pictures]
        inputs = {name: np.concatenate([p[name] for p in prepared]) for name in prepared[0]}
        return Golden(inputs, run(inputs, fetches=[output])[output])

    while True:
        try:
            return await pool.run(work)
        except QueueFull as error:  # what is learned can wait
            await asyncio.sleep(float(error.extra.get("retry_after_s", WAIT_S)))


def without_features(example: Example, base: Base) -> Example:
    """Take the features off an example, since they are another version's.

    Raises:
        Conflict: they cannot be made again, since its picture was not kept.
    """
    if example.data is None:
        raise Conflict(
            f"the base model has changed since version {base.version!r} of {base.model!r}, and "
            f"picture {example.name!r} was not kept; name `base_version`: {base.version!r} if it "
            "is loaded, or send all pictures anew to the base model",
            model=base.model,
            version=base.version,
        )
    return replace(example, features=None)


def no_embedding(base: Deployment) -> InvalidInput:
    """Return the error of a base model that has no features to learn from."""
    return InvalidInput(
        f"model {base.model!r} has no embedding of pictures; name a value of its graph, with one "
        "vector per picture, under [embedding] output in its model.toml (and how pictures are "
        "prepared under [preprocess]), or take another model",
        field="base",
        expected="a model with an embedding",
        got=base.model,
    )
