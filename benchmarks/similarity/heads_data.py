"""Data sets for classifiers from a few pictures: the CIFAR-10 photographs, the MNIST digits."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.similarity.cifar import Pictures, read_cifar

Split = Literal["train", "test"]
DATA_SETS = ("cifar10", "mnist")
DIGITS = tuple(str(digit) for digit in range(10))
IDX_HEADER_BYTES = {"images": 16, "labels": 8}


def read_split(name: str, split: Split) -> Pictures:
    """Return the pictures of a data set as files, in their official order."""
    return read_cifar(split) if name == "cifar10" else read_digits(split)


def read_digits(split: Split) -> Pictures:
    """Read MNIST from `$MILLRACE_TEST_DATA/images/mnist`; of the training set its first 10,000."""
    folder = Path(os.environ["MILLRACE_TEST_DATA"], "images", "mnist")
    if split == "train":
        with np.load(folder / "train_10k.npz") as archive:
            images, labels = (archive[name] for name in sorted(archive.files)[:2])
        if images.ndim < labels.ndim:
            images, labels = labels, images
    else:
        images = _idx(folder / "t10k-images-idx3-ubyte.gz", "images").reshape(-1, 28, 28)
        labels = _idx(folder / "t10k-labels-idx1-ubyte.gz", "labels")
    files = [_png(image.reshape(28, 28)) for image in images]
    return Pictures(DIGITS, labels.astype(int).tolist(), files)


def _idx(path: Path, kind: str) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes())[IDX_HEADER_BYTES[kind] :], np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def draw(pictures: Pictures, each: int, seed: int) -> list[int]:
    """Return the places of `each` pictures of every class, drawn at random, class by class."""
    labels = np.asarray(pictures.labels)
    random = np.random.default_rng(seed)
    chosen = [
        np.sort(random.choice(np.flatnonzero(labels == k), each, replace=False))
        for k in range(len(pictures.classes))
    ]
    return [int(place) for place in np.concatenate(chosen)]


def zip_of(pictures: Pictures, places: Sequence[int]) -> bytes:
    """Return pictures as a zip file with a folder per class."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for place in places:
            archive.writestr(pictures.id(place), pictures.files[place])
    return file.getvalue()
