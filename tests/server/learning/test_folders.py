"""What is written into a version, and what is read from folders and kept lessons."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.errors import Conflict, InvalidInput, PayloadTooLarge
from server.learning import kept, sources
from server.learning.examples import Example
from server.learning.features import without_features
from server.learning.kept import Base
from server.learning.sources import read_folder
from server.learning.version_folder import _table
from server.preprocessing.matrix_picture import draw_matrix

BASE = Base("eyes", "1", "vector", "eyes@1:abc")
EXAMPLES = [Example.of(f"{n}.png", "ab"[n % 2], bytes([n]) * 10) for n in range(4)]
FEATURES = np.arange(8, dtype=np.float32).reshape(4, 2)


def keep(folder: Path, *, pictures: bool = True) -> Path:
    folder.mkdir()
    assert not kept.is_learned(folder)
    assert kept.write(folder, BASE, "svm", EXAMPLES, FEATURES, pictures=pictures) is pictures
    assert kept.is_learned(folder)
    return folder


@pytest.mark.parametrize("pictures", [True, False])
def test_a_lesson_comes_back(tmp_path: Path, pictures: bool):
    found = kept.read(keep(tmp_path / "1", pictures=pictures))
    assert (found.base, found.method) == (BASE, "svm")
    for each, example, row in zip(found.examples, EXAMPLES, FEATURES, strict=True):
        assert (each.name, each.label, each.digest) == (example.name, example.label, example.digest)
        assert each.data == (example.data if pictures else None)
        np.testing.assert_array_equal(each.features, row)


def test_too_many_bytes_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "MAX_KEPT_BYTES", 39)
    (tmp_path / "1").mkdir()
    assert not kept.write(tmp_path / "1", BASE, "svm", EXAMPLES, FEATURES, pictures=True)


def zip_with(name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("index.json", b"{"),
        ("index.json", b"[]"),
        ("index.json", b'{"format": 2}'),
        ("index.json", b'{"format": 1, "items": {}}'),
        ("index.json", b'{"format": 1, "items": [1, 2, 3, 4]}'),
        ("index.json", b'{"format": 1, "items": []}'),
        ("features.npy", b"\x93NUMPY"),
        ("features.npy", npy(FEATURES.astype(np.float64))),
        ("features.npy", npy(FEATURES[:3])),
        ("features.npy", npy(FEATURES * np.float32(np.nan))),
        ("pictures.zip", b"PK"),
        ("pictures.zip", zip_with("7", b"x")),
        ("pictures.zip", zip_with("seven", b"x")),
        ("pictures.zip", zip_with("1", b"x" * 1000, zipfile.ZIP_DEFLATED)),
    ],
)
def test_a_spoiled_lesson_is_a_conflict(tmp_path: Path, name: str, data: bytes):
    folder = keep(tmp_path / "1")
    (folder / kept.FOLDER / name).write_bytes(data)
    with pytest.raises(Conflict, match="send all pictures anew"):
        kept.read(folder)


@pytest.mark.parametrize("limit", ["MAX_INDEX_BYTES", "MAX_FEATURES_BYTES", "MAX_KEPT_BYTES"])
def test_a_huge_lesson_is_not_read(tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch):
    folder = keep(tmp_path / "1")
    monkeypatch.setattr(kept, limit, 5)
    with pytest.raises(Conflict, match="5 bytes"):
        kept.read(folder)


def test_features_of_another_version_are_taken_off():
    example = Example("1", "a", "d", b"x", FEATURES[0])
    assert without_features(example, BASE).features is None
    with pytest.raises(Conflict, match="was not kept"):
        without_features(Example("1", "a", "d", None, FEATURES[0]), BASE)


# Folders


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_the_class_is_the_first_folder(tmp_path: Path):
    fill(tmp_path, "a/1.jpg", "a/deep/2.jpg", "b/3", "b/.hidden", ".git/4.jpg", "notes.txt")
    found, ignored = read_folder(tmp_path)
    assert [(each.name, each.label) for each in found] == [
        ("a/1.jpg", "a"),
        ("a/deep/2.jpg", "a"),
        ("b/3", "b"),
    ]
    assert ignored == ["notes.txt"]


def test_pictures_beside_the_folders(tmp_path: Path):
    fill(tmp_path, "a/1.jpg", "loose.jpg")
    with pytest.raises(InvalidInput, match=r"1 files lie outside .*'loose\.jpg'"):
        read_folder(tmp_path)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path, "a/1.jpg", "a/2.jpg")
    monkeypatch.setattr(sources, "MAX_PICTURES", 1)
    with pytest.raises(PayloadTooLarge, match="more than the 1 pictures"):
        read_folder(tmp_path)


# The picture of the matrix


@pytest.mark.parametrize("classes", [1, 2, 30, 61, 300])
def test_a_matrix_is_drawn(classes: int):
    random = np.random.default_rng(classes)
    matrix = random.integers(0, 12, (classes, classes))
    labels = [f"class {k} with a long name" for k in range(classes)]
    data = draw_matrix(matrix, labels, "a title")
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and max(image.size) < 2500
    assert draw_matrix(matrix, labels, "a title") == data


def test_colours_tell_right_from_wrong():
    image = Image.open(io.BytesIO(draw_matrix(np.array([[9, 0], [9, 0]]), ["a", "b"], "")))
    pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60).sum()
    red = (pixels[..., 0] - pixels[..., 2] > 60).sum()
    assert blue > 400 and red > 400  # the pixels of a cell each


def test_the_configuration_is_toml(tmp_path: Path):
    keys = {"text": 'a "b" \\ ü\n', "none": None, "list": (0.1, 1e-05), "flag": True, "n": 3}
    read = tomllib.loads(_table(keys))
    assert read == {"text": 'a "b" \\ ü\n', "list": [0.1, 1e-05], "flag": True, "n": 3}
    assert json.dumps(read)
