"""Versions that translate: what they are made of, what keeps them from being served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import LoadFailed
from server.execution import WorkerPool
from server.metrics import Metrics
from server.repository import State
from server.repository.golden import GoldenMismatch
from server.repository.loader import LoadOptions, load_version
from server.repository.manifest import write_manifest
from server.repository.publish import publish_path
from server.repository.scan import scan_repository
from server.repository.text_golden import TextSample, read_text_samples
from server.repository.text_model import TextModel
from server.serving import TextServing, attachments, serving_of
from server.settings import Settings
from tests.server.repository.serving import reason, serving, states, until
from tests.server.shouting import MODELS, pieces, shouting_models, write_sample, write_shouting


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[None]:
    with shouting_models():
        yield


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1)
    yield pool
    pool.close()


def load(root: Path, version: str = "1") -> TextModel:
    model = scan_repository(root)["shout"]
    options = LoadOptions(isolate=False)
    loaded = load_version(model, model.versions[version], options, lambda stage: None)
    assert loaded.config.task == "translation"
    assert isinstance(loaded.loaded, TextModel)
    return loaded.loaded


def refused(root: Path, words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        load(root)


def serve(root: Path, pool: WorkerPool):
    settings = Settings(repository=root)
    return serving(root, attachments(pool, Metrics(), settings))


def test_a_folder_says_what_it_is(tmp_path: Path):
    write_shouting(tmp_path, generation_config={"num_beams": 3, "eos_token_id": 0})
    model = load(tmp_path)
    assert (model.defaults.beams, model.defaults.end) == (3, (0,))
    assert model.languages() == (("de",), ("en",))
    assert model.notes == ("written for tests",)


def test_without_config_json_the_graphs_say_it_and_the_rest_is_asked_for(tmp_path: Path):
    folder = write_shouting(tmp_path)
    (folder / "config.json").unlink()
    refused(tmp_path, "decoder_start_token_id: expected the token that a target begins with")
    tokens = {"decoder_start_token_id": 3, "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(tokens))
    assert load(tmp_path).defaults.start == 3


def test_graphs_in_a_folder_of_their_own(tmp_path: Path):
    folder = write_shouting(tmp_path)
    (folder / "onnx").mkdir()
    for graph in folder.glob("*.onnx"):
        graph.rename(folder / "onnx" / graph.name)
    load(tmp_path)
    assert MODELS["1"].folder == folder / "onnx"


def test_a_clone_of_a_hub_repository_is_version_1(tmp_path: Path):
    folder = write_shouting(tmp_path, version="clone")
    (folder / "onnx").mkdir()
    for graph in folder.glob("*.onnx"):
        graph.rename(folder / "onnx" / graph.name)
    shutil.copytree(folder, tmp_path / "flat" / "shout")
    assert load(tmp_path / "flat").tokenizer.vocabulary.size == len(pieces()[1])


def test_files_beside_model_toml_serve_all_versions(tmp_path: Path):
    folder = write_shouting(tmp_path)
    for path in folder.iterdir():
        if path.suffix != ".onnx":
            path.rename(tmp_path / "shout" / path.name)
    before = scan_repository(tmp_path)["shout"].versions["1"].key
    load(tmp_path)
    config = tmp_path / "shout" / "generation_config.json"
    config.write_text(json.dumps({"num_beams": 2}))
    assert scan_repository(tmp_path)["shout"].versions["1"].key != before
    assert load(tmp_path).defaults.beams == 2


def test_model_toml_wins(tmp_path: Path):
    keys = '[translation]\nsource = "fr"\ntarget = "it"\nprefix = "x: "\n[generation]\nbeams = 5\n'
    write_shouting(tmp_path, model_toml=keys, tokenizer_config={})
    model = load(tmp_path)
    codec = model.bind()
    assert (model.languages(), model.defaults.beams) == ((("fr",), ("it",)), 5)
    assert codec.encode("a") == model.tokenizer.bind().encode("x: a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab": None}, "tokenizer"),
        ({"vocab": {"</s>": 0}}, "tokenizer cannot be used"),
        ({"config": {"is_encoder_decoder": True, "eos_token_id": 0}}, "decoder_start_token_id"),
        ({"generation_config": {"num_beams": 0}}, "generation_config.json or config.json: num_b"),
        ({"generation_config": {"forced_bos_token_id": 500}}, "names token 500"),
        ({"generation_config": []}, "generation_config.json: expected a JSON object"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, change: dict, words: str):
    folder = write_shouting(tmp_path)
    for stem, content in change.items():
        path = folder / f"{stem}.json"
        path.unlink() if content is None else path.write_text(json.dumps(content))
    refused(tmp_path, words)


def test_a_tokenizer_that_knows_more_than_the_graphs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tests.server.shouting.ShoutingModel.vocabulary_size", 20, raising=False)
    monkeypatch.setattr("tests.server.shouting.ShoutingModel.__init__", lambda self, folder: None)
    closed = []
    monkeypatch.setattr("tests.server.shouting.ShoutingModel.close", lambda self: closed.append(1))
    write_shouting(tmp_path)
    refused(tmp_path, "the graphs know 20; they do not belong together")
    assert closed == [1]


def test_a_task_that_the_files_do_not_have(tmp_path: Path):
    write_shouting(tmp_path, model_toml='task = "tensors"\n')
    refused(tmp_path, "cannot be loaded")  # the stand-in for an encoder is no graph


async def test_golden_samples_are_checked_by_what_serves(tmp_path: Path, pool: WorkerPool):
    folder = write_shouting(tmp_path)
    numbers = pieces()[1]
    tokens = [numbers[piece] for piece in ("▁", "J", "A")]
    write_sample(folder, "0", text="ja", translation="JA", tokens=[*tokens, 0])
    write_sample(folder, "1", text="a\nb", translation="A\nB", parameters={"beams": 2})
    async with serve(tmp_path, pool) as repository:
        assert states(repository, "shout") == {"1": State.READY}, reason(repository, "1", "shout")
        with repository.lease("shout") as lease:
            assert isinstance(serving_of(lease.deployment), TextServing)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"text": "ja", "translation": "YES"}, "samples/0.json: expected 'YES', got 'JA'"),
        ({"text": "ja", "translation": "JA", "tokens": [1, 2]}, "tokens differ from place 0 on"),
        ({"text": "ja", "translation": "JA", "tokens": "x"}, "`tokens` must be a list"),
        ({"text": "ja"}, "cannot be used: expected"),
        ({"text": "ja", "translation": 5}, "must be strings"),
        ({"text": "ja", "translation": "JA", "parameters": [1]}, "must be an object"),
        ({"text": "ja", "translation": "JA", "parameters": {"beams": 0}}, "beams"),
        ({"text": "ja", "translation": "JA", "parameters": {"target": "fr"}}, "'fr'"),
    ],
)
async def test_samples_that_do_not_hold_keep_the_old_version(
    tmp_path: Path, pool: WorkerPool, content: dict, words: str
):
    write_shouting(tmp_path)
    async with serve(tmp_path, pool) as repository:
        write_sample(write_shouting(tmp_path, version="2"), "0", **content)
        await repository.refresh()
        await until(lambda: states(repository, "shout").get("2") is State.FAILED)
        assert words in reason(repository, "2", "shout")
        with repository.lease("shout") as lease:
            assert lease.deployment.version == "1"


def test_similar_is_enough_where_that_is_asked_for():
    sample = TextSample("0.json", "x", "THE CAT SITS DOWN", tokens=(1, 2))
    with pytest.raises(GoldenMismatch, match="tokens differ from place 1"):
        sample.check("THE CAT SITS DOWN", (1, 3))
    sample.check("THE CAT LIES DOWN", (9,), 0.7)
    with pytest.raises(GoldenMismatch, match=r"similar to 0\.75; golden\.similarity is 0\.8"):
        sample.check("THE CAT LIES DOWN", (9,), 0.8)


def test_samples_are_read_in_their_order(tmp_path: Path):
    write_sample(tmp_path, "b", text="x", translation="X")
    write_sample(tmp_path, "a", text="y", translation="Y")
    assert [sample.name for sample in read_text_samples(tmp_path)] == ["a.json", "b.json"]


async def test_a_pushed_folder_is_served_whole(tmp_path: Path, pool: WorkerPool):
    folder = write_shouting(tmp_path / "exported")
    root = tmp_path / "models"
    published = publish_path(root, "shout", None, folder, 1 << 30)
    assert {"encoder_model.onnx", "source.spm", "config.json"} <= set(published.files)
    async with serve(root, pool) as repository:
        assert states(repository, "shout") == {"1": State.READY}


async def test_a_version_whose_manifest_does_not_hold_waits(tmp_path: Path, pool: WorkerPool):
    folder = write_shouting(tmp_path)
    write_manifest(folder)
    (folder / "source.spm").write_bytes(b"shorter")
    async with serve(tmp_path, pool) as repository:
        assert states(repository, "shout") == {"1": State.UNLOADED}
        assert "source.spm" in reason(repository, "1", "shout")
