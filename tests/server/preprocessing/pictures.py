"""Pictures made on the spot: smooth, so that lossy formats and resizing stay near the original."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def gradient(height: int, width: int) -> np.ndarray:
    """Return (H, W, 3): red grows to the right, green downwards, blue along the diagonal."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 / max(width - 1, 1)
    green = y * 255 / max(height - 1, 1)
    return np.stack([red, green, (red + green) / 2], axis=-1).round().astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of the picture as a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def four_corners(height: int = 32, width: int = 48) -> np.ndarray:
    """Return quarters: red, green / blue, white; so that every turn and flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    half_y, half_x = height // 2, width // 2
    pixels[:half_y, :half_x] = CORNERS["red"]
    pixels[:half_y, half_x:] = CORNERS["green"]
    pixels[half_y:, :half_x] = CORNERS["blue"]
    pixels[half_y:, half_x:] = CORNERS["white"]
    return pixels
