import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common import package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"weights")
    package.write_labels(tmp_path, ["cat", "dog"])
    image = np.ones((2, 1, 4, 4), np.float32)
    package.write_sample(tmp_path, 0, {"image": image}, {"logits": np.zeros((2, 2), np.float32)})
    package.write_manifest(tmp_path, "pets", "3")
    return tmp_path


def test_the_manifest_lists_every_file_but_itself(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.onnx", "labels.txt", "samples/0.npz"}
    assert (manifest["format"], manifest["model"], manifest["version"]) == (1, "pets", "3")
    assert manifest["files"]["model.onnx"]["bytes"] == 7
    assert package.damaged_files(folder) == []


def test_a_changed_and_a_missing_file_are_found(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"weightS")
    (folder / "labels.txt").unlink()
    assert sorted(package.damaged_files(folder)) == ["labels.txt", "model.onnx"]


def test_a_sample_names_inputs_and_outputs(folder: Path) -> None:
    with np.load(folder / "samples" / "0.npz", allow_pickle=False) as sample:
        assert sorted(sample.files) == ["input:image", "output:logits"]
        assert sample["output:logits"].dtype == np.float32


def test_pictures_are_named_by_class_and_spread_over_classes(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    labels = np.repeat(np.arange(3), 4)
    images = np.zeros((12, 8, 8, 3), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None]
    chosen = package.write_pictures(tmp_path, images, labels, ["a", "b", "c"], count=5)
    assert chosen == {"a_0.png": 0, "b_0.png": 4, "c_0.png": 8, "a_1.png": 1, "b_1.png": 5}
    with Image.open(tmp_path / "samples" / "b_1.png") as picture:
        assert np.array_equal(np.asarray(picture), images[5])
