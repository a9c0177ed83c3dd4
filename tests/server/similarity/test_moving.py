"""Collections move with their model: by one step, and with everything that was acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.errors import (
    Conflict,
    LoadFailed,
    ModelNotReady,
    NotFound,
    StoreUnavailable,
    VersionNotFound,
)
from server.index.contract import NewItem
from server.similarity import attachment, bindings, reembedding
from server.similarity.spaces import SpaceName, history_of, space_key
from tests.server.repository.serving import until
from tests.server.similarity.memory import MemoryStore
from tests.server.similarity.moving import moving
from tests.server.similarity.nets import add_eyes, png, vector_of
from tests.server.zoo import add_digits

COUNT = 100


async def test_a_new_version_takes_over_with_a_complete_space(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(COUNT))
        assert await m.nearest(7) == ("1", ["7"])
        add_eyes(tmp_path, "2", dim=9)
        await m.serves("2")
        assert await m.nearest(7) == ("2", ["7"])
        collection = m.collection()
        space = collection.space(m.key("2"), 9)
        assert space.state().missing == 0
        [got] = space.vectors(["7"])
        np.testing.assert_allclose(got, vector_of(png(7), "2", 9), atol=2e-5)
        await until(lambda: [name.dim for name in history_of(collection)] == [9, 6])
        assert m.bindings.status(collection)["version"] == "2"


async def test_the_old_pair_answers_until_the_new_one_is_complete(tmp_path: Path, monkeypatch):
    add_eyes(tmp_path, "1")
    gate, entered = asyncio.Event(), asyncio.Event()

    async def held(deployment, pictures, **how):
        entered.set()
        await gate.wait()
        return await real(deployment, pictures, **how)

    real = reembedding.embed
    async with moving(tmp_path) as m:
        await m.add(range(COUNT))
        monkeypatch.setattr(reembedding, "embed", held)
        add_eyes(tmp_path, "2", dim=9)
        await m.repository.refresh()
        await asyncio.wait_for(entered.wait(), 30)
        assert await m.nearest(3) == ("1", ["3"])
        assert m.metrics.collections.of("c").missing["2"] == COUNT
        move = m.bindings.status(m.collection())["moving"]
        assert (move["done"], move["total"], move["failed"]) == (0, COUNT, 0)
        assert move["to"].startswith("eyes@2:")
        # What comes meanwhile is found through both.
        await m.add([COUNT])
        assert await m.nearest(COUNT) == ("1", [str(COUNT)])
        m.collection().delete(["5"])
        gate.set()
        await until(lambda: m.default() == "2")
        assert await m.nearest(COUNT) == ("2", [str(COUNT)])
        assert (await m.nearest(5))[1] != ["5"]
        assert m.bindings.status(m.collection())["moving"] is None
        # The series of a version go with it.
        await until(lambda: m.metrics.collections.of("c").missing == {"2": 0})
        text = m.metrics.render().decode()
        assert 'millrace_collection_missing_items{collection="c",version="2"} 0.0' in text


async def test_progress_is_part_of_the_models_status(tmp_path: Path, monkeypatch):
    add_eyes(tmp_path, "1")
    gate, calls = asyncio.Event(), []

    async def second_is_held(deployment, pictures, **how):
        calls.append(len(pictures))
        if len(calls) == 2:
            await gate.wait()
        return await real(deployment, pictures, **how)

    real = reembedding.embed
    async with moving(tmp_path) as m:
        await m.add(range(COUNT))
        monkeypatch.setattr(reembedding, "embed", second_is_held)
        add_eyes(tmp_path, "2")
        await m.repository.refresh()
        await until(lambda: len(calls) == 2)
        [status] = m.repository.status("eyes")
        told = next(v.progress for v in status.versions if v.version == "2")
        assert told is not None and told.startswith(f"prepare: collection c: {calls[0]} of {COUNT}")
        gate.set()
        await until(lambda: m.default() == "2")


async def test_a_move_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch):
    add_eyes(tmp_path, "1")
    store = MemoryStore()
    real, calls = reembedding.embed, []

    async def stuck_in_the_third(deployment, pictures, **how):
        calls.append(len(pictures))
        if len(calls) == 3:
            await asyncio.Event().wait()
        return await real(deployment, pictures, **how)

    async with moving(tmp_path, store) as m:
        await m.add(range(COUNT))
        monkeypatch.setattr(reembedding, "embed", stuck_in_the_third)
        add_eyes(tmp_path, "2")
        await m.repository.refresh()
        await until(lambda: len(calls) == 3)
    # A restart loads the newest version only, and has nothing that could answer in its place.
    async with moving(tmp_path, store) as m:
        assert m.default() == "2"
        collection = m.collection()
        space = collection.space(m.key("2"), 6)
        await until(lambda: space.state().missing == 0)
        assert sum(map(len, space.fills)) == COUNT  # nothing was made twice
        assert await m.nearest(42) == ("2", ["42"])


async def test_a_rollback_finds_its_space_and_catches_up(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(20))
        first = m.collection().space(m.key("1"), 6)
        add_eyes(tmp_path, "2", dim=9)
        await m.serves("2")
        await m.add([100, 101])
        await m.repository.rollback("eyes")
        assert await m.nearest(101) == ("1", ["101"])
        assert await m.nearest(3) == ("1", ["3"])
        assert sum(map(len, first.fills)) == 2


async def test_spaces_of_older_versions_are_dropped(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(10))
        keys = [m.key("1")]
        for version in ("2", "3"):
            add_eyes(tmp_path, version)
            await m.serves(version)
            keys.append(m.key(version))
            # The one before is unloaded, and nothing needs the one before that.
            await until(lambda: len(m.repository.deployments()) == 1)
        await until(lambda: m.collection().spaces() == keys[1:])


async def test_two_versions_answer_side_by_side(tmp_path: Path):
    add_eyes(tmp_path, "1")
    add_eyes(tmp_path, "2", dim=9)
    with (tmp_path / "eyes" / "model.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write('version_policy = "all"\n' + text)
    async with moving(tmp_path) as m:
        await m.add(range(30), version="1")
        await m.add(range(30, 60), version="2")
        for version in ("1", "2"):
            for seed in (4, 44):
                assert await m.nearest(seed, version=version) == (version, [str(seed)])
        # Each in the space of its own.
        assert len(m.collection().spaces()) == 2
        await m.repository.promote("eyes", "1")
        assert await m.nearest(44) == ("1", ["44"])


async def test_two_models_have_a_collection_each(tmp_path: Path):
    add_eyes(tmp_path, "1", "left")
    add_eyes(tmp_path, "1", "right")
    async with moving(tmp_path) as m:
        m.collection("l", "left"), m.collection("r", "right")
        await m.add(range(10), "l")
        await m.add(range(5), "r")
        before = m.collection("r").spaces()
        add_eyes(tmp_path, "2", "left")
        await m.serves("2", "left")
        assert await m.nearest(9, "l") == ("2", ["9"])
        assert await m.nearest(3, "r") == ("1", ["3"])
        assert m.collection("r").spaces() == before


async def test_what_cannot_be_read_is_told_and_holds_nothing_up(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(12))
        collection = m.collection()
        damaged = [NewItem(f"bad{n}", picture=b"not a picture") for n in range(3)]
        space = collection.space(m.key("1"), 6)
        rows = np.ones((3, 6), np.float32)
        collection.put(damaged, {space.key: rows})
        add_eyes(tmp_path, "2", dim=9)
        await m.serves("2")
        failed = m.bindings.status(collection)["failed"]
        assert [each["id"] for each in failed] == ["bad0", "bad1", "bad2"]
        assert "picture" in failed[0]["reason"]
        assert collection.space(m.key("2"), 9).state().missing == 3
        with m.repository.lease("eyes") as lease:
            assert m.bindings.missing(collection, lease.deployment) == 0
        # Mended, one of them is made; one that is deleted is forgotten.
        collection.put([NewItem("bad1", picture=png(500))])
        collection.delete(["bad2"])
        m.bindings.changed(collection, None)
        assert await m.nearest(500) == ("2", ["bad1"])
        await until(lambda: [f["id"] for f in m.bindings.status(collection)["failed"]] == ["bad0"])


async def test_a_collection_with_ready_vectors_stays_where_it_is(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(10))
        collection = m.collection()
        space = collection.space(m.key("1"), 6)
        collection.put([NewItem("ready")], {space.key: vector_of(png(70))[None]})
        add_eyes(tmp_path, "2", dim=9)
        await m.serves("2")  # the load does not fail
        await until(lambda: len(m.repository.deployments()) == 1)
        with m.repository.lease("eyes") as lease, pytest.raises(Conflict, match="version '1'"):
            m.bindings.resolve(collection, lease.deployment)
        assert m.bindings.version_for(collection) == "1"
        with pytest.raises(VersionNotFound):
            m.repository.lease("eyes", "9")
        pinned = m.bindings.status(collection)["pinned"]
        assert pinned["space"] == space.key and "1 of its 11 items" in pinned["reason"]
        assert m.bindings.resting(collection) is space
        # Loaded beside the newest one, its version answers again.
        await m.repository.load("eyes", "1")
        assert await m.nearest(70) == ("1", ["ready"])
        assert collection.spaces() == [space.key]
        # Without the item, the next move takes the collection along.
        collection.delete(["ready"])
        add_eyes(tmp_path, "3", dim=9)
        await m.serves("3")
        assert await m.nearest(4) == ("3", ["4"])
        assert m.bindings.status(collection)["pinned"] is None


async def test_a_version_without_an_embedding(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(4))
        collection, key = m.collection(), m.key("1")
        add_digits(tmp_path, "2", "eyes")  # writes a model.toml without [embedding], too
        await m.serves("2")
        with m.repository.lease("eyes") as lease, pytest.raises(Conflict, match="no vectors"):
            m.bindings.resolve(collection, lease.deployment)
        resting = m.bindings.resting(collection)
        assert resting is not None and resting.key == key


async def test_a_store_that_is_down_fails_the_load_and_nothing_else(tmp_path: Path):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(4))
        m.store.fault = StoreUnavailable("no answer from the database")
        add_eyes(tmp_path, "2")
        with pytest.raises(LoadFailed, match="no answer from the database"):
            await m.repository.load("eyes", "2")
        assert set(m.metrics.collections.of("c").missing) <= {"1"}
        m.store.fault = None
        assert await m.nearest(2) == ("1", ["2"])
        await m.repository.load("eyes", "2")
        assert await m.nearest(2) == ("2", ["2"])


async def test_a_store_that_is_down_at_the_start_is_waited_for(tmp_path: Path):
    add_eyes(tmp_path, "1")
    store = MemoryStore()
    async with moving(tmp_path, store) as m:
        await m.add(range(4))
        m.collection().put([NewItem("late", picture=png(50))])
    store.fault = StoreUnavailable("down")
    async with moving(tmp_path, store) as m:
        assert m.default() == "1"
        store.fault = None
        await until(lambda: m.collection().space(m.key("1"), 6).state().missing == 0)
        assert await m.nearest(50) == ("1", ["late"])


async def test_a_collection_dropped_meanwhile(tmp_path: Path, monkeypatch):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(COUNT))
        await m.add(range(10), "other")
        names = m.store.names()
        monkeypatch.setattr(m.store, "names", lambda: ["gone", *names])
        add_eyes(tmp_path, "2")
        await m.serves("2")
        assert await m.nearest(5, "other") == ("2", ["5"])


async def test_only_one_process_fills_a_space(tmp_path: Path):
    """The other one waits until it is complete, and then serves."""
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(10))
        collection = m.collection()
        add_eyes(tmp_path, "2")
        elsewhere = collection.busy("fill " + _key_to_come(m, tmp_path), 0.0)
        with elsewhere as inside:
            assert inside
            await m.repository.refresh()
            told = []

            def waits() -> bool:
                [status] = m.repository.status("eyes")
                told.extend(v.progress or "" for v in status.versions)
                return any("filled elsewhere" in each for each in told)

            await until(waits)
            assert m.default() == "1"
            assert await m.nearest(4) == ("1", ["4"])
        await until(lambda: m.default() == "2")
        assert await m.nearest(4) == ("2", ["4"])


def _key_to_come(m, root: Path) -> str:
    """Return the key of version 2 before it is loaded."""
    with m.repository.lease("eyes") as lease:
        coming = replace(lease.deployment, version="2", folder=root / "eyes" / "2", key="to come")
    return space_key(coming, "vector")


async def test_one_broken_collection_does_not_stop_the_others(tmp_path: Path, caplog):
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(5), "a")
        await m.add(range(5), "b")
        broken = m.collection("a").space(m.key("1"), 6)
        broken.missing = _broken
        m.collection("b").put([NewItem("late", picture=png(60))])
        assert await m.nearest(4, "a") == ("1", ["4"])
        space = m.collection("b").space(m.key("1"), 6)
        await until(lambda: space.state().missing == 0)
        await until(lambda: "damaged" in caplog.text)
        # A search waits for nothing that does not come.
        m.bindings.changed(m.collection("a"), None)
        await until(lambda: m.bindings.backlog(m.collection("a"), _name(m)).clean)


def _broken(limit: int):
    raise RuntimeError("the rows are damaged")


def _name(m) -> SpaceName:
    return SpaceName(m.key("1"), 6)


async def test_replicas_share_what_each_of_them_embeds(tmp_path: Path):
    """Two servers on one store, one of them a version ahead, the files at different places."""
    store = MemoryStore()
    here, there = tmp_path / "here", tmp_path / "there"
    add_eyes(here, "1")
    add_eyes(there, "1")
    async with moving(here, store) as one, moving(there, store) as two:
        await one.add(range(10))
        assert await two.nearest(3) == ("1", ["3"])
        assert len(one.collection().spaces()) == 1  # the same version is the same space
        add_eyes(here, "2", dim=9)
        await one.serves("2")
        await two.add([50])
        space = store.collections["c"].space(one.key("2"), 9)
        await until(lambda: space.state().missing == 0)
        assert await one.nearest(50) == ("2", ["50"])
        # The second server finds its next version's space complete.
        made = sum(map(len, space.fills))
        add_eyes(there, "2", dim=9)
        await two.serves("2")
        assert await two.nearest(50) == ("2", ["50"])
        assert sum(map(len, space.fills)) == made


async def test_items_that_come_all_the_time_do_not_put_the_switch_off(tmp_path: Path, monkeypatch):
    add_eyes(tmp_path, "1")
    monkeypatch.setattr(attachment, "CHASES", 3)
    async with moving(tmp_path) as m:
        await m.add(range(5))
        real, seeds = reembedding.embed, iter(range(100, 1000))

        async def another_comes(deployment, pictures, **how):
            if deployment.version == "2" and m.default() == "1":
                await m.add([next(seeds)])
            return await real(deployment, pictures, **how)

        monkeypatch.setattr(reembedding, "embed", another_comes)
        add_eyes(tmp_path, "2")
        await m.serves("2")
        last = next(seeds) - 1
        assert await m.nearest(last) == ("2", [str(last)])


async def test_a_search_waits_for_what_was_just_added_through_another_version(
    tmp_path: Path, monkeypatch
):
    add_eyes(tmp_path, "1")
    add_eyes(tmp_path, "2", dim=9)
    with (tmp_path / "eyes" / "model.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write('version_policy = "all"\n' + text)
    gate, real = asyncio.Event(), reembedding.embed

    async def held(deployment, pictures, **how):
        await gate.wait()
        return await real(deployment, pictures, **how)

    async with moving(tmp_path) as m:
        await m.add(range(10))
        space = m.collection().space(m.key("1"), 6)
        await until(lambda: space.state().missing == 0 and m.bindings.moves == {})
        monkeypatch.setattr(reembedding, "embed", held)
        await m.add([77], version="2")
        asked = asyncio.create_task(m.nearest(77, version="1"))
        await until(lambda: _missing(m, "1") == 1)
        assert not asked.done()
        gate.set()
        assert await asked == ("1", ["77"])
        # It does not wait for ever: the answer says what is missing.
        gate.clear()
        monkeypatch.setattr(bindings, "CATCH_UP_S", 0.01)
        await m.add([78], version="2")
        version, ids = await m.nearest(78, version="1")
        assert version == "1" and ids != ["78"] and _missing(m, "1") == 1
        gate.set()


def _missing(m, version: str) -> int:
    with m.repository.lease("eyes", version) as lease:
        return m.bindings.missing(m.collection(), lease.deployment)


async def test_vectors_that_no_store_takes_and_a_model_that_is_busy(
    tmp_path: Path, monkeypatch, caplog
):
    add_eyes(tmp_path, "1")
    real, calls = reembedding.embed, []

    async def odd(deployment, pictures, **how):
        calls.append(len(pictures))
        if len(calls) == 1:
            return [ModelNotReady("unloading")] * len(pictures)
        if len(calls) == 2:
            raise RuntimeError("something broke")
        made = await real(deployment, pictures, **how)
        return [np.zeros(6, np.float32), np.full(6, np.nan, np.float32), *made[2:]]

    async with moving(tmp_path) as m:
        await m.add(range(4))
        collection = m.collection()
        monkeypatch.setattr(reembedding, "embed", odd)
        new = [NewItem(f"new{n}", picture=png(n)) for n in range(3)]
        collection.put([*new, NewItem("bare")])
        with m.repository.lease("eyes") as lease:
            m.bindings.changed(collection, None)
            space = m.bindings.resolve(collection, lease.deployment)
        await until(lambda: space.vectors(["new2"])[0] is not None)
        await until(lambda: len(m.bindings.status(collection)["failed"]) == 3)
        failed = {f["id"]: f["reason"] for f in m.bindings.status(collection)["failed"]}
        assert "no direction" in failed["new0"] and "not finite" in failed["new1"]
        assert failed["bare"] == "it has no picture"
        assert "unloading" in caplog.text and "something broke" in caplog.text
        # What they were is remembered with the collection.
        await until(lambda: collection.fact(f"failed {space.key}") is not None)


async def test_a_collection_made_anew_under_its_name(tmp_path: Path):
    """By another process, so that nothing here was told."""
    add_eyes(tmp_path, "1")
    async with moving(tmp_path) as m:
        await m.add(range(5))
        old = m.collection().space(m.key("1"), 6)
        await until(lambda: history_of(m.collection()) != [])
        assert await m.nearest(3) == ("1", ["3"])
        m.store.drop("c")
        old.missing = _gone
        m.collection().put([NewItem("new", picture=png(90))])
        await until(lambda: history_of(m.collection()) != [])
        assert await m.nearest(90) == ("1", ["new"])


def _gone(limit: int):
    raise NotFound("this collection was dropped")
