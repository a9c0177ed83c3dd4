from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from server.errors import Conflict, InvalidInput, LoadFailed, ModelNotFound, QueueFull
from server.learning import features, kept
from server.learning import teacher as teacher_module
from server.learning.examples import Example, make_lesson
from server.learning.orders import Order
from server.serving import serving_of
from server.tasks import ImageItem
from tests.server.learning.lessons import examples, picture, taught, teaching
from tests.server.similarity.nets import add_eyes
from tests.server.zoo import add_digits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_eyes(tmp_path, dim=24)
    return tmp_path


def classify(repository, model: str, data: bytes) -> str:
    """Return the label that is served for a picture."""
    with repository.lease(model) as lease:
        task = serving_of(lease.deployment).task
        prepared = task.prepare(ImageItem(data), task.parameters({}))
        outputs = lease.deployment.engine_model.run(prepared.inputs, fetches=task.fetches)
        return task.finish(outputs, prepared, task.parameters({}))["predictions"][0]["label"]


@pytest.mark.parametrize("method", ["logistic", "svm"])
@pytest.mark.parametrize("classes", [2, 4])
async def test_a_classifier_is_learned_and_served(root: Path, method: str, classes: int):
    async with teaching(root) as (teacher, repository):
        order = Order("eyes", examples(classes, 6), name="kinds", method=method)
        steps, end = await taught(teacher, order)
        assert (end.model, end.version, end.loaded) == ("kinds", "1", True)
        assert [step.stage for step in steps][-3:] == ["fitting", "publishing", "loading"]
        assert end.report["accuracy"] >= 0.8
        for kind in range(classes):
            assert classify(repository, "kinds", picture(kind, 77)) == f"kind {kind}"
        with repository.lease("kinds") as lease:
            deployment = lease.deployment
            assert deployment.labels == tuple(f"kind {k}" for k in range(classes))
            assert list(serving_of(deployment).tasks) == ["classification", "embedding"]
            assert (
                deployment.config.preprocess == repository.models["eyes"].default.config.preprocess
            )


async def test_what_a_version_holds(root: Path):
    async with teaching(root) as (teacher, _repository):
        _, end = await taught(teacher, Order("eyes", examples(), name="kinds"))
        folder = root / "kinds" / "1"
        names = {path.name for path in folder.iterdir()}
        assert names == {
            *("model.onnx", "model.toml", "labels.txt", "manifest.json", "samples"),
            *("report.json", "confusion.png", "CARD.md", "training"),
        }
        onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
        report = json.loads((folder / "report.json").read_text())
        assert report["base"]["model"] == "eyes" and report["pictures_kept"] is True
        assert report["pictures"] == 12 == int(np.sum(report["confusion"]))
        assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
        assert "kind 1" in (folder / "CARD.md").read_text()
        with np.load(folder / "samples" / "1.npz") as golden:
            assert golden["output:probabilities"].shape == (3, 3)
            np.testing.assert_allclose(golden["output:probabilities"].sum(axis=1), 1, atol=1e-5)
        assert (folder / "samples" / "kind_0_0.png").read_bytes() == picture(0, 0)
        assert end.report["mistakes"] == report["mistakes"]


async def test_more_pictures_make_the_next_version(root: Path):
    async with teaching(root) as (teacher, repository):
        await taught(teacher, Order("eyes", examples(3, 4), name="kinds"))
        wrong = Example.of("0/0.png", "kind 1", picture(0, 0))  # has another label now
        more = [*examples(4, 3, start=10), wrong, Example.of("x", "kind 0", picture(0, 1))]
        _, end = await taught(teacher, Order("kinds", more))
        assert (end.model, end.version) == ("kinds", "2")
        assert end.report["pictures"] == 12 + 12 and end.report["added"] == 12
        assert end.report["relabelled"] == ["0/0.png"] and end.report["continues"] == "1"
        assert end.report["labels"] == [f"kind {k}" for k in range(4)]
        assert classify(repository, "kinds", picture(3, 50)) == "kind 3"
        lesson = kept.read(root / "kinds" / "2")
        assert len({each.name for each in lesson.examples}) == 24
        assert all(each.data is not None for each in lesson.examples)


