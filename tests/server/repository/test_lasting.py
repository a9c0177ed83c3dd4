"""Attachments that take long over a load: they hold up nobody else, and are waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.errors import DeadlineExceeded
from server.repository import Deployment, registry
from server.repository.catalog import MAX_CONCURRENT_LOADS
from tests.server.repository.models import affine, write_version
from tests.server.repository.serving import serving, until

LIMIT_S = 1.0
STEPS = 40


class Lasting:
    """An attachment that is at version 2 until it may end, and says how far it is."""

    name = "lasting"
    takes_long = True

    def __init__(self, *, moves: bool = True) -> None:
        self.entered = 0
        self.steps = 0
        self.end = asyncio.Event()
        self._moves = moves

    async def prepare(self, new: Deployment, old: Deployment | None) -> object:
        if new.version != "2":
            return None
        self.entered += 1
        new.doing = "step 0"
        while not self.end.is_set():
            self.steps += 1
            if self._moves:
                new.doing = f"step {self.steps}"
            await asyncio.sleep(LIMIT_S * 3 / STEPS)
        return None

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        pass

    async def discard(self, value: object) -> None:
        pass


def short_wait(monkeypatch: pytest.MonkeyPatch, repository: registry.Repository) -> None:
    """Let a caller wait `LIMIT_S` for a load that does not come on."""
    settings = repository.settings
    own_s = settings.settle_s + 2 * settings.load_timeout_s + settings.drain_timeout_s
    monkeypatch.setattr(registry, "SLACK_S", LIMIT_S - own_s)


async def test_a_load_that_comes_on_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    write_version(tmp_path, "m", "1", affine(1.0))
    lasting = Lasting()
    async with serving(tmp_path, [lasting]) as repository:
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        await until(lambda: lasting.entered)
        short_wait(monkeypatch, repository)
        waiting = asyncio.create_task(repository.wait_loaded("m", "2"))
        await until(lambda: lasting.steps > STEPS)  # three times as long as the limit
        assert not waiting.done()
        [status] = repository.status("m")
        told = next(each.progress for each in status.versions if each.version == "2")
        assert told is not None and told.startswith("prepare: step ")
        lasting.end.set()
        deployment = await waiting
        assert deployment is not None and deployment.version == "2"


async def test_a_load_that_stands_still_is_not(tmp_path: Path, monkeypatch) -> None:
    write_version(tmp_path, "m", "1", affine(1.0))
    lasting = Lasting(moves=False)
    async with serving(tmp_path, [lasting]) as repository:
        write_version(tmp_path, "m", "2", affine(2.0))
        await repository.refresh()
        await until(lambda: lasting.entered)
        short_wait(monkeypatch, repository)
        with pytest.raises(DeadlineExceeded, match="did not get there"):
            await repository.wait_loaded("m", "2")
        lasting.end.set()
        await until(lambda: repository.model("m").default.version == "2")


async def test_it_keeps_no_place_among_the_loads(tmp_path: Path) -> None:
    names = [f"m{n}" for n in range(MAX_CONCURRENT_LOADS + 1)]
    for name in names:
        write_version(tmp_path, name, "1", affine(1.0))
    lasting = Lasting()
    async with serving(tmp_path, [lasting]) as repository:
        for name in names:
            write_version(tmp_path, name, "2", affine(2.0))
        await repository.refresh()
        await until(lambda: lasting.entered == len(names))
        write_version(tmp_path, "other", "1", affine(3.0))
        await repository.refresh()
        loaded = await repository.wait_loaded("other", "1")
        assert loaded is not None
        assert all(repository.model(name).default.version == "1" for name in names)
        lasting.end.set()
        await until(lambda: all(repository.model(n).default.version == "2" for n in names))
