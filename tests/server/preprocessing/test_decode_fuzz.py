"""Whatever the bytes are: a picture, or one of three errors. No warning, no other exception."""

from __future__ import annotations

import functools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.errors import InvalidInput, PayloadTooLarge, ServerError, UnsupportedMedia
from server.preprocessing import FORMATS, ImageLimits, decode_image
from tests.server.preprocessing.pictures import encode, gradient, noise

KINDS = tuple(FORMATS)
LIMITS = ImageLimits(max_image_bytes=100_000, max_image_pixels=250_000)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def whole(kind: str, variant: int) -> bytes:
    if variant == 0 or kind == "PPM":
        return encode(noise(24, 31), kind)
    if variant == 1:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {} if kind in ("GIF", "BMP") else {"exif": exif}
        return encode(gradient(40, 20), kind, **options)
    mode = {"JPEG": "CMYK", "TIFF": "RGBA", "PNG": "LA", "BMP": "L"}.get(kind, "RGBA")
    picture = Image.fromarray(gradient(20, 20))
    picture = picture.convert("L").convert(mode) if mode == "LA" else picture.convert(mode)
    return encode(picture.quantize(8) if kind == "GIF" else picture, kind)


files = st.builds(whole, st.sampled_from(KINDS), st.integers(0, 2))


def decode(data: bytes) -> None:
    """Decode at full and at reduced size; only the three errors may come out."""
    for mode, cover in (("RGB", None), ("L", (8, 8))):
        try:
            picture = decode_image(data, LIMITS, mode=mode, cover=cover)
        except (InvalidInput, PayloadTooLarge, UnsupportedMedia) as error:
            assert error.message
            assert error.extra["field"] == "image"
        else:
            assert picture.image.mode == mode
            assert picture.size[0] * picture.size[1] <= LIMITS.max_image_pixels


@FUZZ
@given(st.binary(max_size=400))
def test_random_bytes(data):
    decode(data)


@FUZZ
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_random_bytes_behind_a_signature(kind, data):
    decode(whole(kind, 0)[:12] + data)


@FUZZ
@given(files, st.data())
def test_truncated_files(file, data):
    decode(file[: data.draw(st.integers(0, len(file)))])


@settings(FUZZ, max_examples=400)
@given(files, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.booleans())
def test_files_with_changed_bytes(file, changes, early):
    mutated = bytearray(file)
    reach = min(len(file), 120) if early else len(file)  # headers are where it gets interesting
    for where, byte in changes:
        mutated[int(where * (reach - 1))] = byte
    decode(bytes(mutated))


@FUZZ
@given(files, st.floats(0, 1), st.floats(0, 1), st.binary(max_size=40))
def test_files_with_a_piece_replaced(file, start, end, piece):
    low, high = sorted((int(start * len(file)), int(end * len(file))))
    decode(file[:low] + piece + file[high:])


@FUZZ
@given(files)
def test_whole_files_decode(file):
    assert isinstance(decode_image(file, LIMITS).size, tuple)


def test_the_three_errors_are_the_clients_fault():
    assert all(
        issubclass(e, ServerError) for e in (InvalidInput, PayloadTooLarge, UnsupportedMedia)
    )
