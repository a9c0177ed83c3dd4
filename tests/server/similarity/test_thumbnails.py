from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from server.preprocessing import ImageLimits
from server.similarity.thumbnails import SIDE, media_type, thumbnail_of
from tests.server.similarity.nets import png

LIMITS = ImageLimits()


def picture(size, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = (250, 10, 10)  # red on the left
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def turned(size, orientation) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(size, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(1000, 500), (130, 64), (300, 1), (129, 129)])
def test_the_longer_side(size, kind):
    small = Image.open(io.BytesIO(thumbnail_of(picture(size, kind), LIMITS)))
    assert small.format == "WEBP" and max(small.size) == SIDE
    assert small.size[1] == max(1, round(size[1] * SIDE / max(size)))


def test_it_is_upright():
    data = turned((400, 200), 6)  # to be turned by 90 degrees: red comes to the top
    small = np.asarray(Image.open(io.BytesIO(thumbnail_of(data, LIMITS))).convert("RGB"))
    assert small.shape[:2] == (128, 64)
    assert small[10, 32, 0] > 200 and small[118, 32, 0] < 60


def test_a_small_picture_is_its_own():
    assert thumbnail_of(png(0), LIMITS) is None
    # But not when browsers could not show it, when it lies on its side, or when it is long.
    assert thumbnail_of(picture((20, 10), "BMP"), LIMITS) is not None
    assert thumbnail_of(turned((20, 10), 6), LIMITS) is not None
    assert thumbnail_of(png(0, (128, 128)), LIMITS) is not None


def test_what_is_no_picture_has_none():
    assert thumbnail_of(b"no picture", LIMITS) is None
    assert thumbnail_of(picture((1000, 500))[:200], LIMITS) is None


def test_media_types():
    assert media_type(png(0)) == "image/png"
    assert media_type(picture((9, 9), "JPEG")) == "image/jpeg"
    assert media_type(b"<svg onload='x'>") == "application/octet-stream"
