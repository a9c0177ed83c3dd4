from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.batching import monotonic_us
from server.errors import DeadlineExceeded, ModelNotReady, QueueFull, UnsupportedMedia
from server.settings import Settings
from server.similarity.embedding import embed, embedding_space, embedding_task
from tests.server.running import RunningServer, running_server
from tests.server.similarity.nets import add_eyes, png, vector_of
from tests.server.zoo import add_echo, add_features


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("eyes")
    add_eyes(root)
    add_eyes(root, "1", "wide", dim=9)
    add_echo(root, "echo")
    add_features(root)
    settings = Settings(repository=root, isolate=False, watch=False, settle_s=0.0, worker_threads=2)
    with running_server(settings) as running:
        yield running


def on(server, model, work):
    """Run `work(deployment, pool)` on the server's loop, with a lease."""

    async def leased():
        handlers = server.app.runtime.handlers
        with handlers.repository.lease(model) as lease:
            return await work(lease.deployment, handlers.pool)

    return server.on_loop(leased)


def vectors(server, pictures, model="eyes", **options):
    return on(server, model, lambda d, pool: embed(d, pictures, pool=pool, **options))


def test_vectors_are_those_of_numpy(server):
    pictures = [png(seed) for seed in range(40)]
    got = vectors(server, pictures)
    expected = [vector_of(data) for data in pictures]
    np.testing.assert_allclose(np.stack(got), np.stack(expected), atol=2e-5)
    assert got[0].dtype == np.float32 and got[0].base is None
    alone = vectors(server, pictures[:1])
    np.testing.assert_array_equal(alone[0], got[0])


def test_as_the_graph_gives_them(server):
    [raw] = vectors(server, [png(3)], normalized=False)
    assert np.linalg.norm(raw) != pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), vector_of(png(3)), atol=2e-5)


def test_no_pictures(server):
    assert vectors(server, []) == []


def test_a_broken_picture_fails_alone(server):
    got = vectors(server, [png(0), b"GIF", png(1)])
    assert isinstance(got[1], UnsupportedMedia)
    np.testing.assert_allclose(got[2], vector_of(png(1)), atol=2e-5)


def test_times_are_told(server):
    timings: dict[str, float] = {}
    vectors(server, [png(0), png(1)], timings=timings)
    assert set(timings) == {"decode", "preprocess", "queue", "batch", "compute"}


def test_too_late(server):
    got = vectors(server, [png(0), png(1)], due_us=monotonic_us() - 1)
    assert [type(each) for each in got] == [DeadlineExceeded] * 2


def test_a_full_queue_fails_or_is_waited_for(server, monkeypatch):
    async def crowded(deployment, pool, patient):
        calls = []
        run = pool.run

        async def refusing(fn, *args):
            calls.append(fn)
            if len(calls) < 3:
                raise QueueFull("full", retry_after_s=0.01)
            return await run(fn, *args)

        with monkeypatch.context() as patch:
            patch.setattr(pool, "run", refusing)
            return await embed(deployment, [png(0)], pool=pool, patient=patient), len(calls)

    [[error], calls] = on(server, "eyes", lambda d, pool: crowded(d, pool, False))
    assert isinstance(error, QueueFull) and calls == 1
    [[vector], calls] = on(server, "eyes", lambda d, pool: crowded(d, pool, True))
    assert calls == 3 and vector.shape == (6,)


def test_the_space_of_a_deployment(server):
    async def space(deployment, pool):
        return embedding_space(deployment)

    eyes = on(server, "eyes", space)
    assert eyes.dim == 6 and eyes.key.startswith("eyes@1:") and len(eyes.key) == len("eyes@1:") + 12
    assert on(server, "eyes", space) == eyes
    assert on(server, "wide", space).dim == 9
    # Neither a model without an embedding, nor one that cannot read pictures.
    assert on(server, "echo", space) is None
    assert on(server, "features", space) is None


def test_a_model_without_an_embedding(server):
    with pytest.raises(ModelNotReady, match="no embedding"):
        vectors(server, [png(0)], model="echo")


def test_a_deployment_that_does_not_serve_yet():
    deployment = type("Bare", (), {"attachments": {}})()
    assert embedding_task(deployment) is None


def test_cancelling_drops_what_has_not_begun(server):
    async def cancelled(deployment, pool):
        work = asyncio.ensure_future(embed(deployment, [png(0)] * 600, pool=pool))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return await embed(deployment, [png(0)], pool=pool)

    [vector] = on(server, "eyes", cancelled)
    assert vector.shape == (6,)


def test_versions_with_other_files_have_other_spaces(server, tmp_path: Path):
    async def key(deployment, pool):
        before = embedding_space(deployment)
        other = type(deployment)(
            deployment.model,
            deployment.version,
            deployment.config,
            deployment.loaded,
            deployment.labels,
            tmp_path / "gone",
            attachments=deployment.attachments,
            key="other files",
        )
        return before, embedding_space(other)

    before, after = on(server, "eyes", key)
    assert before.dim == after.dim and before.key != after.key
