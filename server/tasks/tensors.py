"""Tensors in, tensors out: for models of which nothing else is known."""

from __future__ import annotations

from typing import Any

from server.tensors import type_name

from .base import Array, Arrays, Parameters, Prepared
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
        """Return `{"outputs": {name: {"dtype", "shape", "data"}}}`, `data` flat in row order."""
        return {
            "outputs": {
                name: _describe(value.reshape(value.shape[1:]))
                if self._items.strips_rows(name, value, prepared)
                else _describe(value)
                for name, value in outputs.items()
            }
        }


def _describe(value: Array) -> dict[str, Any]:
    name = "string" if value.dtype.kind in "OSU" else type_name(value.dtype)
    return {"dtype": name, "shape": list(value.shape), "data": value.ravel().tolist()}
