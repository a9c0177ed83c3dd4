"""Tiny ImageNet from an archive of encoded pictures, decoded once and kept beside the build.

The archive (`tiny_imagenet200.npz`) holds for `train` and `test` the files joined in one array
(`_img`), where each begins (`_offsets`) and what it shows (`_labels`), and the `classes`.
"""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from PIL import Image

from recipes.common.data import DataMalformed, DataNotFound, Dataset, Pictures, Split

ARCHIVE = "tiny_imagenet200.npz"
SIZE = 64                                 # height and width of every picture
SPLITS = ("train", "test")
MEMBERS = ("classes", *(f"{s}_{m}" for s in SPLITS for m in ("img", "offsets", "labels")))


def load_tiny_imagenet(path: Path, cache: Path) -> Dataset:
    """Read the archive at `path` (file, or folder that holds it); pictures are (n, 64, 64, 3).

    Decoded pictures are kept in `cache` and read from there as long as the archive stays the
    same. Raises DataNotFound and DataMalformed.
    """
    archive = path / ARCHIVE if path.is_dir() else path
    if not archive.is_file():
        raise DataNotFound(f"{path} is no {ARCHIVE} and no folder that holds one")
    with np.load(archive, allow_pickle=False) as members:
        missing = [name for name in MEMBERS if name not in members.files]
        if missing:
            raise DataMalformed(f"{archive.name} lacks {', '.join(missing)}")
        classes = tuple(short_name(str(name)) for name in members["classes"])
        train, test = (_split(members, split, archive, cache) for split in SPLITS)
    highest = int(max(train.labels.max(initial=-1), test.labels.max(initial=-1)))
    if highest >= len(classes):
        raise DataMalformed(f"{archive.name}: label {highest}, but {len(classes)} classes")
    return Dataset(train, test, classes)


def short_name(synonyms: str) -> str:
    """Return the first of WordNet's synonyms, which stand separated by commas."""
    return synonyms.partition(",")[0].strip()


def _split(members: NpzFile, split: str, archive: Path, cache: Path) -> Split:
    labels = members[f"{split}_labels"].astype(np.int64)
    images = _cached(members, split, archive, cache)
    return Split(images, labels, f"{archive.name} ({split})")


def _cached(members: NpzFile, split: str, archive: Path, cache: Path) -> Pictures:
    found = archive.stat()
    stamp = json.dumps({"bytes": found.st_size, "modified": found.st_mtime_ns})
    kept, mark = cache / f"tiny-imagenet-{split}.npy", cache / f"tiny-imagenet-{split}.json"
    if kept.is_file() and mark.is_file() and mark.read_text() == stamp:
        images: Pictures = np.load(kept, allow_pickle=False)
        return images
    images = decoded(members[f"{split}_img"], members[f"{split}_offsets"], archive.name)
    cache.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)          # an array half written must not pass for a whole one
    np.save(kept, images)
    mark.write_text(stamp)
    return images


def decoded(files: NDArray[np.uint8], offsets: NDArray[np.int64], name: str) -> Pictures:
    """Decode pictures (JPEG, WebP, PNG) that lie one after another; all must be 64 x 64."""
    images = np.empty((len(offsets) - 1, SIZE, SIZE, 3), np.uint8)
    for k, (start, end) in enumerate(pairwise(offsets.tolist())):
        try:
            with Image.open(io.BytesIO(files[start:end].tobytes())) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DataMalformed(f"{name}: picture {k} cannot be decoded: {error}") from error
        if pixels.shape != images.shape[1:]:
            raise DataMalformed(f"{name}: picture {k} is {pixels.shape}, expected {SIZE} x {SIZE}")
        images[k] = pixels
    return images
