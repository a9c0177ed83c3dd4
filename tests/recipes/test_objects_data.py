"""Reading Tiny ImageNet: encoded pictures in one archive, decoded once."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common.data import DataMalformed, DataNotFound
from recipes.objects.data import decoded, load_tiny_imagenet, short_name


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def joined(files: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(file) for file in files)]).astype(np.int64)
    return np.frombuffer(b"".join(files), np.uint8), offsets


def write_archive(path: Path, **changes: object) -> np.ndarray:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    files, offsets = joined([encoded(image) for image in images])
    members: dict[str, object] = {"classes": np.array(["goldfish, Carassius auratus", "orange"])}
    for split, rows in (("train", slice(0, 3)), ("test", slice(3, 5))):
        start, end = offsets[rows.start], offsets[rows.stop]
        members[f"{split}_img"] = files[start:end]
        members[f"{split}_offsets"] = offsets[rows.start : rows.stop + 1] - start
        members[f"{split}_labels"] = np.array([1, 0, 1], np.uint8)[: rows.stop - rows.start]
    members |= changes
    np.savez(path, **{name: value for name, value in members.items() if value is not None})
    return images


def test_pictures_labels_and_short_names_are_read(tmp_path: Path) -> None:
    images = write_archive(tmp_path / "tiny_imagenet200.npz")
    data = load_tiny_imagenet(tmp_path, tmp_path / "cache")
    assert np.array_equal(data.train.images, images[:3])
    assert np.array_equal(data.test.images, images[3:])
    assert data.train.labels.tolist() == [1, 0, 1] and data.train.labels.dtype == np.int64
    assert data.classes == ("goldfish", "orange")


def test_decoded_pictures_are_kept_until_the_archive_changes(tmp_path: Path) -> None:
    archive, cache = tmp_path / "pictures.npz", tmp_path / "cache"
    write_archive(archive)
    load_tiny_imagenet(archive, cache)
    kept = np.load(cache / "tiny-imagenet-test.npy")
    np.save(cache / "tiny-imagenet-test.npy", kept * 0)
    assert not load_tiny_imagenet(archive, cache).test.images.any()  # read, not decoded again
    os.utime(archive, ns=(1, 1))
    assert np.array_equal(load_tiny_imagenet(archive, cache).test.images, kept)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"tiny_imagenet200\.npz"):
        load_tiny_imagenet(tmp_path, tmp_path)
    path = tmp_path / "some.npz"
    write_archive(path, test_labels=None)
    with pytest.raises(DataMalformed, match="lacks test_labels"):
        load_tiny_imagenet(path, tmp_path)


def test_a_label_without_a_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    write_archive(path, classes=np.array(["orange"]))
    with pytest.raises(DataMalformed, match="label 1, but 1 classes"):
        load_tiny_imagenet(path, tmp_path)


def test_a_broken_and_a_large_picture_are_refused() -> None:
    with pytest.raises(DataMalformed, match="picture 0 cannot be decoded"):
        decoded(*joined([b"no picture"]), "x.npz")
    small, large = (encoded(np.zeros((side, side, 3), np.uint8)) for side in (64, 65))
    with pytest.raises(DataMalformed, match="picture 1 is"):
        decoded(*joined([small, large]), "x.npz")


def test_grey_pictures_become_rgb() -> None:
    grey = encoded(np.full((64, 64), 7, np.uint8), "WEBP")
    assert decoded(*joined([grey]), "x.npz").shape == (1, 64, 64, 3)


@pytest.mark.parametrize(("name", "short"), [("a b, c", "a b"), ("d", "d"), (" e ,f", "e")])
def test_the_first_synonym_is_the_short_name(name: str, short: str) -> None:
    assert short_name(name) == short
