"""Reads items of any kind into a model's inputs; what all tasks of this package build on."""

from __future__ import annotations

from collections.abc import Sequence

from server.errors import InvalidInput
from server.model_config import PreprocessConfig
from server.preprocessing import ImageLimits
from server.tensors import TensorSpecLike

from .base import Array, BatchAxesLike, ImageItem, Item, Parameters, Prepared, TensorItem
from .images import ImageReader, build_image_reader
from .inputs import TensorReader
from .parameters import ParameterTable


class ItemReader:
    """Pictures and tensors for one model."""

    def __init__(
        self,
        images: ImageReader,
        tensors: TensorReader,
        batch: BatchAxesLike | None,
    ) -> None:
        """Keep the readers of both kinds."""
        self._images = images
        self._tensors = tensors
        self._batch = batch

    def is_heavy(self, item: Item) -> bool:
        """Say whether reading the item takes too long for the event loop."""
        if isinstance(item, TensorItem):
            return self._tensors.is_heavy(item)
        return isinstance(item, ImageItem)

    def read(self, item: Item) -> Prepared:
        """Turn the item into the model's inputs."""
        if isinstance(item, TensorItem):
            return self._tensors.read(item)
        if isinstance(item, ImageItem):
            return self._images.read(item)
        raise InvalidInput(
            "this model takes pictures or tensors, got text",
            field=item.field,
            expected="a picture or tensors",
            got="text",
        )

    def strips_rows(self, name: str, value: Array, prepared: Prepared) -> bool:
        """Say whether an output carries the axis of rows that the item itself did not have."""
        if not prepared.single or value.ndim == 0:
            return False
        if self._batch is not None:
            return name in self._batch.outputs
        return bool(value.shape[0] == 1)


def build_item_reader(
    preprocess: PreprocessConfig | None,
    inputs: Sequence[TensorSpecLike],
    batch: BatchAxesLike | None,
    limits: ImageLimits,
) -> ItemReader:
    """Build the reader for a model."""
    images = build_image_reader(preprocess, inputs, limits)
    return ItemReader(images, TensorReader(inputs, batch), batch)


class ItemTask:
    """The half that tasks on pictures and tensors share: parameters, and items in."""

    def __init__(self, items: ItemReader, table: ParameterTable) -> None:
        """Take the reader of items and the task's parameters."""
        self._items = items
        self._table = table

    def parameters(self, raw: Parameters) -> Parameters:
        """Check a request's parameters and fill in the model's defaults."""
        return self._table.check(raw)

    def is_heavy(self, item: Item) -> bool:
        """Say whether `prepare` of this item takes too long for the event loop."""
        return self._items.is_heavy(item)

    def prepare(self, item: Item, parameters: Parameters) -> Prepared:
        """Turn a picture or tensors into the model's inputs; safe in any thread."""
        self._table.check(parameters)
        return self._items.read(item)
