"""`millrace profile`: where a model's time goes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from server.commands.common import console, settings_from, told, until_ready
from server.errors import InvalidInput, ModelNotFound
from server.metrics import Metrics
from server.repository.deployment import Deployment
from server.repository.layout import natural_sorted
from server.repository.registry import Repository
from server.repository.scan import scan_repository
from server.repository.warmup import zeros
from server.settings import Settings


def profile(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="Default: the one served.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the batch.")] = 1,
    repository: Annotated[Path | None, typer.Option(help="Folder of models.")] = None,
) -> None:
    """Run a model once on zeros and print the time of each of its nodes."""
    settings = settings_from(repository=repository, watch=False)
    with told():
        report = asyncio.run(_profile(settings, model, version, rows))
    console.print(report, highlight=False, soft_wrap=True)


async def _profile(settings: Settings, model: str, version: str | None, rows: int) -> str:
    # The other models need not be compiled for it.
    known = await asyncio.to_thread(scan_repository, settings.repository, settings.state_dir)
    if model not in known:
        names = ", ".join(natural_sorted(known)) or "none"
        raise ModelNotFound(f"there is no model {model!r}; the repository has: {names}")
    repository = Repository(settings, Metrics(), only=model)
    try:
        await repository.start()
        await until_ready(lambda: repository.ready)
        with repository.lease(model, version) as lease:
            return await asyncio.to_thread(_run, lease.deployment, rows)
    finally:
        await repository.stop()


def _run(deployment: Deployment, rows: int) -> str:
    loaded = deployment.engine_model
    batched = loaded.batch.inputs if loaded.batch is not None else frozenset[str]()
    feeds = zeros(loaded.inputs, batched, rows)
    if feeds is None:
        raise InvalidInput(
            f"model {deployment.model!r} has inputs that zeros may not suit; profile it with "
            "`python -m engine profile` and feeds of your own"
        )
    loaded.run(feeds)  # the first run pays for what later ones find ready
    return str(loaded.profile(feeds))
