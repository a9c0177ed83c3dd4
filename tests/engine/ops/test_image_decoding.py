from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed, UnsupportedOp
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import image_decoding
from tests.engine.ops.single_node import NodeCase

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray = PIXELS, kind: str = "PNG", **options: Any) -> np.ndarray:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def decoded(stream: np.ndarray, pixel_format: str = "RGB") -> np.ndarray:
    case = NodeCase("ImageDecoder", [stream], {"pixel_format": pixel_format}, 20)
    return case.run_engine()[0]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    stream = encoded(kind=kind, **options)
    np.testing.assert_array_equal(decoded(stream), PIXELS)
    np.testing.assert_array_equal(decoded(stream, "BGR"), PIXELS[..., ::-1])
    grey = np.array(PIL.Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(decoded(stream, "Grayscale"), grey[..., None])


def test_jpeg_palettes_and_transparency_give_three_channels():
    smooth = np.broadcast_to(np.arange(0, 240, 15, dtype=np.uint8)[:, None, None], (16, 16, 3))
    stream = encoded(np.ascontiguousarray(smooth), "JPEG", quality=95)
    assert np.abs(decoded(stream).astype(int) - smooth).max() < 8
    assert decoded(encoded(PIXELS[..., 0])).shape == (5, 7, 3)
    seen = np.dstack([PIXELS, np.full((5, 7), 9, np.uint8)])
    np.testing.assert_array_equal(decoded(encoded(seen)), PIXELS)


def test_what_is_no_picture_is_an_error():
    for stream in (np.zeros(0, np.uint8), np.arange(64, dtype=np.uint8), encoded()[:40]):
        with pytest.raises(RunFailed):
            decoded(stream)
    with pytest.raises(RunFailed, match="not a picture"):
        decoded(encoded(kind="GIF"))


def test_pictures_too_large_are_refused_by_their_header():
    case = NodeCase("ImageDecoder", [encoded(np.zeros((2000, 2000), np.uint8))], {}, 20)
    with pytest.raises(ResourceLimit):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20)).run(case.feeds())


def test_wrong_models(monkeypatch):
    with pytest.raises(InvalidModel, match="pixel_format"):
        decoded(encoded(), "YUV")
    with pytest.raises(InvalidModel, match="uint8"):
        decoded(PIXELS)
    monkeypatch.setattr(image_decoding, "pillow", None)
    with pytest.raises(UnsupportedOp, match="pillow"):
        decoded(encoded())
