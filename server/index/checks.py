"""What every store asks of names, ids, metadata and vectors before it takes them.

The limits are those that all stores can keep: PostgreSQL knows no NUL in a text, SQLite no
integer beyond 64 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from server.errors import InvalidInput
from server.index.contract import CollectionSpec, Metadata, Metric, NewItem, Vectors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
METRICS = ("cosine", "dot", "l2")
INTEGERS = range(-(2**63), 2**63)
MAX_ID = 512  # characters
MAX_METADATA = 64 << 10  # bytes of JSON
MAX_METADATA_DEPTH = 32
MAX_DIM = 65_536
MAX_SPACE_KEY = 512  # characters
MAX_MAGNITUDE = np.float32(1e15)  # of a vector's elements: sums of their squares stay finite
# Of the largest element, where only the direction counts: below, squares have no digits left.
MIN_MAGNITUDE = np.float32(1e-15)


def is_clean(text: str) -> bool:
    """Tell whether a string can be stored: encodable, and without NUL."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone half of a surrogate pair
        return False
    return True


def shown(value: object) -> str:
    """Return a value as an error shows it, whatever it is: short, and one line."""
    # At most 64 bits are printed in full: Python refuses to print very long integers.
    if isinstance(value, int) and value not in INTEGERS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_name(name: object) -> str:
    """Return a collection's name.

    Raises:
        InvalidInput: it could not be a folder's name and a part of a URL as it stands.
    """
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    expected = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
    raise InvalidInput(
        f"a collection's name has {expected}; got {shown(name)}",
        field="name",
        expected=expected,
        got=shown(name),
    )


def check_spec(spec: CollectionSpec) -> CollectionSpec:
    """Return what a collection is to be made with.

    Raises:
        InvalidInput: its name, metric or length of vectors is none.
    """
    check_name(spec.name)
    if spec.metric not in METRICS:
        raise InvalidInput(
            f"metric: expected one of {', '.join(METRICS)}, got {shown(spec.metric)}",
            field="metric",
        )
    if spec.dim is not None:
        check_dim(spec.dim)
    if spec.model is not None and not is_clean(spec.model):
        raise InvalidInput("model: the name is not valid text", field="model")
    return spec


def check_dim(dim: int) -> int:
    """Return the length of a space's vectors.

    Raises:
        InvalidInput: no vector is that long.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
        raise InvalidInput(
            f"dim: vectors have 1 to {MAX_DIM} elements, got {shown(dim)}", field="dim"
        )
    return dim


def check_space_key(key: str) -> str:
    """Return the key of a space.

    Raises:
        InvalidInput: it is empty, too long, or not valid text.
    """
    if not key or len(key) > MAX_SPACE_KEY or not is_clean(key):
        raise InvalidInput(
            f"a space's key has 1 to {MAX_SPACE_KEY} characters, got {shown(key)}", field="space"
        )
    return key


def check_id(id: object) -> str:
    """Return an item's id.

    Raises:
        InvalidInput: it is no string, empty, too long, or cannot be stored.
    """
    if isinstance(id, str) and 0 < len(id) <= MAX_ID and is_clean(id):
        return id
    expected = f"a string of 1 to {MAX_ID} characters, none NUL"
    raise InvalidInput(
        f"id: expected {expected}, got {shown(id)}", field="id", expected=expected, got=shown(id)
    )


def metadata_json(metadata: Metadata, where: str = "metadata") -> bytes:
    """Return metadata as the UTF-8 JSON that a store keeps.

    Raises:
        InvalidInput: it is not a JSON object, or one that not every store can keep; the message
            says where.
    """
    if not isinstance(metadata, dict):
        raise InvalidInput(
            f"{where}: expected an object, got {shown(metadata)}", field=where, expected="object"
        )
    _check_value(metadata, where, 1)
    text = orjson.dumps(metadata)
    if len(text) > MAX_METADATA:
        raise InvalidInput(
            f"{where}: {len(text)} bytes of JSON, at most {MAX_METADATA} are kept with an item",
            field=where,
        )
    return text


def check_items(items: Sequence[NewItem]) -> list[bytes]:
    """Check items that are to be put in, and return their metadata as JSON.

    Raises:
        InvalidInput: one of them is wrong; the message names it.
    """
    return [
        metadata_json(item.metadata, f"metadata of item {check_id(item.id)[:80]!r}")
        for item in items
    ]


def check_vectors(vectors: Vectors, count: int, dim: int, metric: Metric) -> Vectors:
    """Return rows to be stored as contiguous float32 (count, dim).

    Raises:
        InvalidInput: they have another shape, are not finite, or have no direction where the
            metric looks at nothing else.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape != (count, dim):
        raise InvalidInput(
            f"vectors: expected {count} rows of {dim} numbers, got shape {rows.shape}",
            field="vector",
            expected=[count, dim],
            got=list(rows.shape),
        )
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not rows.size:
        return rows
    largest: NDArray[np.float32] = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    # A comparison with NaN is false, so this finds them as well.
    if not (largest <= MAX_MAGNITUDE).all():
        row = int(np.argmin(largest <= MAX_MAGNITUDE))
        raise InvalidInput(
            f"vectors: row {row} has an element that is not finite, or beyond "
            f"{float(MAX_MAGNITUDE):.0e}",
            field="vector",
            row=row,
        )
    if metric == "cosine" and not (largest >= MIN_MAGNITUDE).all():
        row = int(np.argmin(largest >= MIN_MAGNITUDE))
        raise InvalidInput(
            f"vectors: row {row} is all zeros, or within {float(MIN_MAGNITUDE):.0e} of it, which "
            "has no direction; the metric 'cosine' cannot compare it",
            field="vector",
            row=row,
        )
    return rows


def _check_value(value: Any, where: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, int):
        if value not in INTEGERS:
            raise InvalidInput(
                f"{where}: {shown(value)} does not fit 64 bits; keep it as a string", field=where
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{where}: {value} is not a number JSON knows", field=where)
    elif isinstance(value, dict | list):
        _check_nested(value, where, depth)
    else:
        raise InvalidInput(
            f"{where}: expected what JSON knows, got {type(value).__name__}", field=where
        )


def _check_nested(value: dict[Any, Any] | list[Any], where: str, depth: int) -> None:
    if depth > MAX_METADATA_DEPTH:
        raise InvalidInput(f"{where}: nested deeper than {MAX_METADATA_DEPTH}", field=where)
    if isinstance(value, list):
        for i, each in enumerate(value):
            _check_value(each, f"{where}[{i}]", depth + 1)
        return
    for key, each in value.items():
        if not isinstance(key, str):
            raise InvalidInput(f"{where}: {shown(key)} is no string, as keys are", field=where)
        _check_text(key, where)
        _check_value(each, f"{where}.{key[:80]}", depth + 1)


def _check_text(text: str, where: str) -> None:
    if not is_clean(text):
        raise InvalidInput(
            f"{where}: {shown(text)} has a NUL or half a surrogate pair, which no store keeps",
            field=where,
        )
