import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common.data import DataMalformed, DataNotFound, load_cifar10, load_mnist, read_idx


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def digits(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))


def test_mnist_in_idx_format_packed_or_not(tmp_path: Path, rng: np.random.Generator) -> None:
    train, test = digits(rng, 5), digits(rng, 3)
    write_idx(tmp_path, "train", *train)
    write_idx(tmp_path, "t10k", *test)
    data = load_mnist(tmp_path)
    assert np.array_equal(data.train.images, train[0])
    assert np.array_equal(data.test.labels, test[1])
    assert data.classes[7] == "7"


def test_the_small_training_archive_takes_the_place_of_idx(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_idx(tmp_path, "t10k", *digits(rng, 3))
    images, labels = digits(rng, 4)
    np.savez(tmp_path / "train_10k.npz", images=images, labels=labels)
    assert np.array_equal(load_mnist(tmp_path).train.images, images)


def test_an_archive_without_labels_names_what_is_missing(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_idx(tmp_path, "t10k", *digits(rng, 3))
    np.savez(tmp_path / "train_10k.npz", images=np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(DataMalformed, match="lacks labels"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an idx file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "cut off"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "3 values, but the header says"),
    ],
)
def test_a_damaged_idx_file_says_what_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(DataMalformed, match=problem):
        read_idx(data, "some-file")


def test_pictures_and_labels_must_be_as_many(tmp_path: Path, rng: np.random.Generator) -> None:
    images, labels = digits(rng, 4)
    write_idx(tmp_path, "t10k", images, labels[:3])
    with pytest.raises(DataMalformed, match="4 pictures but 3 labels"):
        load_mnist(tmp_path)


def test_an_empty_folder_is_answered_with_the_names_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="t10k-images-idx3-ubyte"):
        load_mnist(tmp_path)
    with pytest.raises(DataNotFound, match=r"data_batch_1\.bin"):
        load_cifar10(tmp_path)
    with pytest.raises(DataNotFound, match="no such folder"):
        load_mnist(tmp_path / "absent")


def cifar_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tobytes()


def test_cifar10_binary_version(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = np.arange(12) % 10
    for k in range(5):
        rows = slice(2 * k, 2 * k + 2)
        (folder / f"data_batch_{k + 1}.bin").write_bytes(cifar_records(images[rows], labels[rows]))
    (folder / "test_batch.bin").write_bytes(cifar_records(images[10:], labels[10:]))
    data = load_cifar10(tmp_path)
    assert np.array_equal(data.train.images, images[:10])
    assert np.array_equal(data.train.labels, labels[:10])
    assert np.array_equal(data.test.images, images[10:])
    assert data.classes[3] == "cat"


def test_a_cut_off_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(DataMalformed, match="no whole number of records"):
        load_cifar10(tmp_path)


def test_the_pickled_version_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"not even a pickle")
    with pytest.raises(DataNotFound, match="unpickling runs code"):
        load_cifar10(tmp_path)


def test_cifar10_as_jpeg_archive(tmp_path: Path) -> None:
    members: dict[str, np.ndarray] = {"classes": np.array(["cat", "dog"])}
    for split, shades in (("train", (10, 200, 90)), ("test", (60,))):
        files = [jpeg(shade) for shade in shades]
        members[f"{split}_jpg"] = np.frombuffer(b"".join(files), np.uint8)
        members[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        members[f"{split}_labels"] = np.arange(len(files)) % 2
    path = tmp_path / "cifar10_jpg.npz"
    np.savez(path, **members)
    data = load_cifar10(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (3, 32, 32, 3)
    assert [int(image.mean().round()) for image in data.train.images] == [10, 200, 90]
    assert np.array_equal(load_cifar10(path).test.images, data.test.images)


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
