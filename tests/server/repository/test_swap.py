"""Hot swap: the new version beside the old, one switch, drain, free; and back on any failure."""

import asyncio
import gc
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine import ModelClosed
from server.errors import LoadFailed, ModelNotReady, ServerDraining, VersionNotFound
from server.repository import Deployment, State
from tests.server.repository.models import WIDTH, affine, write_sample, write_version
from tests.server.repository.serving import answer, reason, serving, states, until


class Recorder:
    """An attachment that writes down what happens to it, and fails when told to."""

    name = "recorder"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fail_at = ""
        self.gate: asyncio.Event | None = None

    async def prepare(self, new: Deployment, old: Deployment | None) -> object:
        self.events.append(f"prepare {new.version} {old.version if old else '-'}")
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_at == "prepare":
            raise ValueError("no room")
        return new.version

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        self.events.append(f"commit {new.version} {old.version if old else '-'}")
        if self.fail_at == "commit":
            raise ValueError("commit")

    async def discard(self, value: object) -> None:
        self.events.append(f"discard {value}")
        if self.fail_at == "discard":
            raise ValueError("discard")


async def test_the_newest_version_serves(tmp_path: Path):
    for version in ("2", "10"):
        write_version(tmp_path, "m", version, affine(float(version)))
    async with serving(tmp_path) as repository:
        assert answer(repository) == ("10", 10.0)
        assert states(repository) == {"2": State.UNLOADED, "10": State.READY}
        assert "neither its version policy" in reason(repository, "2")


async def test_a_swap_drains_the_old_version_by_reference_count(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder]) as repository:
        held = repository.lease("m")
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        await repository.wait_loaded("m", "2")
        assert answer(repository) == ("2", 2.0)
        with pytest.raises(VersionNotFound):
            repository.lease("m", "1")
        # The request that was under way finishes on the model that it began with.
        assert states(repository) == {"1": State.DRAINING, "2": State.READY}
        x = np.ones((1, WIDTH), np.float32)
        assert held.deployment.engine_model.run({"x": x})["y"][0, 0] == 1.0
        assert recorder.events == ["prepare 1 -", "commit 1 -", "prepare 2 1", "commit 2 1"]
        held.release()
        held.release()  # a second time changes nothing
        await until(lambda: states(repository)["1"] is State.UNLOADED)
        assert recorder.events[4:] == ["discard 1"]
        with pytest.raises(ModelClosed):
            held.deployment.engine_model.run({"x": x})
        assert ("m", "1") not in repository._host.metrics.states
        assert repository.status("m")[0].previous == "1"
    assert recorder.events[-1] == "discard 2"