async def test_a_new_base_is_learned_on_from_kept_pictures(root: Path):
    async with teaching(root) as (teacher, repository):
        await taught(teacher, Order("eyes", examples(3, 4), name="kinds"))
        add_eyes(root, "2", dim=24)
        await repository.load("eyes")
        _, end = await taught(teacher, Order("kinds"))
        assert end.report["base"]["version"] == "2" and end.report["added"] == 0
        assert classify(repository, "kinds", picture(2, 50)) == "kind 2"


async def test_a_new_base_needs_pictures(root: Path):
    async with teaching(root) as (teacher, repository):
        first = Order("eyes", examples(3, 4), name="kinds", keep_pictures=False)
        await taught(teacher, first)
        assert not (root / "kinds" / "1" / "training" / "pictures.zip").exists()
        _, end = await taught(teacher, Order("kinds", examples(3, 1, start=9)))
        assert end.report["pictures"] == 15  # the same base: features are enough
        add_eyes(root, "2", dim=24)
        await repository.load("eyes")
        with pytest.raises(Conflict, match="was not kept; name `base_version`"):
            await taught(teacher, Order("kinds", examples(3, 1, start=19)))
        await repository.set_label("eyes", "old", "1")
        again = Order("kinds", examples(3, 1, start=19), base_version="1")
        assert (await taught(teacher, again))[1].version == "3"


async def test_only_a_report(root: Path):
    async with teaching(root) as (teacher, _):
        _, end = await taught(teacher, Order("eyes", examples(), name="kinds", publish=False))
        assert end.version is None and not end.loaded and end.report["pictures"] == 12
        assert not (root / "kinds").exists()


async def test_unreadable_pictures_are_named_or_skipped(root: Path):
    broken = [
        Example.of("2/broken.png", "kind 2", picture(2, 0)[:60]),
        Example.of("2/text.png", "kind 2", b"not a picture"),
    ]
    async with teaching(root) as (teacher, _):
        order = Order("eyes", [*examples(), *broken], name="kinds")
        with pytest.raises(
            InvalidInput, match=r"2 pictures cannot be read: '2/broken\.png'"
        ) as told:
            await taught(teacher, order)
        assert told.value.extra["unreadable"] == ["2/broken.png", "2/text.png"]
        _, end = await taught(teacher, replace(order, skip_unreadable=True))
        assert end.report["unreadable"] == ["2/broken.png", "2/text.png"]
        assert end.report["pictures"] == 12


async def test_names_that_cannot_be(root: Path):
    add_digits(root, "1")
    async with teaching(root) as (teacher, repository):
        with pytest.raises(InvalidInput, match="`name` is missing"):
            await taught(teacher, Order("eyes", examples()))
        with pytest.raises(Conflict, match="not learned from pictures"):
            await taught(teacher, Order("eyes", examples(), name="digits"))
        with pytest.raises(Conflict, match="not learned from pictures"):
            await taught(teacher, Order("eyes", examples(), name="eyes"))
        with pytest.raises(InvalidInput, match="model name"):
            await taught(teacher, Order("eyes", examples(), name="../kinds"))
        with pytest.raises(ModelNotFound):
            await taught(teacher, Order("nothing", examples(), name="kinds"))
        with pytest.raises(InvalidInput, match="no embedding of pictures"):
            await taught(teacher, Order("digits", examples(), name="kinds"))
        with pytest.raises(InvalidInput, match="method 'tree' is not known"):
            await taught(teacher, Order("eyes", examples(), name="kinds", method="tree"))
        with pytest.raises(InvalidInput, match="there are no pictures"):
            await taught(teacher, Order("eyes", (), name="kinds"))
        await taught(teacher, Order("eyes", examples(), name="kinds", version="spring"))
        with pytest.raises(Conflict, match="already has a version 'spring'"):
            await taught(teacher, Order("eyes", examples(), name="kinds", version="spring"))
        assert repository.models["eyes"].default is not None


