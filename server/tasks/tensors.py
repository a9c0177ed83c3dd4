"""Tensors in, tensors out: for models of which nothing else is known."""

from __future__ import annotations

from typing import Any

from .base import Array, Arrays, Item, Parameters, Prepared
from .items import ItemReader
from .parameters import ParameterTable


class TensorsTask:
    """Named tensors (or pictures, with [preprocess]) in, every output of the graph out."""

    name = "tensors"
    fetches: tuple[str, ...] | None = None

    def __init__(self, items: ItemReader) -> None:
        """Take the reader of items."""
        self._items = items
        self._table = ParameterTable(self.name, {}, {})

    def parameters(self, raw: Parameters) -> Parameters:
        """Refuse every parameter: there is nothing to choose."""
        return self._table.check(raw)

    def is_heavy(self, item: Item) -> bool:
        """Say whether `prepare` of this item takes too long for the event loop."""
        return self._items.is_heavy(item)

    def prepare(self, item: Item, parameters: Parameters) -> Prepared:
        """Turn tensors into the model's inputs."""
        self._table.check(parameters)
        return self._items.read(item)

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
    dtype = "string" if value.dtype.kind in "OSU" else value.dtype.name
    return {"dtype": dtype, "shape": list(value.shape), "data": value.ravel().tolist()}
