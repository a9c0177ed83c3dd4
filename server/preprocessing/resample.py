"""Resize a picture and cut a window out of the result, without computing the rest.

With `antialias` the filter widens as the picture shrinks, which is what Pillow does and what
models are trained with. Without, it samples the picture with the filter at its own width: for
`bilinear` that is `torch.nn.functional.interpolate(antialias=False)`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from .decode import Picture
from .geometry import Geometry

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Kernel = Callable[[Floats], Floats]

_WASTE = 4  # resized pixels for each one that is kept, up to which cutting comes last

FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resample(picture: Picture, geometry: Geometry, name: str, *, antialias: bool) -> Array:
    """Return the window of the resized picture as (height, width, channels) uint8."""
    image = picture.image
    full = (0.0, 0.0, float(image.width), float(image.height))
    if geometry.resized == (image.height, image.width) and picture.box == full:
        return _cut(image, geometry)
    if antialias or name == "nearest":
        return _pixels(_pillow(picture, geometry, FILTERS[name]))
    return _sample(_pixels(image), geometry, name)


def _cut(image: Image.Image, geometry: Geometry) -> Array:
    top, left, height, width = geometry.window
    if (height, width) != (image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    return _pixels(image)


def _pixels(image: Image.Image) -> Array:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]  # (H, W, C)


def _pillow(picture: Picture, geometry: Geometry, how: Image.Resampling) -> Image.Image:
    """Resize with Pillow and cut the window out."""
    height, width = geometry.resized
    top, left, cut_height, cut_width = geometry.window
    # Pillow's rounding between its two passes depends on the whole: cutting afterwards is what
    # models were trained with. Only pictures so long that most of the work would be thrown away
    # are resized in the window alone, and may differ by a rounding.
    if height * width > _WASTE * cut_height * cut_width:
        return _pillow_window(picture, geometry, how)
    resized = picture.image.resize((width, height), how, box=picture.box)
    if (cut_height, cut_width) == (height, width):
        return resized
    return resized.crop((left, top, left + cut_width, top + cut_height))


def _pillow_window(picture: Picture, geometry: Geometry, how: Image.Resampling) -> Image.Image:
    """Resize the part of the picture that the window shows; its filter still sees the rest."""
    x0, y0, x1, y1 = picture.box
    scale_y = (y1 - y0) / geometry.resized[0]
    scale_x = (x1 - x0) / geometry.resized[1]
    top, left, height, width = geometry.window
    box = (
        x0 + left * scale_x,
        y0 + top * scale_y,
        min(x0 + (left + width) * scale_x, x1),
        min(y0 + (top + height) * scale_y, y1),
    )
    return picture.image.resize((width, height), how, box=box)


def _sample(pixels: Array, geometry: Geometry, name: str) -> Array:
    top, left, height, width = geometry.window
    rows, row_weights = _taps(pixels.shape[0], geometry.resized[0], top, height, name)
    columns, column_weights = _taps(pixels.shape[1], geometry.resized[1], left, width, name)
    first, last = int(columns.min()), int(columns.max()) + 1
    sampled = _blend(pixels[:, first:last], rows, row_weights)  # (height, last - first, C)
    sampled = sampled.swapaxes(0, 1)
    sampled = _blend(sampled, columns - first, column_weights)  # (width, height, C)
    np.rint(sampled, out=sampled)
    np.clip(sampled, 0, 255, out=sampled)
    return np.ascontiguousarray(sampled.swapaxes(0, 1), dtype=np.uint8)


def _blend(pixels: Array, index: Array, weights: Floats) -> Floats:
    """Return weighted sums of rows: index and weights are (rows, taps)."""
    total = np.zeros((index.shape[0], *pixels.shape[1:]), np.float64)
    for tap in range(index.shape[1]):
        total += weights[:, tap, None, None] * pixels[index[:, tap]]
    return total


def _taps(have: int, resized: int, start: int, count: int, name: str) -> tuple[Array, Floats]:
    """Return which pixels each sample reads, and their weights, which add up to 1.

    Pixel centres lie at i + 0.5; taps outside the picture weigh nothing.
    """
    reach, kernel = KERNELS[name]
    centre = (np.arange(start, start + count) + 0.5) * (have / resized)
    first = np.floor(centre - reach + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(int(2 * reach) + 1)  # (count, taps)
    weights = kernel(index + 0.5 - centre[:, None])
    weights[(index < 0) | (index >= have)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, have - 1), weights


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: Floats) -> Floats:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _hamming(x: Floats) -> Floats:
    window = 0.54 + 0.46 * np.cos(np.pi * x)
    return np.where(np.abs(x) < 1.0, np.sinc(x) * window, 0.0)


def _cubic(x: Floats) -> Floats:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


KERNELS: dict[str, tuple[float, Kernel]] = {  # name -> (reach, weight at a distance)
    "box": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
