"""The CIFAR-10 pictures of the benchmarks, as JPEG files, and a collection filled with them."""

from __future__ import annotations

import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

TAR_PICTURES = 2500  # sent in one request
REQUEST_S = 1200.0


@dataclass(frozen=True)
class Pictures:
    """Files, each with the number of its class."""

    classes: tuple[str, ...]
    labels: list[int]
    files: list[bytes]

    def first(self, count: int) -> Pictures:
        """Return the first ones of each class, `count` of all classes together."""
        each, taken, chosen = count // len(self.classes), [0] * len(self.classes), []
        for place, label in enumerate(self.labels):
            if taken[label] < each:
                taken[label] += 1
                chosen.append(place)
        labels = [self.labels[place] for place in chosen]
        return Pictures(self.classes, labels, [self.files[place] for place in chosen])

    def id(self, place: int) -> str:
        """Return the id of a picture in a collection; its folder is its class."""
        return f"{self.classes[self.labels[place]]}/{place:05}.jpg"


def class_of(id: str) -> str:
    """Return the class that an id says."""
    return id.partition("/")[0]


def read_cifar(split: Literal["train", "test"]) -> Pictures:
    """Read a split from `$MILLRACE_TEST_DATA/images/cifar10_jpg.npz`."""
    root = os.environ.get("MILLRACE_TEST_DATA")
    if not root:
        raise SystemExit("set MILLRACE_TEST_DATA to the folder that has images/cifar10_jpg.npz")
    with np.load(Path(root, "images", "cifar10_jpg.npz")) as archive:
        offsets = archive[f"{split}_offsets"]
        data = archive[f"{split}_jpg"].tobytes()
        labels = archive[f"{split}_labels"].tolist()
        classes = tuple(str(name) for name in archive["classes"])
    files = [data[a:b] for a, b in pairwise(offsets.tolist())]
    return Pictures(classes, labels, files)


def call(url: str, body: bytes | None = None, kind: str = "application/json") -> dict[str, Any]:
    """POST a body, or GET, and return the JSON answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
        parsed: dict[str, Any] = json.loads(answer.read())
        return parsed


def make_collection(url: str, name: str, model: str) -> None:
    """Make a collection that is bound to a model."""
    call(f"{url}/collections", json.dumps({"name": name, "model": model}).encode())


def fill_collection(url: str, name: str, pictures: Pictures) -> None:
    """Put pictures in, in tar files; what fails ends the benchmark."""
    firsts = range(0, len(pictures.files), TAR_PICTURES)
    for first in track(list(firsts), description=f"filling {name}"):
        places = range(first, min(first + TAR_PICTURES, len(pictures.files)))
        address = f"{url}/collections/{name}/items"
        done = call(address, tar_of(pictures, places), "application/x-tar")
        if done["failed"] or done["done"] != len(places):
            raise SystemExit(f"pictures could not be put in: {done}")


def tar_of(pictures: Pictures, places: Sequence[int]) -> bytes:
    """Return some of the pictures as a tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for place in places:
            entry = tarfile.TarInfo(pictures.id(place))
            entry.size = len(pictures.files[place])
            archive.addfile(entry, io.BytesIO(pictures.files[place]))
    return file.getvalue()
