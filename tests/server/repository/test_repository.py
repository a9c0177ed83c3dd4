"""Leases, labels, promotion, and everything else that is asked of a repository while it serves."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from server.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from server.metrics import Metrics
from server.repository import Repository, State, registry
from server.settings import Settings
from tests.server.repository.children import open_folder, run_unprivileged
from tests.server.repository.models import affine, write_sample, write_version
from tests.server.repository.serving import PATIENCE_S, answer, reason, serving, states, until
from tests.server.repository.test_archive import tar_of
from tests.server.repository.test_publish import stream


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Versions 1, 2 and 10 of model `m`; each multiplies by its own number."""
    for version in ("1", "2", "10"):
        write_version(tmp_path, "m", version, affine(float(version)))
    return tmp_path


def toml(root: Path, text: str, model: str = "m") -> None:
    (root / model).mkdir(exist_ok=True)
    (root / model / "model.toml").write_text(text)


# Leases


async def test_a_lease_names_model_version_or_label(three: Path):
    toml(three, 'version_policy = "all"\n[version_labels]\nstable = "1"\n')
    async with serving(three) as repository:
        assert answer(repository) == ("10", 10.0)
        assert answer(repository, version="2") == ("2", 2.0)
        assert answer(repository, label="stable") == ("1", 1.0)
        assert answer(repository, label="stable", version="1") == ("1", 1.0)
        with repository.lease(None) as lease:
            assert lease.deployment.model == "m"
        assert [d.version for d in repository.deployments()] == ["1", "2", "10"]


async def test_what_cannot_be_leased_says_what_can(three: Path):
    write_version(three, "other", "1", affine(1.0))
    async with serving(three) as repository:
        with pytest.raises(ModelNotFound, match="no model 'x'; the repository has: m, other"):
            repository.lease("x")
        with pytest.raises(ModelNotFound) as caught:
            repository.lease("x" * 100_000)
        assert len(caught.value.message) < 500
        with pytest.raises(VersionNotFound, match=r"'1' is not loaded \(loaded: 10\)"):
            repository.lease("m", "1")
        with pytest.raises(VersionNotFound, match=r"'77' does not exist \(loaded: 10\)"):
            repository.lease("m", "77")
        with pytest.raises(VersionNotFound, match="no label 'stable'; it has: none"):
            repository.lease("m", label="stable")
        with pytest.raises(InvalidInput, match=r"name the model: 2 are loaded \(m, other\)"):
            repository.lease(None)
        await repository.set_label("m", "new", "10")
        with pytest.raises(InvalidInput, match="give one of the two"):
            repository.lease("m", "1", "new")


async def test_an_empty_repository_is_ready_and_says_so(tmp_path: Path):
    async with serving(tmp_path) as repository:
        assert repository.status() == [] and repository.index() == []
        with pytest.raises(ModelNotReady, match="no model is loaded"):
            repository.lease(None)


async def test_folders_that_are_no_models_are_ignored(three: Path):
    (three / "notes").mkdir()
    (three / "notes" / "readme.txt").write_text("x")
    (three / ".hidden").mkdir()
    write_version(three, "bad:name", "1", affine(1.0))
    (three / "file").write_text("x")
    async with serving(three) as repository:
        assert [status.name for status in repository.status()] == ["m"]


# Status


async def test_status_tells_what_there_is_to_know(three: Path):
    toml(three, 'task = "tensors"\ndescription = "scales"\n[version_labels]\nstable = "1"\n')
    async with serving(three) as repository:
        (status,) = repository.status("m")
        assert (status.default, status.task, status.description) == ("10", "tensors", "scales")
        assert status.labels == {"stable": "1"} and status.version_policy == {"latest": 1}
        first, second, tenth = status.versions
        assert (first.version, first.state, first.labels) == ("1", State.READY, ("stable",))
        assert second.state is State.UNLOADED and second.metadata == {}
        assert tenth.default and not first.default
        assert tenth.bytes == (three / "m" / "10" / "model.onnx").stat().st_size
        assert tenth.metadata["batchable"] is True and tenth.metadata["batch_reason"] is None
        assert tenth.metadata["memory"]["weights_bytes"] > 0 and tenth.metadata["load_s"] > 0
        assert tenth.metadata["memory"]["arena_bytes"] > 0
        with repository.lease("m"):
            assert repository.status("m")[0].versions[2].leases == 1
        with pytest.raises(ModelNotFound):
            repository.status("x")