async def test_no_request_fails_or_goes_back_while_versions_are_swapped(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    served: list[str] = []
    switched = ["1"]
    done = False

    async def client(repository) -> None:
        x = np.ones((1, WIDTH), np.float32)
        while not done:
            newest = switched[-1]
            with repository.lease("m") as lease:
                # After a switch nobody gets the version before.
                assert int(lease.deployment.version) >= int(newest)
                y = await asyncio.to_thread(lease.deployment.engine_model.run, {"x": x})
                assert y["y"][0, 0] == float(lease.deployment.version)
                served.append(lease.deployment.version)

    async with serving(tmp_path) as repository:
        clients = [asyncio.create_task(client(repository)) for _ in range(4)]
        for version in ("2", "3", "4", "5"):
            write_version(tmp_path, "m", version, affine(float(version)))
            await repository.refresh()
            await repository.wait_loaded("m", version)
            switched.append(version)
            seen = len(served)
            await until(lambda seen=seen: len(served) > seen + 10)
        await until(lambda: states(repository)["4"] is State.UNLOADED)  # nobody is on it any more
        seen = len(served)
        await until(lambda: len(served) > seen + 4)
        done = True
        await asyncio.gather(*clients)
    assert set(served) == {"1", "2", "3", "4", "5"}
    assert served[-1] == "5"


async def test_a_golden_failure_keeps_the_old_version_and_is_visible(tmp_path: Path, caplog):
    write_version(tmp_path, "m", "1", affine(1.0))
    async with serving(tmp_path) as repository:
        folder = write_version(tmp_path, "m", "2", affine(2.0))
        write_sample(folder, 99.0)
        await repository.refresh()
        with pytest.raises(LoadFailed, match="samples/0"):
            await repository.wait_loaded("m", "2")
        assert answer(repository) == ("1", 1.0)
        assert states(repository) == {"1": State.READY, "2": State.FAILED}
        assert reason(repository, "2").startswith("samples/0.npz: output 'y'")
        assert repository._host.metrics.states[("m", "2")] == "FAILED"
        assert "goes on serving version 1" in caplog.text
        with pytest.raises(ModelNotReady, match="samples/0"):
            repository.lease("m", "2")

        loads = repository._host.metrics.loads.copy()
        await repository.refresh()  # the same files are not tried again by themselves
        assert repository._host.metrics.loads == loads
        write_sample(folder, 2.0)
        await repository.refresh()
        await repository.wait_loaded("m", "2")
        assert answer(repository) == ("2", 2.0)


async def test_after_a_restart_a_broken_newest_version_does_not_stop_an_older_one(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    write_version(tmp_path, "m", "2", b"garbage")
    write_version(tmp_path, "other", "1", affine(7.0))
    async with serving(tmp_path) as repository:
        await until(lambda: states(repository)["1"] is State.READY)
        assert answer(repository) == ("1", 1.0)
        assert states(repository)["2"] is State.FAILED
        assert answer(repository, "other") == ("1", 7.0)


async def test_concurrent_loads_of_a_version_load_it_once(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder], control="explicit") as repository:
        await asyncio.gather(*(repository.load("m", "1") for _ in range(5)))
        assert recorder.events == ["prepare 1 -", "commit 1 -"]
        assert answer(repository) == ("1", 1.0)


async def test_an_attachment_that_cannot_prepare_fails_the_load(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    first, second = Recorder(), Recorder()
    second.name = "second"
    async with serving(tmp_path, [first, second]) as repository:
        second.fail_at = "prepare"
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        with pytest.raises(LoadFailed, match="ValueError: no room"):
            await repository.wait_loaded("m", "2")
        assert answer(repository) == ("1", 1.0)
        assert first.events[-1] == "discard 2"  # what had been prepared is not left behind
        second.fail_at = ""


async def test_commit_and_discard_that_break_their_promise_stop_nothing(tmp_path: Path, caplog):
    write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder]) as repository:
        recorder.fail_at = "commit"
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        await repository.wait_loaded("m", "2")
        recorder.fail_at = "discard"
        assert answer(repository) == ("2", 2.0)
    assert "failed to commit" in caplog.text and "failed to discard" in caplog.text


async def test_files_changed_in_place_are_swapped_too(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder]) as repository:
        (folder / "model.onnx").write_bytes(b"garbage")
        await repository.refresh()
        with pytest.raises(LoadFailed):
            await repository.wait_loaded("m", "1")
        assert answer(repository) == ("1", 1.0)
        assert states(repository) == {"1": State.READY}
        assert reason(repository, "1") != ""
        (folder / "model.onnx").write_bytes(affine(5.0))
        await repository.refresh()
        await repository.wait_loaded("m", "1")
        assert answer(repository) == ("1", 5.0)
        assert "prepare 1 1" in recorder.events
        await until(lambda: recorder.events[-1] == "discard 1")
        assert repository._host.metrics.states == {("m", "1"): "READY"}


