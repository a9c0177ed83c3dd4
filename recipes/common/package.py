"""Version folders of the model repository: files, golden samples, and the manifest over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MANIFEST = "manifest.json"
FORMAT = 1


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """Write `labels.txt`: line k names class k."""
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")


def write_sample(
    folder: Path,
    index: int,
    inputs: Mapping[str, NDArray[np.float32]],
    outputs: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write one golden sample: what goes in, and what has to come out."""
    arrays = {f"input:{name}": value for name, value in inputs.items()}
    arrays |= {f"output:{name}": value for name, value in outputs.items()}
    path = folder / "samples" / f"{index}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def write_pictures(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    count: int = 16,
) -> dict[str, int]:
    """Write demo pictures named after their class; return which row each file shows.

    Rows are taken from the start of the split so that every class comes up equally often.
    """
    chosen: dict[str, int] = {}
    for turn in range(count):
        label, k = turn % len(classes), turn // len(classes)
        row = int(np.flatnonzero(labels == label)[k])
        name = f"{classes[label]}_{k}.png"
        Image.fromarray(images[row]).save(folder / "samples" / name, optimize=True)
        chosen[name] = row
    return chosen


def write_manifest(folder: Path, model: str, version: str) -> None:
    """List every file of a version folder with its hash and size."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    entries = {p.relative_to(folder).as_posix(): _entry(p) for p in files}
    manifest = {"format": FORMAT, "model": model, "version": version, "files": entries}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def damaged_files(folder: Path) -> list[str]:
    """Return the files that the manifest lists and the folder holds not or otherwise."""
    manifest = json.loads((folder / MANIFEST).read_text())
    return [
        name
        for name, entry in manifest["files"].items()
        if not (folder / name).is_file() or _entry(folder / name) != entry
    ]


def _entry(path: Path) -> dict[str, str | int]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