async def test_a_version_that_does_not_load_is_taken_away(root: Path, monkeypatch):
    def spoiled(folder: Path, *args, **kwargs):
        write(folder, *args, **kwargs)
        with np.load(folder / "samples" / "0.npz") as golden:
            arrays = dict(golden)
        arrays["output:probabilities"] = 1 - arrays["output:probabilities"]
        np.savez(folder / "samples" / "0.npz", **arrays)

    write = teacher_module.write_version
    monkeypatch.setattr(teacher_module, "write_version", spoiled)
    async with teaching(root) as (teacher, _repository):
        with pytest.raises(LoadFailed, match=r"samples/0\.npz"):
            await taught(teacher, Order("eyes", examples(), name="kinds"))
        assert not (root / "kinds" / "1").exists()


async def test_a_damaged_lesson_is_told(root: Path):
    async with teaching(root) as (teacher, _):
        await taught(teacher, Order("eyes", examples(), name="kinds"))
        (root / "kinds" / "1" / "training" / "features.npy").write_bytes(b"nonsense")
        with pytest.raises(Conflict, match="send all pictures anew"):
            await taught(teacher, Order("kinds", examples(3, 2, start=8)))
        _, end = await taught(teacher, Order("eyes", examples(), name="kinds"))
        assert end.version == "2"


async def test_base_files_that_are_gone(root: Path):
    async with teaching(root) as (teacher, _):
        (root / "eyes" / "1" / "notes.bin").write_bytes(b"changed")
        shutil.rmtree(root / "eyes" / "1")
        with pytest.raises((Conflict, InvalidInput), match=r"changed since|cannot open model file"):
            await taught(teacher, Order("eyes", examples(), name="kinds"))


@pytest.mark.native
async def test_in_child_processes_on_the_processor(root: Path):
    async with teaching(root, device="cpu", isolate=True, load_timeout_s=500.0) as (
        teacher,
        repository,
    ):
        _, end = await taught(teacher, Order("eyes", examples(3, 4), name="kinds"))
        assert end.loaded
        assert classify(repository, "kinds", picture(1, 77)) == "kind 1"


async def test_the_next_lesson_waits_for_a_fit_that_nobody_waits_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, may_end = threading.Semaphore(0), threading.Event()
    fits: list[int] = []
    fit = teacher_module.fitting.fit

    def slow(*args):
        fits.append(len(fits))
        begun.release()
        assert may_end.wait(60)
        return fit(*args)

    monkeypatch.setattr(teacher_module.fitting, "fit", slow)
    async with teaching(root) as (teacher, repository):
        order = Order("eyes", examples(2), name="kinds", publish=False)
        first = asyncio.ensure_future(taught(teacher, order))
        await asyncio.to_thread(begun.acquire)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert repository.models["eyes"].default.leases == 0
        second = asyncio.ensure_future(taught(teacher, order))
        await asyncio.sleep(0.05)
        assert fits == [0]
        may_end.set()
        steps, end = await second
        assert steps[0].stage == "waiting" and end.version is None and fits == [0, 1]


async def test_golden_samples_wait_for_a_free_worker(monkeypatch: pytest.MonkeyPatch):
    calls = []

    class Busy:
        async def run(self, work):
            calls.append(work)
            if len(calls) < 3:
                raise QueueFull("full", retry_after_s=0.001)
            return "golden"

    task = SimpleNamespace(parameters=lambda _: {}, output="v")
    model = SimpleNamespace(batch="N", run=None)
    lesson = make_lesson(examples(2))
    monkeypatch.setattr(features, "embedding_task", lambda _: task)
    base = SimpleNamespace(engine_model=model)
    assert await features.golden_rows(base, lesson, Busy()) == "golden"
    assert len(calls) == 3