async def test_a_new_configuration_is_a_new_deployment_but_a_new_policy_is_not(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder]) as repository:
        (tmp_path / "m" / "model.toml").write_text("[batching]\nmax_batch_size = 7\n")
        await repository.refresh()
        deployment = await repository.wait_loaded("m", "1")
        assert deployment is not None and deployment.config.batching.max_batch_size == 7
        prepared = len(recorder.events)
        (tmp_path / "m" / "model.toml").write_text(
            'version_policy = "all"\n[batching]\nmax_batch_size = 7\n'
        )
        await repository.refresh()
        assert repository.status("m")[0].version_policy == "all"
        assert [e for e in recorder.events[prepared:] if e.startswith("prepare")] == []


async def test_a_load_that_takes_too_long_fails(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    async with serving(tmp_path, isolate=True, load_timeout_s=0.05) as repository:
        assert states(repository) == {"1": State.FAILED}
        assert "load_timeout_s" in reason(repository, "1") or "load_s" in reason(repository, "1")
        with pytest.raises(ModelNotReady, match="version 1 FAILED"):
            repository.lease("m")


async def test_a_request_that_never_ends_does_not_keep_the_old_version_for_ever(
    tmp_path: Path, caplog
):
    write_version(tmp_path, "m", "1", affine(1.0))
    async with serving(tmp_path, drain_timeout_s=0.05) as repository:
        held = repository.lease("m")
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        await until(lambda: states(repository) == {"1": State.UNLOADED, "2": State.READY})
        assert "1 requests still running" in caplog.text
        held.release()


async def test_unloading_stops_a_load_under_way(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    recorder = Recorder()
    async with serving(tmp_path, [recorder], control="explicit") as repository:
        recorder.gate = asyncio.Event()
        loading = asyncio.create_task(repository.load("m", "1"))
        await until(lambda: recorder.events)
        assert states(repository) == {"1": State.LOADING}
        assert repository.status("m")[0].versions[0].progress == "prepare"
        with pytest.raises(ModelNotReady, match="is being loaded"):
            repository.lease("m", "1")
        loading.cancel()
        await until(lambda: states(repository) == {"1": State.UNLOADED})
        assert recorder.events == ["prepare 1 -"]


async def test_stopping_finishes_what_runs_and_takes_no_more(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(1.0))
    async with serving(tmp_path) as repository:
        held = repository.lease("m")
        stopping = asyncio.create_task(repository.stop())
        await until(lambda: states(repository) == {"1": State.DRAINING})
        with pytest.raises(ServerDraining):
            repository.lease("m")
        assert not stopping.done() and not repository.ready
        held.release()
        await stopping


def footprint() -> Counter[str]:
    process = psutil.Process()
    return Counter(
        descriptors=process.num_fds(),
        threads=threading.active_count(),
        children=len(process.children(recursive=True)),
    )


@pytest.mark.parametrize(
    ("swaps", "isolate"),
    [
        (20, False),
        (3, True),
        pytest.param(200, True, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
async def test_swaps_leave_nothing_behind(tmp_path: Path, swaps: int, isolate: bool):
    """Two models with 8 MB of weights take turns; memory is compared in the long runs only."""
    contents = [affine(float(i + 1), padding=8 << 20) for i in range(2)]
    folder = write_version(tmp_path, "m", "1", contents[0])
    resident: list[int] = []
    async with serving(tmp_path, isolate=isolate) as repository:
        before = footprint()
        for turn in range(swaps):
            (folder / "model.onnx").write_bytes(contents[(turn + 1) % 2])
            await repository.refresh()
            await repository.wait_loaded("m", "1")
            await until(lambda: not repository.models["m"].draining)
            resident.append(psutil.Process().memory_info().rss)
            if turn == 1:
                before = footprint()
        gc.collect()
        await until(lambda: footprint() <= before)
        assert repository._host.metrics.states == {("m", "1"): "READY"}
    if swaps >= 200:
        print(f"resident after 20 swaps {resident[20] >> 20} MiB, at the end {resident[-1] >> 20}")
        assert resident[-1] / resident[20] <= 1.05