async def test_a_broken_model_toml_keeps_what_is_served_and_is_shown(three: Path):
    write_version(three, "other", "1", affine(3.0))
    async with serving(three) as repository:
        toml(three, "colour = 3")
        toml(three, "colour = 3", "new")
        write_version(three, "new", "1", affine(1.0))
        await repository.refresh()
        assert answer(repository) == ("10", 10.0)
        assert answer(repository, "other") == ("1", 3.0)
        assert "colour: unknown key" in (repository.status("m")[0].error or "")
        assert states(repository, "new") == {"1": State.UNLOADED}
        assert "colour: unknown key" in reason(repository, "1", "new")
        toml(three, "")
        await repository.refresh()
        assert repository.status("m")[0].error is None


async def test_a_damaged_state_file_is_shown_and_ignored(three: Path):
    (three / "m" / ".state.json").write_text("{")
    async with serving(three) as repository:
        assert answer(repository) == ("10", 10.0)
        assert ".state.json" in (repository.status("m")[0].error or "")
        await repository.promote("m", "1")
        assert answer(repository) == ("1", 1.0)
        assert repository.status("m")[0].error is None
        (three / "m" / ".state.json").write_text("{")
        await repository.refresh()  # what was asked for is still known
        assert answer(repository) == ("1", 1.0)
        assert ".state.json" in (repository.status("m")[0].error or "")


# Completeness


