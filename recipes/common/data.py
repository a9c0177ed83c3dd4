"""Data sets as arrays, read from the forms in which they are usually distributed.

Pickled forms are refused on purpose: unpickling a downloaded file runs whatever it contains.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pictures = NDArray[np.uint8]
Labels = NDArray[np.int64]

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32
IDX_UINT8 = 0x08


class DataNotFound(Exception):
    """`--data` holds none of the forms that the recipe reads; the message lists them."""


class DataMalformed(Exception):
    """A data file is there, but its content is not what its name promises."""


@dataclass(frozen=True)
class Split:
    """Pictures and their labels, in the order of the file."""

    images: Pictures                      # (n, height, width) grey or (n, height, width, 3) RGB
    labels: Labels                        # (n,)
    source: str                           # file names, for the model card

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataMalformed(
                f"{self.source}: {len(self.images)} pictures but {len(self.labels)} labels"
            )


@dataclass(frozen=True)
class Dataset:
    """The training pictures and the official test split."""

    train: Split
    test: Split
    classes: tuple[str, ...]


def load_mnist(folder: Path) -> Dataset:
    """Read MNIST: idx files (plain or .gz), or `train_10k.npz` in place of the training files."""
    folder = existing_folder(folder)
    test = _mnist_idx(folder, "t10k")
    small = folder / "train_10k.npz"
    train = _npz_arrays(small) if small.exists() else _mnist_idx(folder, "train")
    return Dataset(train, test, tuple(str(digit) for digit in range(10)))


def load_cifar10(path: Path) -> Dataset:
    """Read CIFAR-10: the binary version (`data_batch_*.bin`), or an archive of JPEG copies."""
    if path.is_file():
        return _jpeg_archive(path)
    folder = existing_folder(path)
    for candidate in (folder, folder / "cifar-10-batches-bin"):
        if (candidate / "data_batch_1.bin").exists():
            return _cifar10_binary(candidate)
    if (folder / "cifar10_jpg.npz").exists():
        return _jpeg_archive(folder / "cifar10_jpg.npz")
    raise DataNotFound(
        f"{folder} holds neither data_batch_1.bin (CIFAR-10, binary version) nor cifar10_jpg.npz."
        + _advice_on_pickles(folder)
    )


def existing_folder(folder: Path) -> Path:
    """Return `folder`, or say that it is not there."""
    if not folder.is_dir():
        raise DataNotFound(f"--data {folder}: no such folder")
    return folder


def read_idx(data: bytes, name: str) -> Pictures:
    """Decode one idx file of unsigned bytes: magic, dims as big-endian uint32, raw values."""
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8:
        raise DataMalformed(f"{name}: not an idx file of unsigned bytes")
    rank = data[3]
    if len(data) < 4 + 4 * rank:
        raise DataMalformed(f"{name}: cut off inside the header")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataMalformed(f"{name}: {values.size} values, but the header says {shape}")
    return values.reshape(shape)


def _mnist_idx(folder: Path, prefix: str) -> Split:
    images = _read_idx_file(folder, f"{prefix}-images-idx3-ubyte")
    labels = _read_idx_file(folder, f"{prefix}-labels-idx1-ubyte")
    if images.shape[1:] != (28, 28):
        raise DataMalformed(f"{prefix}-images: pictures of {images.shape[1:]}, expected (28, 28)")
    return Split(images, labels.astype(np.int64), f"{prefix}-images, {prefix}-labels (idx)")


def _read_idx_file(folder: Path, stem: str) -> Pictures:
    # Some mirrors write `train-images.idx3-ubyte`.
    for name in (stem, stem.replace("-idx", ".idx")):
        for suffix, read in ((".gz", _read_gzip), ("", Path.read_bytes)):
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return read_idx(read(path), path.name)
    raise DataNotFound(f"{folder} holds no {stem}.gz (MNIST in idx format) and no {stem}")


def _read_gzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataMalformed(f"{path.name}: {error}") from error


def _npz_arrays(path: Path) -> Split:
    with np.load(path, allow_pickle=False) as archive:
        _require_members(path, archive.files, ("images", "labels"))
        return Split(archive["images"], archive["labels"].astype(np.int64), path.name)


def _cifar10_binary(folder: Path) -> Dataset:
    train = [_cifar10_records(folder / f"data_batch_{i}.bin") for i in range(1, 6)]
    images = np.concatenate([pictures for pictures, _ in train])
    labels = np.concatenate([classes for _, classes in train])
    test = Split(*_cifar10_records(folder / "test_batch.bin"), "test_batch.bin")
    return Dataset(Split(images, labels, "data_batch_1..5.bin"), test, CIFAR10_CLASSES)


def _cifar10_records(path: Path) -> tuple[Pictures, Labels]:
    """A record is one label byte and the red, green and blue planes."""
    if not path.is_file():
        raise DataNotFound(f"{path} is missing")
    data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % CIFAR10_RECORD_BYTES:
        raise DataMalformed(f"{path.name}: {data.size} bytes are no whole number of records")
    records = data.reshape(-1, CIFAR10_RECORD_BYTES)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int64)


def _jpeg_archive(path: Path) -> Dataset:
    with np.load(path, allow_pickle=False) as archive:
        members = [f"{s}_{m}" for s in ("train", "test") for m in ("jpg", "offsets", "labels")]
        _require_members(path, archive.files, members)
        classes = tuple(str(name) for name in archive["classes"])
        train, test = (_decode_split(archive.__getitem__, s, path.name) for s in ("train", "test"))
    return Dataset(train, test, classes)


def _decode_split(member: Callable[[str], NDArray[np.generic]], split: str, name: str) -> Split:
    files, offsets = member(f"{split}_jpg").tobytes(), member(f"{split}_offsets").astype(np.int64)
    images = np.stack([_decode_rgb(files[start:end]) for start, end in pairwise(offsets)])
    return Split(images, member(f"{split}_labels").astype(np.int64), f"{name} ({split})")


def _decode_rgb(data: bytes) -> Pictures:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _require_members(path: Path, found: list[str], needed: tuple[str, ...] | list[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataMalformed(f"{path.name} lacks {', '.join(missing)}; it holds {', '.join(found)}")


def _advice_on_pickles(folder: Path) -> str:
    pickled = (folder / "data_batch_1", folder / "cifar-10-batches-py")
    if not any(path.exists() for path in pickled):
        return ""
    return (
        " The python version is pickled and is not read, because unpickling runs code;"
        " take the binary version from the same page."
    )
