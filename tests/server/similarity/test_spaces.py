from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import Conflict
from server.index.contract import CollectionSpec, Missing
from server.model_config import EmbeddingConfig, ModelConfig, PreprocessConfig
from server.repository.deployment import Deployment
from server.similarity.backlog import Backlog, Progress
from server.similarity.bindings import Bindings
from server.similarity.failures import Failures
from server.similarity.spaces import (
    MAX_HISTORY,
    MadeBy,
    SpaceName,
    history_of,
    made_by,
    pin_of,
    remember,
    set_pin,
    space_key,
    superseded,
)
from tests.server.similarity.memory import MemoryStore
from tests.server.similarity.nets import add_eyes


def deployment(folder: Path, version: str = "1", **config: object) -> Deployment:
    return Deployment("eyes", version, ModelConfig(**config), None, None, folder, key="k")  # type: ignore[arg-type]


def collection(model: str | None = "eyes"):
    return MemoryStore().create(CollectionSpec("c", model=model))


# Keys


def test_a_key_depends_on_content_and_not_on_where_it_lies(tmp_path: Path):
    here = add_eyes(tmp_path / "a", "1")
    there = tmp_path / "b" / "somewhere" / "1"
    shutil.copytree(here, there)
    key = space_key(deployment(here), "vector")
    assert key == space_key(deployment(there), "vector")
    assert made_by(key) == MadeBy("eyes", "1", key[-12:])
    # Notes, labels and samples change no vector; the graph and its weights do.
    (there / "notes.md").write_text("x")
    (there / "labels.txt").write_text("x")
    (there / "samples").mkdir()
    (there / "samples" / "a.npz").write_bytes(b"x")
    assert key == space_key(deployment(there), "vector")
    (there / "weights.bin").write_bytes(b"x")
    assert key != space_key(deployment(there), "vector")


def test_a_key_depends_on_all_that_makes_the_vectors(tmp_path: Path):
    folder = add_eyes(tmp_path, "1")
    keys = {
        space_key(deployment(folder), "vector"),
        space_key(deployment(folder), "other"),
        space_key(deployment(folder, "2"), "vector"),
        space_key(deployment(folder, precision="bf16"), "vector"),
        space_key(deployment(folder, preprocess=PreprocessConfig(mode="BGR")), "vector"),
        space_key(deployment(folder, embedding=EmbeddingConfig(normalize=False)), "vector"),
    }
    assert len(keys) == 6


def test_a_model_without_version_folders(tmp_path: Path):
    """The other versions' folders beside its files are not its own."""
    flat = add_eyes(tmp_path, "1").parent
    shutil.move(flat / "1" / "model.onnx", flat / "model.onnx")
    key = space_key(deployment(flat), "vector")
    (flat / "2").mkdir()
    (flat / "2" / "model.onnx").write_bytes(b"x")
    assert key == space_key(deployment(flat), "vector")
    (flat / "onnx").mkdir()
    (flat / "onnx" / "model.onnx_data").write_bytes(b"x")
    assert key != space_key(deployment(flat), "vector")


def test_files_that_are_gone_still_give_a_key(tmp_path: Path):
    gone = deployment(tmp_path / "gone")
    assert made_by(space_key(gone, "v")) is not None
    assert space_key(gone, "v") != space_key(replace(gone, key="other"), "v")


@pytest.mark.parametrize("key", ["given", "", "a:b", "@:", "@1:abc", "eyes@:abc"])
def test_what_is_no_key_of_a_model(key: str):
    assert made_by(key) is None


def test_a_model_with_an_at_in_its_name():
    assert made_by("a@b@3:0123") == MadeBy("a@b", "3", "0123")


# Facts


def test_pins_and_history_are_kept_with_the_collection():
    c = collection()
    assert pin_of(c) is None and history_of(c) == []
    set_pin(c, SpaceName("eyes@1:a", 6))
    assert pin_of(c) == SpaceName("eyes@1:a", 6)
    set_pin(c, None)
    assert pin_of(c) is None
    for n in range(20):
        remember(c, SpaceName(f"eyes@{n}:a", n))
    assert [name.dim for name in history_of(c)] == list(range(19, 19 - MAX_HISTORY, -1))
    remember(c, SpaceName("eyes@10:a", 10))
    assert [name.dim for name in history_of(c)][:3] == [10, 19, 18]
    assert len(history_of(c)) == MAX_HISTORY


@pytest.mark.parametrize("text", ["", "{", "3", "[1]", '["a"]', '["a", "b"]', "null"])
def test_facts_that_are_not_ours_are_no_facts(text: str):
    c = collection()
    c.set_fact("pinned", text)
    c.set_fact("history", text)
    assert pin_of(c) is None and history_of(c) == []
    c.set_fact("failed k", text)
    assert len(Failures.read(c, "k")) == 0


