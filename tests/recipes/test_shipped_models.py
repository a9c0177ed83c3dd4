"""The committed version folders: complete, within their size, and saying what they contain."""

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

from recipes.common.package import damaged_files

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repo"
NEEDED = {"digits-1": 0.975, "digits-2": 0.992, "photos-1": 0.925, "objects-1": 0.42}
VERSIONS = sorted(path.parent for path in REPOSITORY.glob("*/*/manifest.json"))
LIMIT_BYTES = 35_000_000
OURS = [v for v in VERSIONS if f"{v.parent.name}-{v.name}" in NEEDED]


def name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


def test_the_repository_stays_small() -> None:
    assert sum(p.stat().st_size for p in REPOSITORY.rglob("*") if p.is_file()) < LIMIT_BYTES


@pytest.mark.parametrize("folder", VERSIONS, ids=name)
def test_every_file_is_as_the_manifest_says(folder: Path) -> None:
    assert damaged_files(folder) == []


@pytest.mark.parametrize("folder", OURS, ids=name)
def test_the_reached_accuracy_is_recorded_and_enough(folder: Path) -> None:
    result = json.loads((ROOT / "recipes" / "results" / f"{name(folder)}.json").read_text())
    assert result["test_accuracy"] >= NEEDED[name(folder)]
    assert f"{result['test_accuracy']:.2%}" in (folder / "CARD.md").read_text()


@pytest.mark.parametrize("folder", OURS, ids=name)
def test_golden_samples_fit_the_graph(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    samples = sorted((folder / "samples").glob("*.npz"))
    assert samples
    for path in samples:
        with np.load(path, allow_pickle=False) as sample:
            expected = {f"output:{value.name}" for value in graph.output}
            assert set(sample.files) == {f"input:{graph.input[0].name}"} | expected


@pytest.mark.parametrize("folder", OURS, ids=name)
def test_settings_name_outputs_and_labels_that_exist(folder: Path) -> None:
    settings = tomllib.loads((folder.parent / "model.toml").read_text())
    outputs = {value.name for value in onnx.load(folder / "model.onnx").graph.output}
    assert settings["classification"]["output"] in outputs
    assert settings.get("embedding", {"output": "logits"})["output"] in outputs
    labels = (folder / settings["class_labels"]).read_text().splitlines()
    pictures = [path.name for path in (folder / "samples").glob("*.png")]
    assert len(pictures) <= 16
    assert bool(pictures) != (folder.parent.name == "objects")  # its data may not be passed on
    assert {picture.rpartition("_")[0] for picture in pictures} <= set(labels)


def test_objects_names_the_right_class_among_five_often_enough() -> None:
    result = json.loads((ROOT / "recipes" / "results" / "objects-1.json").read_text())
    assert result["test_accuracy_top5"] >= 0.68
    folder = REPOSITORY / "objects" / "1"
    assert f"{result['test_accuracy_top5']:.2%}" in (folder / "CARD.md").read_text()
    assert "non-commercial" in (folder / "LICENSE").read_text()
    assert len(set((folder / "labels.txt").read_text().splitlines())) == 200


TRANSLATIONS = [v for v in VERSIONS if v.parent.name == "translate-de-en"]
TRANSLATION_BYTES = 12_000_000


def test_translation_ships_in_two_versions() -> None:
    assert [v.name for v in TRANSLATIONS] == ["1", "2"]


@pytest.mark.parametrize("folder", TRANSLATIONS, ids=name)
def test_a_translation_version_is_small_and_holds_shared_weights_once(folder: Path) -> None:
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= TRANSLATION_BYTES
    places = {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.name.endswith(".int8"):
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert places.setdefault(tensor.name, place) == place
    assert len(places) == 57  # every matrix of the network


def test_the_reached_quality_is_recorded_and_enough() -> None:
    result = json.loads((ROOT / "recipes" / "results" / "translate-de-en-2.json").read_text())
    card = (REPOSITORY / "translate-de-en" / "2" / "CARD.md").read_text()
    assert result["bleu"] >= 33
    assert f"| {result['bleu']:.2f} |" in card and f"| {result['chrf']:.2f} |" in card
    assert "test_2016_flickr" in card


@pytest.mark.parametrize("folder", TRANSLATIONS, ids=name)
def test_everyday_sentences_are_among_the_golden_translations(folder: Path) -> None:
    samples = [json.loads(path.read_text()) for path in folder.glob("samples/*.json")]
    texts = {sample["text"]: sample["translation"] for sample in samples}
    assert "station" in texts["Wo ist der Bahnhof?"]
    assert "lost my key" in texts["Ich habe meinen Schlüssel verloren."]
    assert "weather" in texts["Das Wetter ist heute schön."]
