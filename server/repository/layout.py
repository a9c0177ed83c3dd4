"""What the names in a model repository mean. Pure: takes names, touches no disk.

    <repository>/<model>/model.toml
    <repository>/<model>/<version>/model.onnx ...        a version
    <repository>/<model>/model.onnx ...                  files right here are version "1",
    <repository>/<model>/onnx/model.onnx                 and so are files in `onnx/`
    <repository>/<model>/<version>/encoder_model.onnx, decoder_model*.onnx      text to text

A version's graphs may also lie in an `onnx/` folder of its own.

Names that start with "." belong to the server (`.incoming-*`, `.trash-*`, `.state.json`) or to
tools, and are never models or versions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

MODEL_FILE = "model.onnx"
ENCODER_FILE = "encoder_model.onnx"
DECODER_FILES = (
    *("decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"),
)
MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "model.toml"
STATE_FILE = ".state.json"
SAMPLES_FOLDER = "samples"
FLAT_FOLDER = "onnx"  # Optimum exports put the graph here and its configuration one level up
FLAT_VERSION = "1"
INCOMING_PREFIX = ".incoming-"
TRASH_PREFIX = ".trash-"

MAX_NAME_CHARS = 128
MAX_NAME_BYTES = 200  # a file system allows 255, and the prefixes above need some of them

_DIGITS = re.compile(r"([0-9]+)")

NaturalKey = tuple[tuple[str | int, ...], int, str]


class NameInvalid(ValueError):
    """A model, version or label name that cannot be used; the message says what is wrong."""


def check_name(name: str, what: str = "model") -> str:
    """Return the name if it can be a folder of the repository and a part of a URL.

    Raises:
        NameInvalid: empty, too long, hidden, or with `/`, `\\`, `:`, `..` or control characters.
    """
    fault = _name_fault(name)
    if fault is None:
        return name
    shown = name if len(name) <= 40 else name[:40] + "..."
    raise NameInvalid(
        f"the {what} name {shown!r} {fault}; use up to {MAX_NAME_CHARS} letters, digits, '-', '_' "
        "and '.', not starting with '.'"
    )


def is_name(name: str) -> bool:
    """Say whether a folder of this name may be a model or a version."""
    return _name_fault(name) is None


def _name_fault(name: str) -> str | None:
    if not name:
        return "is empty"
    if len(name) > MAX_NAME_CHARS:
        return f"has {len(name)} characters"
    if name.startswith("."):
        return "starts with '.'"
    if ".." in name:
        return "contains '..'"
    if not name.isprintable() or name != name.strip():
        return "has control characters, or spaces at an end"
    # ":" ends the name in TensorFlow Serving's routes (`/v1/models/m:predict`); the others
    # separate folders, or the path from the query.
    bad = sorted(set(name) & set("/\\:?#%"))
    if bad:
        return f"contains {' '.join(bad)}"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        return f"has more than {MAX_NAME_BYTES} bytes"
    return None


def natural_key(name: str) -> NaturalKey:
    """Order names as people do: "2" < "10", "v1.9" < "v1.10"; different names never tie."""
    # Text and numbers alternate from the first part on, so that like is compared with like.
    parts = tuple(
        int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name))
    )
    return parts, len(name), name


def natural_sorted(names: Iterable[str]) -> list[str]:
    """Return the names from oldest to newest."""
    return sorted(names, key=natural_key)


def next_version(versions: Iterable[str]) -> str:
    """Return the number that a version published without a name gets."""
    numbers = [int(version) for version in versions if re.fullmatch("[0-9]+", version)]
    return str(max(numbers, default=0) + 1)


@dataclass(frozen=True)
class Listing:
    """The visible names directly in one folder."""

    files: frozenset[str]
    folders: frozenset[str] = frozenset()


def find_model_file(files: Collection[str]) -> str | None:
    """Return the file that a version is loaded from; None if there is no such one.

    That is `encoder_model.onnx` where a decoder lies beside it, `model.onnx`, or the only `*.onnx`;
    at the top, or else in `onnx/`.
    """
    found = _graph_of({name for name in files if "/" not in name})
    if found is not None:
        return found
    prefix = f"{FLAT_FOLDER}/"
    nested = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
    found = _graph_of({name for name in nested if "/" not in name})
    return None if found is None else prefix + found


def _graph_of(files: Collection[str]) -> str | None:
    if holds_decoder(files):
        return ENCODER_FILE
    if MODEL_FILE in files:
        return MODEL_FILE
    candidates = [name for name in files if is_graph_file(name)]
    return candidates[0] if len(candidates) == 1 else None


def holds_decoder(files: Collection[str]) -> bool:
    """Say whether these are an encoder with its decoder, as Optimum exports them."""
    return ENCODER_FILE in files and any(name in files for name in DECODER_FILES)


def is_graph_file(name: str) -> bool:
    """Say whether a file's name is that of an ONNX graph."""
    return name.lower().endswith(".onnx") and not name.startswith(".")


def version_folders(model: Listing, inner: Mapping[str, Listing]) -> dict[str, tuple[str, ...]]:
    """Map each version of a model to its folder, as path parts below the model's own folder.

    Args:
        model: the model folder's own names.
        inner: the names in each of its folders.
    """
    found: dict[str, tuple[str, ...]] = {}
    if _holds_graph(model):
        found[FLAT_VERSION] = ()
    elif FLAT_FOLDER in inner and _holds_graph(inner[FLAT_FOLDER]):
        found[FLAT_VERSION] = (FLAT_FOLDER,)
    for name, listing in inner.items():
        # A folder that is called "1" says so itself and wins over files that only imply it.
        if name != FLAT_FOLDER and is_name(name) and _is_version(listing):
            found[name] = (name,)
    return {version: found[version] for version in natural_sorted(found)}


def _holds_graph(listing: Listing) -> bool:
    return any(is_graph_file(name) for name in listing.files)


def _is_version(listing: Listing) -> bool:
    # A manifest without a graph is a version being copied: shown, never loaded.
    return _holds_graph(listing) or MANIFEST_FILE in listing.files
