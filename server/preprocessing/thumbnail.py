"""A small copy of a picture, to be shown in lists."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, features

from .decode import decode_image
from .limits import ImageLimits
from .orientation import turn_of

KIND: Final[str] = "WEBP" if features.check("webp") else "JPEG"
QUALITY = 80
# What every browser shows.
_SHOWN = ("JPEG", "PNG", "WEBP", "GIF")


def is_small(data: bytes, side: int, limit_bytes: int) -> bool:
    """Say whether a picture can stand as its own thumbnail, from its header alone."""
    if len(data) > limit_bytes:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=_SHOWN) as image:
            return max(image.size) <= side and turn_of(image) is None
    except Exception:  # what it is instead is told by whoever decodes it
        return False


def shrink(data: bytes, side: int, limits: ImageLimits, field: str = "image") -> bytes:
    """Return the picture upright, with no side longer than `side`, as WebP or else JPEG.

    Raises:
        ServerError: it cannot be decoded; see `decode_image`.
    """
    picture = decode_image(data, limits, cover=_cover(data, side), field=field)
    left, top, right, bottom = picture.box
    scale = min(1.0, side / max(picture.size))
    height, width = (max(1, round(length * scale)) for length in picture.size)
    small = picture.image.resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    file = io.BytesIO()
    small.save(file, KIND, quality=QUALITY)
    return file.getvalue()


def _cover(data: bytes, side: int) -> tuple[int, int] | None:
    """Return the height and width (upright) that are enough to be scaled down from."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            turn = turn_of(image)
    except Exception:  # another format, which knows no scaled decoding
        return None
    if turn is not None and turn.swaps_axes:
        width, height = height, width
    scale = min(1.0, side / max(width, height, 1))
    return max(1, round(height * scale)), max(1, round(width * scale))
