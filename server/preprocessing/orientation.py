"""The eight EXIF orientations, and how they move a box of a picture.

Cameras store pixels as the sensor read them and note how to hold the camera; a model wants the
picture upright.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

ORIENTATION_TAG = 0x0112

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Turn(NamedTuple):
    """One orientation: the operation that undoes it, and its effect in upright coordinates."""

    operation: Image.Transpose
    swaps_axes: bool
    flips_x: bool
    flips_y: bool


TURNS: dict[int, Turn] = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: Turn(Image.Transpose.ROTATE_180, False, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, True, False, False),
    6: Turn(Image.Transpose.ROTATE_270, True, True, False),
    7: Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, False, True),
}


def turn_of(image: Image.Image) -> Turn | None:
    """Return how the picture must be turned; None when it is upright or its EXIF is unreadable."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a picture with broken metadata is still a picture
        return None


def turn_upright(image: Image.Image, box: Box, turn: Turn | None) -> tuple[Image.Image, Box]:
    """Turn a picture upright, and the box (which starts at the stored origin) with it."""
    if turn is None:
        return image, box
    width, height = (box[3], box[2]) if turn.swaps_axes else (box[2], box[3])
    image = image.transpose(turn.operation)
    left = image.width - width if turn.flips_x else 0.0
    top = image.height - height if turn.flips_y else 0.0
    return image, (left, top, left + width, top + height)
