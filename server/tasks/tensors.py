"""Tensors in, tensors out: for models of which nothing else is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from server.tensors import type_name

from .base import Arrays, Parameters, Prepared
from .items import ItemReader, ItemTask
from .parameters import ParameterTable


class TensorsTask(ItemTask):
    """Named tensors (or pictures, with [preprocess]) in, every output of the graph out."""

    name = "tensors"
    fetches: tuple[str, ...] | None = None

    def __init__(self, items: ItemReader) -> None:
        """Take the reader of items."""
        super().__init__(items, ParameterTable(self.name, {}, {}))

    def finish(self, outputs: Arrays, prepared: Prepared, parameters: Parameters) -> dict[str, Any]:
        """Return `{"outputs": {name: {"dtype", "shape", "data"}}}`, `data` flat in row order.

        A sequence or map, as classical models give them, has its elements as plain JSON in `data`.
        """
        return {
            "outputs": {
                name: _describe(self._row(name, value, prepared)) for name, value in outputs.items()
            }
        }

    def _row(self, name: str, value: Any, prepared: Prepared) -> Any:
        """Return a value without the axis of rows, where the item itself had none."""
        is_row = isinstance(value, np.ndarray) and self._items.strips_rows(name, value, prepared)
        return value.reshape(value.shape[1:]) if is_row else value


def _describe(value: Any) -> dict[str, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        kind = "map" if isinstance(value, Mapping) else "sequence"
        return {"dtype": "optional" if value is None else kind, "data": _plain(value)}
    name = "string" if value.dtype.kind in "OSU" else type_name(value.dtype)
    return {"dtype": name, "shape": list(value.shape), "data": value.ravel().tolist()}


def _plain(value: Any) -> Any:
    """Return a value that JSON has words for: lists, objects with text for keys, and numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
