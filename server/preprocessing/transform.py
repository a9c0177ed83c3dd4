"""`[preprocess]` of a model -> the function from a decoded picture to the model's input.

Resize, cut or pad, invert, and `(x * scale - mean) / std` as one multiplication and one addition
a value. Built once per version, where everything that can be wrong is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.errors import LoadFailed, PayloadTooLarge
from server.model_config import PreprocessConfig

from .decode import Mode, Picture, decode_image
from .geometry import Geometry, HeightWidth
from .layout import ImageLayout, ShapeLike, resolve_layout
from .limits import ImageLimits
from .resample import Array, resample

Floats = np.ndarray[tuple[int, ...], np.dtype[np.floating]]

_HALF_BRIGHT = 127.5


@dataclass(frozen=True, slots=True)
class Affine:
    """`x * factor + offset` for each channel; equals `(x * scale - mean) / std`."""

    factor: Floats  # broadcasts against the pixels
    offset: Floats
    dtype: np.dtype[np.generic]  # of the result

    def __call__(self, pixels: Array) -> Array:
        """Return the values of uint8 pixels, contiguous."""
        values = np.empty(pixels.shape, self.factor.dtype)
        np.multiply(pixels, self.factor, out=values)
        values += self.offset
        if self.dtype.kind in "iu":
            np.rint(values, out=values)  # whole numbers, checked when this was built
        return values.astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """A picture's bytes -> one row of the model's input."""

    layout: ImageLayout
    affine: Affine
    resample: str
    antialias: bool
    invert: str
    limits: ImageLimits

    @property
    def mode(self) -> Mode:
        """The mode to decode to."""
        return "L" if self.layout.mode == "L" else "RGB"

    @property
    def cover(self) -> HeightWidth | None:
        """The least size to decode to; None where a scaled decode would change the meaning."""
        smooth = self.antialias and self.resample != "nearest"
        return self.layout.sizes.cover if smooth else None

    def decode(self, data: bytes, field: str = "image") -> Picture:
        """Decode a picture as this transform needs it."""
        return decode_image(data, self.limits, mode=self.mode, cover=self.cover, field=field)

    def __call__(self, picture: Picture, field: str = "image") -> Array:
        """Return the model's input for one picture, with a leading axis of one row."""
        geometry = self.layout.sizes.apply(picture.size)
        self._check_result(geometry, field)
        pixels = resample(picture, geometry, self.resample, antialias=self.antialias)
        if self._inverts(pixels):
            pixels = 255 - pixels  # before padding: the padding is the background
        pixels = _pad(pixels, geometry)  # (H, W, C)
        if self.layout.mode == "BGR":
            pixels = pixels[..., ::-1]
        if not self.layout.channels_last:
            pixels = pixels.transpose(2, 0, 1)
        values = self.affine(pixels)
        return values.reshape(1, *(self.layout.row_shape or values.shape))

    def _inverts(self, pixels: Array) -> bool:
        if self.invert == "auto":
            return border_brightness(pixels) > _HALF_BRIGHT
        return self.invert == "always"

    def _check_result(self, geometry: Geometry, field: str) -> None:
        height, width = geometry.out
        if height * width > self.limits.max_image_pixels:
            raise PayloadTooLarge(
                f"the picture would be resized to {width} x {height} pixels, more than the "
                f"{self.limits.max_image_pixels} that are allowed; send one less elongated",
                field=field,
                expected=f"at most {self.limits.max_image_pixels} pixels",
                got=height * width,
            )


def build_transform(
    config: PreprocessConfig,
    name: str,
    dtype: str,
    shape: ShapeLike,
    limits: ImageLimits | None = None,
) -> ImageTransform:
    """Build the transform for the input `name` of a model.

    Raises:
        LoadFailed: `[preprocess]` contradicts itself or the input.
    """
    layout = resolve_layout(config, shape, name)
    affine = _build_affine(config, layout, np.dtype(dtype), name)
    return ImageTransform(
        layout, affine, config.resample, config.antialias, config.invert, limits or ImageLimits()
    )


def border_brightness(pixels: Array) -> float:
    """Return the median brightness of a picture's outermost pixels: its paper, not its ink."""
    edges = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    return float(np.median(np.concatenate(edges).mean(axis=-1)))


def _pad(pixels: Array, geometry: Geometry) -> Array:
    """Put the window into a black picture of the final size, where it is smaller."""
    if pixels.shape[:2] == geometry.out:
        return pixels
    padded = np.zeros((*geometry.out, pixels.shape[2]), np.uint8)
    top, left = geometry.offset
    padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return padded


def _build_affine(
    config: PreprocessConfig, layout: ImageLayout, dtype: np.dtype[np.generic], name: str
) -> Affine:
    if dtype.kind not in "fiu":
        raise LoadFailed(f"input `{name}` is {dtype.name}; pictures need a numeric input")
    scale = config.scale
    if dtype.kind in "iu" and "scale" not in config.model_fields_set:
        scale = 1.0  # a model of whole numbers takes the pixels as they are
    mean = _per_channel(config.mean, layout, "mean")
    std = _per_channel(config.std, layout, "std")
    if not np.isfinite([scale, *mean, *std]).all():
        raise LoadFailed("[preprocess] needs finite numbers for `scale`, `mean` and `std`")
    factor, offset = scale / std, -mean / std
    _check_range(factor, offset, dtype, name)
    shape = (-1,) if layout.channels_last else (-1, 1, 1)
    exact = dtype.itemsize > 4 or dtype.kind in "iu"
    work: type[np.floating] = np.float64 if exact else np.float32
    return Affine(
        factor.astype(work).reshape(shape), offset.astype(work).reshape(shape), np.dtype(dtype)
    )


def _per_channel(values: tuple[float, ...], layout: ImageLayout, key: str) -> Floats:
    if len(values) not in (1, layout.channels):
        raise LoadFailed(
            f"[preprocess] `{key}` has {len(values)} values; expected 1, or one for each of the "
            f"{layout.channels} channels of mode {layout.mode}"
        )
    return np.broadcast_to(np.asarray(values, np.float64), (layout.channels,))


def _check_range(factor: Floats, offset: Floats, dtype: np.dtype[np.generic], name: str) -> None:
    """Refuse a scale and mean whose results the model's input cannot hold."""
    results = np.arange(256.0) * factor[:, None] + offset[:, None]  # (C, 256)
    if dtype.kind == "f":
        if np.abs(results).max() > float(np.finfo(dtype.name).max):
            raise LoadFailed(
                f"[preprocess] makes values that {dtype.name} input `{name}` cannot hold"
            )
        return
    bounds = np.iinfo(dtype.name)
    whole = np.abs(results - np.rint(results)).max() < 1e-6
    if not whole or results.min() < bounds.min or results.max() > bounds.max:
        raise LoadFailed(
            f"input `{name}` is {dtype.name}, but [preprocess] makes values from "
            f"{results.min():g} to {results.max():g}{'' if whole else ', not all whole'}; "
            "leave out `scale`, `mean` and `std` to pass the pixels as they are"
        )
