"""A repository that serves, and ways to wait for what it should come to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from server.metrics import Metrics
from server.repository import Attachment, Repository, State
from server.settings import Settings
from tests.server.repository.models import WIDTH

PATIENCE_S = 300.0


@asynccontextmanager
async def serving(
    root: Path, attachments: Sequence[Attachment] = (), **settings: object
) -> AsyncIterator[Repository]:
    """Start a repository, wait until it is ready, and stop it at the end."""
    defaults = {"isolate": False, "settle_s": 0.0, "watch": False, "reconcile_s": 600.0}
    defaults["load_timeout_s"] = 500.0  # children stand back behind everything else
    repository = Repository(
        Settings(repository=root, **{**defaults, **settings}), Metrics(), attachments
    )
    await repository.start()
    try:
        await until(lambda: repository.ready)
        yield repository
    finally:
        await repository.stop()
        assert repository.deployments() == []


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact; fail when it does not come."""
    async with asyncio.timeout(PATIENCE_S):
        while not fact():
            await asyncio.sleep(0.005)


def answer(repository: Repository, model: str = "m", **how: str) -> tuple[str, float]:
    """Return which version answers, and what it makes of 1."""
    with repository.lease(model, **how) as lease:
        y = lease.deployment.engine_model.run({"x": np.ones((1, WIDTH), np.float32)})["y"]
        return lease.deployment.version, float(y[0, 0])


def states(repository: Repository, model: str = "m") -> dict[str, State]:
    """Return the state of every version of a model."""
    return {entry.version: entry.state for entry in repository.index() if entry.name == model}


def reason(repository: Repository, version: str, model: str = "m") -> str:
    """Return why a version is not served."""
    found = {entry.version: entry.reason for entry in repository.index() if entry.name == model}
    return found[version] or ""
