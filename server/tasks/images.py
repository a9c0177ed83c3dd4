"""The image input of a model: which one it is, and pictures turned into it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from server.errors import InvalidInput, LoadFailed
from server.model_config import PreprocessConfig
from server.preprocessing import ImageLimits, ImageTransform, build_transform
from server.tensors import TensorSpecLike

from .base import ImageItem, Prepared


class ImageReader:
    """Turns pictures into the model's one image input; or says why it cannot."""

    def __init__(self, transform: ImageTransform | None, name: str, refusal: str) -> None:
        """Take the transform, or None and the reason why pictures are refused."""
        self._transform = transform
        self._name = name
        self._refusal = refusal

    def read(self, item: ImageItem) -> Prepared:
        """Decode and transform a picture."""
        if self._transform is None:
            raise InvalidInput(self._refusal, field=item.field, expected="tensors", got="a picture")
        began = time.perf_counter()
        picture = self._transform.decode(item.data, item.field)
        decoded = time.perf_counter()
        values = self._transform(picture, item.field)
        done = time.perf_counter()
        timings = {"decode": decoded - began, "preprocess": done - decoded}
        return Prepared({self._name: values}, 1, True, timings)


def build_image_reader(
    config: PreprocessConfig | None, inputs: Sequence[TensorSpecLike], limits: ImageLimits
) -> ImageReader:
    """Build the reader for a model.

    Raises:
        LoadFailed: [preprocess] is there, but contradicts the model.
    """
    if config is None:
        return ImageReader(
            None,
            "",
            "this model takes tensors only, since nothing says how pictures are prepared; set "
            "`mean`, `std` and a size (`resize`, or `resize_short` and `crop`) under [preprocess] "
            "in its model.toml",
        )
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise LoadFailed(
            f"[preprocess] needs a model with one input, this one has {len(inputs)}: {names}; "
            "remove the section to serve it with tensors"
        )
    spec = inputs[0]
    transform = build_transform(config, spec.name, spec.dtype, spec.shape, limits)
    return ImageReader(transform, spec.name, "")