async def test_a_half_copied_version_is_never_served(three: Path, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    published = registry.publish.publish_path(
        whole, "m", "11", write_version(whole, "source", "1", affine(11.0)), 1 << 20
    )
    async with serving(three) as repository:
        copy = three / "m" / "11"
        copy.mkdir()
        shutil.copy(published.folder / "manifest.json", copy)
        content = (published.folder / "model.onnx").read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            (copy / "model.onnx").write_bytes(content[:length])
            await repository.refresh()
            assert states(repository)["11"] is State.UNLOADED
            assert "incomplete: model.onnx has" in reason(repository, "11")
            assert answer(repository) == ("10", 10.0)
        with pytest.raises(Conflict, match="incomplete"):
            await repository.load("m", "11")
        (copy / "model.onnx").write_bytes(b"\0" * len(content))  # space was reserved, no more
        await repository.refresh()
        with pytest.raises(LoadFailed, match=r"incomplete: .*sha256"):
            await repository.wait_loaded("m", "11")
        assert answer(repository) == ("10", 10.0)
        (copy / "model.onnx").write_bytes(content)
        await repository.refresh()
        await repository.wait_loaded("m", "11")
        assert answer(repository) == ("11", 11.0)


async def test_without_a_manifest_a_version_waits_until_it_settles(three: Path):
    async with serving(three, settle_s=0.4, reconcile_s=0.05) as repository:
        assert answer(repository) == ("10", 10.0)
        content = affine(11.0)
        repository._checker._settle_s = 3600.0  # however long it takes to get there
        folder = write_version(three, "m", "11", content[:-10])
        await until(lambda: "11" in states(repository))
        assert states(repository)["11"] is State.UNLOADED
        assert "until its files stop changing" in reason(repository, "11")
        (folder / "model.onnx").write_bytes(content)
        repository._checker._settle_s = 0.4
        await repository.load("m", "11")  # waits as well
        assert answer(repository) == ("11", 11.0)


async def test_what_vanishes_is_unloaded_but_a_vanished_repository_is_an_accident(three: Path):
    write_version(three, "other", "1", affine(3.0))
    async with serving(three) as repository:
        shutil.rmtree(three / "other")
        await repository.refresh()
        await until(lambda: "other" not in repository.models)
        with pytest.raises(ModelNotFound):
            repository.lease("other")
        shutil.rmtree(three / "m" / "10")
        await repository.refresh()
        await repository.wait_loaded("m", "2")
        assert answer(repository) == ("2", 2.0)
        three.rename(three.with_name("elsewhere"))
        await repository.refresh()
        assert answer(repository) == ("2", 2.0)
        three.mkdir()  # as an unmounted volume leaves its mount point behind
        await repository.refresh()
        assert answer(repository) == ("2", 2.0)
        three.rmdir()
        three.with_name("elsewhere").rename(three)
        await repository.refresh()
        assert answer(repository) == ("2", 2.0)


# Loading and unloading


async def test_loading_and_unloading_a_version_on_request(three: Path):
    async with serving(three) as repository:
        await repository.load("m", "1")
        assert answer(repository, version="1") == ("1", 1.0)
        assert answer(repository) == ("10", 10.0)
        await repository.unload("m", "1")
        assert states(repository)["1"] is State.UNLOADED
        await repository.unload("m", "10")  # the next version takes its place first
        assert answer(repository) == ("2", 2.0)
        assert "unloaded on request" in reason(repository, "10")
        await repository.load("m", "10")
        assert answer(repository) == ("10", 10.0)
        for verb in (repository.load, repository.unload):
            with pytest.raises(VersionNotFound, match="no version '77'; it has: 1, 2, 10"):
                await verb("m", "77")
            with pytest.raises(ModelNotFound):
                await verb("x")


async def test_an_unloaded_model_stays_unloaded_over_a_restart(three: Path):
    async with serving(three) as repository:
        await repository.unload("m")
        assert set(states(repository).values()) == {State.UNLOADED}
        with pytest.raises(ModelNotReady, match="version 10 UNLOADED"):
            repository.lease("m")
    async with serving(three) as repository:
        assert set(states(repository).values()) == {State.UNLOADED}
        await repository.load("m")
        assert answer(repository) == ("10", 10.0)
    async with serving(three) as repository:
        assert answer(repository) == ("10", 10.0)


async def test_loading_a_model_whose_newest_version_is_broken_serves_an_older_one(three: Path):
    async with serving(three) as repository:
        await repository.unload("m")
        (three / "m" / "10" / "model.onnx").write_bytes(b"garbage")
        with pytest.raises(LoadFailed, match="version '10'"):
            await repository.load("m")
        assert answer(repository) == ("2", 2.0)


async def test_a_model_without_versions_cannot_be_loaded(three: Path):
    toml(three, "", "empty")
    async with serving(three) as repository:
        with pytest.raises(VersionNotFound, match="has no versions"):
            await repository.load("empty")
        with pytest.raises(ModelNotReady, match="no versions"):
            repository.lease("empty")


async def test_a_failed_version_is_tried_again_on_request(three: Path):
    folder = write_version(three, "m", "11", affine(11.0))
    write_sample(folder, 99.0)
    async with serving(three) as repository:
        await until(lambda: states(repository)["10"] is State.READY)
        loads = repository._host.metrics.loads["load_failed"]
        with pytest.raises(LoadFailed, match="samples"):
            await repository.load("m", "11")
        assert repository._host.metrics.loads["load_failed"] == loads + 1
        assert answer(repository) == ("10", 10.0)


async def test_explicit_control_loads_nothing_by_itself(three: Path):
    async with serving(three, control="explicit") as repository:
        assert set(states(repository).values()) == {State.UNLOADED}
        await repository.load("m")
        assert answer(repository) == ("10", 10.0)
        await repository.load("m", "1")
        assert answer(repository) == ("10", 10.0)
        write_version(three, "m", "11", affine(11.0))
        (three / "m" / "10" / "model.onnx").write_bytes(affine(10.5))
        await repository.refresh()
        assert states(repository)["11"] is State.UNLOADED
        assert answer(repository) == ("10", 10.0)
        await repository.load("m")
        assert answer(repository) == ("11", 11.0)
        await repository.load("m", "10")
        assert answer(repository, version="10") == ("10", 10.5)
        await repository.unload("m", "11")
        assert answer(repository) == ("10", 10.5)
    async with serving(three, control="explicit") as repository:
        assert {v for v, s in states(repository).items() if s is State.READY} == {"1", "10"}
        await repository.unload("m")
        assert set(states(repository).values()) == {State.UNLOADED}


# Promotion, rollback, labels


async def test_promote_and_rollback(three: Path):
    async with serving(three) as repository:
        await repository.promote("m", "1")
        assert answer(repository) == ("1", 1.0)
        (status,) = repository.status("m")
        assert (status.pinned, status.previous, status.default) == ("1", "10", "1")
        write_version(three, "m", "11", affine(11.0))
        await repository.refresh()
        await repository.wait_loaded("m", "11")
        assert answer(repository) == ("1", 1.0)  # what was promoted stays
        assert await repository.rollback("m") == "10"
        assert answer(repository) == ("10", 10.0)
        await repository.promote("m", "11")  # the newest: back to following the policy
        assert repository.status("m")[0].pinned is None
        assert answer(repository) == ("11", 11.0)
    async with serving(three) as repository:
        assert answer(repository) == ("11", 11.0)
        assert await repository.rollback("m") == "10"
    async with serving(three) as repository:
        assert answer(repository) == ("10", 10.0)


async def test_rollback_without_a_memory_goes_to_the_next_older_version(three: Path):
    async with serving(three) as repository:
        assert await repository.rollback("m") == "2"
        assert answer(repository) == ("2", 2.0)


async def test_there_may_be_nothing_to_go_back_to(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    async with serving(tmp_path) as repository:
        with pytest.raises(Conflict, match="no earlier version"):
            await repository.rollback("m")


async def test_a_version_that_cannot_serve_is_not_promoted(three: Path):
    write_version(three, "m", "3", b"garbage")
    async with serving(three) as repository:
        for change in (
            repository.promote("m", "3"),
            repository.set_label("m", "stable", "3"),
        ):
            with pytest.raises(LoadFailed, match="version '3'"):
                await change
        assert answer(repository) == ("10", 10.0)
        (status,) = repository.status("m")
        assert (status.pinned, status.labels, status.generation) == (None, {}, 0)
        with pytest.raises(VersionNotFound):
            await repository.promote("m", "77")


async def test_labels_survive_a_restart_and_override_model_toml(three: Path):
    toml(three, '[version_labels]\nstable = "1"\nold = "1"\n')
    async with serving(three) as repository:
        await repository.set_label("m", "stable", "2")
        await repository.set_label("m", "old", None)
        assert answer(repository, label="stable") == ("2", 2.0)
        await until(lambda: states(repository)["1"] is State.UNLOADED)
    async with serving(three) as repository:
        assert answer(repository, label="stable") == ("2", 2.0)
        assert repository.status("m")[0].labels == {"stable": "2"}
        with pytest.raises(VersionNotFound, match="has no label 'old'"):
            await repository.set_label("m", "old", None)
        with pytest.raises(InvalidInput, match="label name"):
            await repository.set_label("m", "../x", "2")
        with pytest.raises(VersionNotFound):
            await repository.set_label("m", "x", "77")


async def test_replicas_follow_one_state(three: Path, tmp_path_factory: pytest.TempPathFactory):
    state_dir = tmp_path_factory.mktemp("state")
    async with (
        serving(three, state_dir=state_dir) as first,
        serving(three, state_dir=state_dir) as second,
    ):
        await first.promote("m", "2")
        await second.refresh()
        await second.wait_loaded("m", "2")
        assert answer(second) == ("2", 2.0)
    assert not (three / "m" / ".state.json").exists()
    assert json.loads((state_dir / "m" / ".state.json").read_text())["pinned"] == "2"


# Files


async def test_publishing_while_serving(three: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("new") / "net.onnx"
    path.write_bytes(affine(11.0))
    async with serving(three) as repository:
        published = await repository.publish("m", None, path)
        assert published.version == "11"
        deployment = await repository.wait_loaded("m", "11")
        assert deployment is not None and deployment.version == "11"
        assert answer(repository) == ("11", 11.0)
        upload = tar_of(("model.onnx", affine(5.0)))
        assert (await repository.publish("new", "a", stream(upload))).version == "a"
        await repository.wait_loaded("new", "a")
        assert answer(repository, "new") == ("a", 5.0)
        with pytest.raises(Conflict, match="already has a version 'a'"):
            await repository.publish("new", "a", stream(upload))
        for model, version in (("../x", "1"), ("m", "a/b")):
            with pytest.raises(InvalidInput, match="name"):
                await repository.publish(model, version, stream(upload))


async def test_publishing_what_is_not_wanted_now(three: Path):
    async with serving(three) as repository:
        upload = tar_of(("model.onnx", affine(3.0)))
        await repository.publish("m", "3", stream(upload))
        assert await repository.wait_loaded("m", "3") is None  # older than 10
        assert answer(repository) == ("10", 10.0)


async def test_versions_that_follow_fast_start_no_crowd_of_compilers(three: Path):
    async with serving(three, isolate=True) as repository:
        upload = tar_of(("model.onnx", affine(3.0)))
        for version in range(11, 18):
            await repository.publish("m", str(version), stream(upload))
        jobs = [job for job in repository.model("m").jobs.values() if job.stage != "queued"]
        assert len(jobs) <= 2
        await repository.wait_loaded("m", "17")
        assert answer(repository) == ("17", 3.0)
        await until(lambda: not repository.model("m").jobs)
        assert {v for v, s in states(repository).items() if s is State.READY} == {"17"}


async def test_deleting_a_version_that_serves(three: Path):
    async with serving(three) as repository:
        held = repository.lease("m")
        deleting = asyncio.create_task(repository.delete("m", "10"))
        await until(lambda: states(repository)["10"] is State.DRAINING)
        assert answer(repository) == ("2", 2.0)
        assert (three / "m" / "10").exists()  # until the last request is done
        held.release()
        await deleting
        assert not (three / "m" / "10").exists()
        assert states(repository) == {"1": State.UNLOADED, "2": State.READY}
        await repository.delete("m", "1")
        await repository.delete("m", "2")
        with pytest.raises((ModelNotFound, VersionNotFound)):
            await repository.delete("m", "2")
    assert list(three.glob("*/.trash*")) == []


async def test_what_cannot_be_deleted(three: Path):
    (three / "flat").mkdir()
    (three / "flat" / "model.onnx").write_bytes(affine(1.0))
    async with serving(three) as repository:
        await repository.set_label("m", "stable", "2")
        with pytest.raises(Conflict, match="has the label stable; move or remove it first"):
            await repository.delete("m", "2")
        with pytest.raises(Conflict, match="remove them by hand"):
            await repository.delete("flat", "1")
        assert answer(repository, "flat") == ("1", 1.0)
        assert answer(repository, label="stable") == ("2", 2.0)


async def test_deleting_forgets_what_was_promoted(three: Path):
    async with serving(three) as repository:
        await repository.promote("m", "1")
        await repository.delete("m", "1")
        assert answer(repository) == ("10", 10.0)
        (status,) = repository.status("m")
        assert status.pinned is None and status.previous in (None, "10")


async def test_interrupted_publishing_is_swept_at_the_start(three: Path):
    leftover = three / "m" / ".incoming-dead"
    leftover.mkdir()
    (leftover / "model.onnx").write_bytes(b"half")
    async with serving(three):
        assert not leftover.exists()


async def test_waiting_has_an_end(three: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "SLACK_S", 0.0)
    async with serving(three, load_timeout_s=0.2, drain_timeout_s=0.01) as repository:
        with pytest.raises(DeadlineExceeded, match="see its status"):
            await repository._wait(repository.model("m"), lambda: None)


READ_ONLY = """
import asyncio
from server.errors import Conflict
from server.metrics import Metrics
from server.repository import Repository
from server.settings import Settings

async def main():
    root, state = map(Path, sys.argv[1:])
    settings = dict(repository=root, isolate=False, settle_s=0, watch=False)
    repository = Repository(Settings(**settings), Metrics())
    await repository.start()
    while not repository.ready:
        await asyncio.sleep(0.01)
    for verb in (repository.promote, repository.unload, repository.delete):
        try:
            await verb("m", "1")
        except Conflict as error:
            print(verb.__name__, "Conflict")
    with repository.lease("m") as lease:
        print("serves", lease.deployment.version)
    await repository.stop()
    repository = Repository(Settings(**settings, state_dir=state), Metrics())
    await repository.start()
    await repository.promote("m", "1")
    with repository.lease("m") as lease:
        print("serves", lease.deployment.version)
    await repository.stop()

asyncio.run(main())
"""


def test_a_read_only_repository_serves_and_refuses_changes():
    with open_folder() as folder:
        root, state = folder / "repository", folder / "state"
        state.mkdir()
        state.chmod(0o777)
        for version in ("1", "10"):
            write_version(root, "m", version, affine(float(version)))
        for path in (root, root / "m", *(root / "m").iterdir()):
            path.chmod(0o555)
        assert run_unprivileged(READ_ONLY, root, state).splitlines() == [
            "promote Conflict",
            "unload Conflict",
            "delete Conflict",
            "serves 10",
            "serves 1",
        ]


# Noticing changes


async def test_file_events_bring_a_new_version_without_being_asked(three: Path):
    async with serving(three, watch=True) as repository:
        write_version(three, "m", "11", affine(11.0))

        async def noticed() -> None:
            # The watch is set up by a thread that tells nobody: what came before it is not told of.
            while answer(repository) != ("11", 11.0):
                (three / "m" / "notes.txt").write_text("something happens here")
                await asyncio.sleep(0.5)

        await asyncio.wait_for(noticed(), PATIENCE_S)


async def test_without_events_the_clock_does(three: Path):
    async with serving(three, reconcile_s=0.05) as repository:
        write_version(three, "m", "11", affine(11.0))
        await until(lambda: answer(repository) == ("11", 11.0))


async def test_a_repository_that_is_not_there_yet_is_waited_for(tmp_path: Path, caplog):
    root = tmp_path / "later"
    async with serving(root, watch=True, reconcile_s=0.05) as repository:
        await until(lambda: "no file events" in caplog.text)
        assert "cannot be read" in caplog.text
        write_version(root, "m", "1", affine(1.0))
        await until(lambda: "m" in repository._routes)
        assert answer(repository) == ("1", 1.0)


async def test_a_look_that_breaks_is_not_the_last(three: Path, caplog, monkeypatch):
    async with serving(three, reconcile_s=0.02) as repository:

        def broken() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(repository, "_look", broken)
        await until(lambda: "the next look may not" in caplog.text)
        monkeypatch.undo()
        write_version(three, "m", "11", affine(11.0))
        await until(lambda: answer(repository) == ("11", 11.0))


def test_a_repository_may_be_made_outside_the_loop(tmp_path: Path):
    async def serve(repository: Repository) -> None:
        await repository.start()
        await repository.stop()

    settings = Settings(repository=tmp_path, watch=False)
    asyncio.run(serve(Repository(settings, Metrics())))
