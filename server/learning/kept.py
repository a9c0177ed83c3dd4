"""What a version that was learned keeps of its lesson, so that more pictures can be added to it.

<version>/training/index.json       base, method, and a line per picture: name, label, digest
<version>/training/features.npy     (n, d) float32
<version>/training/pictures.zip     the pictures by number, if they are kept
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.errors import Conflict
from server.learning.examples import MAX_PICTURES, Example
from server.repository.bounded_archives import DAMAGED, open_zip

FOLDER: Final = "training"
INDEX_FILE, FEATURES_FILE, PICTURES_FILE = "index.json", "features.npy", "pictures.zip"
FORMAT: Final = 1
MAX_INDEX_BYTES: Final = 64 << 20
MAX_FEATURES_BYTES: Final = 1 << 30
MAX_KEPT_BYTES: Final = 256 << 20  # of pictures; of larger sets the features alone are kept


@dataclass(frozen=True)
class Base:
    """Whose features were learned from."""

    model: str
    version: str
    output: str
    space: str  # the same where features are comparable


@dataclass(frozen=True)
class Kept:
    """A lesson read back."""

    base: Base
    method: str
    examples: tuple[Example, ...]


def is_learned(version: Path) -> bool:
    """Say whether a version was made by learning."""
    return (version / FOLDER / INDEX_FILE).is_file()


def write(
    version: Path,
    base: Base,
    method: str,
    examples: Sequence[Example],
    features: NDArray[np.float32],
    *,
    pictures: bool,
) -> bool:
    """Keep a lesson in a version's folder; return whether its pictures are kept as well."""
    folder = version / FOLDER
    folder.mkdir()
    size = sum(len(example.data or b"") for example in examples)
    pictures = pictures and size <= MAX_KEPT_BYTES
    body = {
        "format": FORMAT,
        "base": asdict(base),
        "method": method,
        "pictures": pictures,
        "items": [
            {"name": each.name, "label": each.label, "sha256": each.digest} for each in examples
        ],
    }
    (folder / INDEX_FILE).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    np.save(folder / FEATURES_FILE, features.astype(np.float32), allow_pickle=False)
    if pictures:
        with zipfile.ZipFile(folder / PICTURES_FILE, "w", zipfile.ZIP_STORED) as archive:
            for number, example in enumerate(examples):
                if example.data is not None:
                    archive.writestr(str(number), example.data)
    return pictures


def read(version: Path) -> Kept:
    """Read what a version keeps.

    Raises:
        Conflict: it cannot be used; send all pictures anew.
    """
    folder = version / FOLDER
    try:
        body = _read_index(folder / INDEX_FILE)
        features = _read_features(folder / FEATURES_FILE, len(body["items"]))
        pictures = _read_pictures(folder / PICTURES_FILE, len(body["items"]))
        base = Base(**{name: str(body["base"][name]) for name in Base.__dataclass_fields__})
        examples = tuple(
            Example(str(item["name"]), str(item["label"]), str(item["sha256"]), picture, row)
            for item, row, picture in zip(body["items"], features, pictures, strict=True)
        )
        return Kept(base, str(body["method"]), examples)
    except (*DAMAGED, OSError, LookupError, TypeError) as error:
        raise Conflict(
            f"what version {version.name!r} keeps of its pictures cannot be used ({error}); send "
            "all pictures anew, to the base model"
        ) from error


def _read_index(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ValueError(f"{path.name} is longer than {MAX_INDEX_BYTES} bytes")
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"{path.name} is not of format {FORMAT}")
    if not isinstance(body.get("items"), list) or len(body["items"]) > MAX_PICTURES:
        raise ValueError(f"{path.name} does not list up to {MAX_PICTURES} pictures")
    return body


def _read_features(path: Path, count: int) -> NDArray[np.float32]:
    if path.stat().st_size > MAX_FEATURES_BYTES:
        raise ValueError(f"{path.name} is longer than {MAX_FEATURES_BYTES} bytes")
    features: NDArray[np.float32] = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != count:
        raise ValueError(f"{path.name} does not hold a row of float32 for each of {count} pictures")
    if not np.isfinite(features).all():
        raise ValueError(f"{path.name} holds NaN or infinity")
    return features


def _read_pictures(path: Path, count: int) -> list[bytes | None]:
    found: list[bytes | None] = [None] * count
    if not path.is_file():
        return found
    left = MAX_KEPT_BYTES
    with path.open("rb") as file, open_zip(file, count) as archive:
        for entry in archive.infolist():
            left -= entry.file_size
            if left < 0 or entry.file_size != entry.compress_size:
                raise ValueError(
                    f"{path.name} holds more than {MAX_KEPT_BYTES} bytes, or is packed"
                )
            found[int(entry.filename)] = archive.read(entry)
    return found
