"""Inputs to warm a model up with: the first call pays for pages, buffers and plans. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Feeds = dict[str, np.ndarray[Any, Any]]

MAX_SYNTHETIC_BYTES = 1 << 30


class InputSpec(Protocol):
    """What is needed to know of an input."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def dtype(self) -> str:
        """The numpy name of its type."""
        ...

    @property
    def shape(self) -> tuple[int | str, ...] | None:
        """A number or a symbol per dimension."""
        ...


def with_rows(
    sample: Mapping[str, np.ndarray[Any, Any]], batched: Collection[str], rows: int
) -> Feeds:
    """Return a sample's inputs with their rows repeated, or cut, to a number of rows."""
    return {
        name: array[np.arange(rows) % len(array)] if name in batched and len(array) else array
        for name, array in sample.items()
    }


def zeros(inputs: Sequence[InputSpec], batched: Collection[str], rows: int) -> Feeds | None:
    """Return inputs of zeros, or None where sizes or types leave it open what would be valid.

    Integers are left out: they are often indices, tokens or lengths, for which 0 may be wrong.
    """
    feeds: Feeds = {}
    for spec in inputs:
        array = _zeros(spec, rows if spec.name in batched else None)
        if array is None:
            return None
        feeds[spec.name] = array
    return feeds


def _zeros(spec: InputSpec, rows: int | None) -> np.ndarray[Any, Any] | None:
    if spec.shape is None or not spec.dtype.startswith("float"):
        return None
    shape = (rows, *spec.shape[1:]) if rows is not None and spec.shape else spec.shape
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) != len(shape):
        return None
    dtype = np.dtype(spec.dtype)
    if float(np.prod(sizes, dtype=np.float64)) * dtype.itemsize > MAX_SYNTHETIC_BYTES:
        return None
    return np.zeros(sizes, dtype)