def test_what_is_superseded():
    names = [SpaceName(f"eyes@{v}:{h}", 1) for v, h in [("3", "a"), ("2", "b"), ("2", "a")]]
    there = ["given", "eyes@1:a", "eyes@2:a", "eyes@2:b", "eyes@3:a", "eyes@9:x"]
    # Version 9 is newer than what was complete last: somebody may be filling it.
    assert superseded(there, names, []) == ["eyes@1:a", "eyes@2:a"]
    assert superseded([there[-1], *there[:-1]], names, []) == ["eyes@9:x", "eyes@1:a", "eyes@2:a"]
    assert superseded(there, names, ["eyes@1:a", "eyes@9:x"]) == ["eyes@2:a"]
    assert superseded(there, [], ["eyes@3:a"]) == []
    odd = [SpaceName("given", 1), *names]
    assert superseded(["eyes@2:b", "given"], odd, []) == []


# What a process knows


def test_failures_are_remembered_by_revision():
    c = collection()
    failures = Failures.read(c, "k")
    failures.save(c, "k")
    assert c.facts == {}
    failures.add(Missing("a", 1, True), "x" * 1000)
    failures.add(Missing("b", 2, True), "no")
    failures.save(c, "k")
    again = Failures.read(c, "k")
    assert again.has(Missing("a", 1, True)) and not again.has(Missing("a", 2, True))
    assert len(again.shown()[0]["reason"]) == 200
    again.keep_only([Missing("b", 2, True)])
    assert len(again) == 1
    again.keep_only([])
    again.save(c, "k")
    assert c.facts == {}


def test_progress_tells_how_long_it_still_takes():
    progress = Progress("k", 10, began_s=100.0)
    assert progress.describe(101.0)["eta_s"] is None
    progress.add(4, 1)
    assert progress.describe(110.0) == {"to": "k", "done": 4, "total": 10, "failed": 1, "eta_s": 10}
    progress.add(20, 0)
    assert progress.describe(110.0)["total"] == 25


async def test_a_backlog_is_clean_only_when_its_last_change_is_covered():
    backlog = Backlog()
    await backlog.settled()
    backlog.grew()
    backlog.grew()
    backlog.cover(1)
    assert not backlog.clean
    backlog.cover(2)
    assert backlog.clean
    await backlog.settled()


def test_a_collection_is_asked_through_its_own_model_only(tmp_path: Path):
    bindings = Bindings(lambda: None)
    eyes = deployment(add_eyes(tmp_path))
    with pytest.raises(Conflict, match="bound to model 'ears'"):
        bindings.resolve(collection("ears"), eyes)
    with pytest.raises(Conflict, match="bound to no model"):
        bindings.resolve(collection(None), eyes)
    with pytest.raises(Conflict, match="makes no vectors"):
        bindings.resolve(collection(), eyes)  # nothing serves it yet
    assert bindings.missing(collection(), eyes) == 0


def test_a_pin_holds_against_others():
    bindings, c = Bindings(lambda: None), collection()
    one, two = SpaceName("eyes@1:a", 6), SpaceName("eyes@2:a", 6)
    bindings.pin(c, one)
    bindings.pin(c, one)
    assert not bindings.may_unpin(c)  # its item may be about to come
    with pytest.raises(Conflict, match="POST /models/eyes/load"):
        bindings.pin(c, two)
    bindings.forget("c")
    assert bindings.pin_of(c) == one
    bindings.unpin(c)
    assert bindings.version_for(c) is None
    bindings.pin(c, two, to_come=False)
    assert bindings.version_for(c) == "2"
    assert bindings.resting(c) is None  # nothing was ever put into it
    assert Bindings(lambda: None).status(c)["space"] == "eyes@2:a"
    assert bindings.status(collection(None))["space"] is None


def test_a_space_that_is_dropped_is_forgotten():
    bindings, c = Bindings(lambda: None), collection()
    name = SpaceName("eyes@1:a", 6)
    space = bindings.space(c, name)
    assert bindings.space(c, name) is space
    remember(c, name)
    assert bindings.resting(c) is space
    bindings.failures(c, name).add(Missing("a", 1, True), "no")
    bindings.failures(c, name).save(c, name.key)
    bindings.drop_space(c, name.key)
    assert c.spaces() == [] and bindings.resting(c) is None
    assert len(bindings.failures(c, name)) == 0
    assert bindings.space(c, name) is not space
