"""`millrace check`: load and golden-check everything, without serving."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from server.commands.common import console, errors, fail, settings_from, until_ready
from server.commands.models import table_of
from server.execution import WorkerPool
from server.metrics import Metrics
from server.repository.registry import Repository
from server.repository.status import ModelStatus, State
from server.serving import attachments
from server.settings import Settings


def check(
    repository: Annotated[Path | None, typer.Argument(help="Folder of models.")] = None,
) -> None:
    """Load and golden-check every version that would be served; status 1 if any fails."""
    settings = settings_from(repository=repository, watch=False)
    if not settings.repository.is_dir():
        fail(f"the repository {settings.repository} is not a folder", 2)
    with errors.status("loading"):
        found = asyncio.run(_load_all(settings))
    console.print(table_of([asdict(status) for status in found]))
    failed = [status.name for status in found if not is_fine(status)]
    if failed:
        fail(f"{len(failed)} of {len(found)} models cannot be served: {', '.join(failed)}")
    console.print(f"{len(found)} models can be served")


def is_fine(status: ModelStatus) -> bool:
    """Say whether a model serves, and nothing of it failed."""
    states = {version.state for version in status.versions}
    return status.error is None and State.READY in states and State.FAILED not in states


async def _load_all(settings: Settings) -> list[ModelStatus]:
    pool = WorkerPool(settings.worker_threads)
    metrics = Metrics()
    repository = Repository(settings, metrics, attachments(pool, metrics, settings))
    try:
        await repository.start()
        await until_ready(lambda: repository.ready)
        return repository.status()
    finally:
        await repository.stop()
        await asyncio.to_thread(pool.close)
