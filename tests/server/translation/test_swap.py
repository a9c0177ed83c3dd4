"""Translation models through the repository: swaps under load, and what a broken one changes."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.errors import LoadFailed
from server.execution import WorkerPool
from server.metrics import Metrics
from server.repository import Repository, State
from server.serving import attachments, serving_of
from server.settings import Settings
from server.translation.attachment import loop_of
from server.translation.documents import Order
from tests.server.repository.serving import states, until
from tests.server.shouting import (
    LETTERS,
    MODELS,
    shouted,
    shouting_models,
    write_sample,
    write_shouting,
)

TOML = "[translation]\nrows = 8\nsources = 8\n"


@asynccontextmanager
async def serving(root) -> AsyncIterator[tuple[Repository, Metrics]]:
    settings = Settings(
        repository=root, isolate=False, settle_s=0.0, watch=False, reconcile_s=600.0
    )
    metrics = Metrics()
    pool = WorkerPool(1)
    repository = Repository(settings, metrics, attachments(pool, metrics, settings))
    with shouting_models():
        await repository.start()
        try:
            await until(lambda: repository.ready)
            yield repository, metrics
        finally:
            await repository.stop()
            pool.close()


async def translate(repository: Repository, text: str) -> tuple[str, str]:
    """Return which version answered, and what."""
    with repository.lease("shout") as lease:
        deployment = lease.deployment
        serving = serving_of(deployment)
        options = serving.task.options(serving.task.parameters({}))
        found = await serving.translator.translate(text, options, Order())
        return deployment.version, found.text


async def swap(repository: Repository, root, version: str) -> None:
    write_shouting(root, version=version)
    await repository.refresh()
    await repository.wait_loaded("shout", version)


async def test_a_swap_under_load_loses_no_sentence(tmp_path):
    write_shouting(tmp_path, model_toml=TOML)
    rng = random.Random(5)
    answers: list[tuple[str, bool]] = []
    over = False
    async with serving(tmp_path) as (repository, metrics):

        async def client() -> None:
            while not over:
                letters = rng.choices(LETTERS[:30], k=rng.randint(1, 40))
                version, text = await translate(repository, "".join(letters))
                answers.append((version, text == shouted("".join(letters))))

        clients = [asyncio.create_task(client()) for _ in range(30)]
        for version in ("2", "3"):
            seen = len(answers)
            await until(lambda seen=seen: len(answers) > seen + 60)
            await swap(repository, tmp_path, version)
        seen = len(answers)
        await until(lambda: len(answers) > seen + 60)
        over = True
        await asyncio.gather(*clients)
        assert {version for version, _ in answers} == {"1", "2", "3"}
        assert all(right for _, right in answers)
        for version in ("1", "2"):
            await until(lambda v=version: states(repository, "shout")[v] is State.UNLOADED)
        text = metrics.render().decode()
        assert 'millrace_sentences_total{model="shout",outcome="ok",version="3"}' in text
        assert 'version="1"' not in text  # its series went with it
        assert metrics.models["shout", "3"].translation is not None


async def test_a_running_sentence_finishes_on_its_version(tmp_path):
    write_shouting(tmp_path, model_toml=TOML)
    async with serving(tmp_path) as (repository, _):
        old = MODELS["shout"]
        old.gate.clear()
        held = asyncio.create_task(translate(repository, "lang und breit"))
        await until(lambda: loop_of(repository.deployments()[0])._loop.loops[0].rows)
        await swap(repository, tmp_path, "2")
        assert await translate(repository, "kurz") == ("2", "KURZ")
        assert states(repository, "shout") == {"1": State.DRAINING, "2": State.READY}
        assert not old.closed
        old.gate.set()
        assert await held == ("1", "LANG UND BREIT")
        await until(lambda: states(repository, "shout")["1"] is State.UNLOADED)
        assert old.closed
        assert old.decoders[0].free_rows == 8


async def test_a_version_with_wrong_samples_changes_nothing(tmp_path):
    write_shouting(tmp_path, model_toml=TOML)
    async with serving(tmp_path) as (repository, _):
        folder = write_shouting(tmp_path, version="2")
        write_sample(folder, "hello", text="hallo", translation="HELLO")
        await repository.refresh()
        with pytest.raises(LoadFailed, match="HELLO"):
            await repository.wait_loaded("shout", "2")
        assert await translate(repository, "da") == ("1", "DA")
        assert MODELS["shout"].closed  # the one that failed


async def test_known_sentences_are_forgotten_with_their_version(tmp_path):
    write_shouting(tmp_path, model_toml=TOML)
    async with serving(tmp_path) as (repository, metrics):
        for _ in range(3):
            await translate(repository, "immer das gleiche")
        assert metrics.models["shout", "1"].translation.lookups == {"miss": 1, "hit": 2}
        await swap(repository, tmp_path, "2")
        await translate(repository, "immer das gleiche")
        assert metrics.models["shout", "2"].translation.lookups == {"miss": 1}
