"""What is kept of a picture beside it, so that lists of hits can be shown."""

from __future__ import annotations

from server.errors import ServerError
from server.preprocessing import ImageLimits, is_small, picture_format, shrink

SIDE = 128  # pixels of the longer side
SMALL_BYTES = 16 * 1024  # a picture of fewer, and of few pixels, is its own thumbnail

_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "PPM": "image/x-portable-anymap",
}


def thumbnail_of(picture: bytes, limits: ImageLimits) -> bytes | None:
    """Return what to keep as the thumbnail; None if the picture itself will do.

    A picture that cannot be decoded has none: that it is refused is decided elsewhere.
    """
    if is_small(picture, SIDE, SMALL_BYTES):
        return None
    try:
        return shrink(picture, SIDE, limits)
    except ServerError:
        return None


def media_type(picture: bytes) -> str:
    """Return the media type of a picture's bytes."""
    return _TYPES.get(picture_format(picture) or "", "application/octet-stream")
