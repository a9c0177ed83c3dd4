"""Pictures that can be learned from, and a teacher over a repository that serves."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from server.execution import WorkerPool
from server.learning.examples import Example
from server.learning.orders import Order, Step, Taught
from server.learning.teacher import Teacher
from server.metrics import Metrics
from server.repository import Repository
from server.serving import attachments
from server.settings import Settings
from tests.server.repository.serving import until

SIDE = 8


def picture(kind: int, seed: int = 0, noise: float = 30.0) -> bytes:
    """Return a picture of a class: each has a bright corner of its own, in noise."""
    random = np.random.default_rng([kind, seed])
    pixels = random.normal(90, noise, (SIDE, SIDE, 3))
    row, column = divmod(kind, 2)
    pixels[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4, kind % 3] += 130
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def examples(classes: int = 3, each: int = 4, start: int = 0) -> list[Example]:
    return [
        Example.of(f"{kind}/{seed}.png", f"kind {kind}", picture(kind, seed))
        for kind in range(classes)
        for seed in range(start, start + each)
    ]


@asynccontextmanager
async def teaching(root: Path, **settings: object) -> AsyncIterator[tuple[Teacher, Repository]]:
    """Give a teacher, without a server around it."""
    how = Settings(
        repository=root,
        **{
            "isolate": False,
            "settle_s": 0.0,
            "watch": False,
            "reconcile_s": 600.0,
            "device": "reference",
            **settings,
        },
    )
    pool, metrics = WorkerPool(2), Metrics()
    repository = Repository(how, metrics, attachments(pool, metrics, how))
    await repository.start()
    try:
        await until(lambda: repository.ready)
        yield Teacher(repository, pool), repository
    finally:
        await repository.stop()
        pool.close()


async def taught(teacher: Teacher, order: Order) -> tuple[list[Step], Taught]:
    told: Sequence[Step | Taught] = [each async for each in teacher.teach(order)]
    *steps, last = told
    assert isinstance(last, Taught)
    return [step for step in steps if isinstance(step, Step)], last
