from __future__ import annotations

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from server.errors import InvalidInput, PayloadTooLarge, UnsupportedMedia
from server.preprocessing import FORMATS, ImageLimits, decode_image
from server.preprocessing.orientation import ORIENTATION_TAG
from tests.server.preprocessing.pictures import encode, four_corners, gradient, noise

LIMITS = ImageLimits()


def pixels_of(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(decode_image(data, LIMITS, mode=mode).image)


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_same_pixels(kind):
    picture = noise(17, 23)
    np.testing.assert_array_equal(pixels_of(encode(picture, kind, **LOSSLESS[kind])), picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_give_nearly_the_same_pixels(kind):
    if kind not in FORMATS:
        pytest.skip(f"Pillow was built without {kind}")
    picture = gradient(40, 60)
    decoded = pixels_of(encode(picture, kind, quality=95))
    assert np.abs(decoded.astype(int) - picture).mean() < 4


def test_size_and_box_are_those_of_the_picture():
    picture = decode_image(encode(gradient(12, 34)), LIMITS)
    assert picture.size == (12, 34)
    assert picture.box == (0.0, 0.0, 34.0, 12.0)


# --- modes


def test_greyscale_becomes_rgb_and_back():
    grey = gradient(8, 9)[..., 0]
    data = encode(grey)
    np.testing.assert_array_equal(pixels_of(data), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(pixels_of(data, "L"), grey)


def test_rgb_becomes_grey_by_luma():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 1] = 200
    assert (pixels_of(encode(rgb), "L") == 117).all()  # 0.587 * 200


def test_transparent_pixels_are_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, 2:] = (10, 20, 30, 255)
    pixels = pixels_of(encode(rgba))
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == (10, 20, 30)).all()


def test_half_transparent_pixels_blend_with_white():
    rgba = np.full((2, 2, 4), (0, 0, 0, 128), np.uint8)
    assert np.abs(pixels_of(encode(rgba)).astype(int) - 127).max() <= 1


def test_grey_with_alpha_is_composited():
    la = Image.merge("LA", [Image.new("L", (3, 3), 40), Image.new("L", (3, 3), 0)])
    assert (pixels_of(encode(la)) == 255).all()
    assert (pixels_of(encode(la), "L") == 255).all()


def test_palette():
    rgb = four_corners()
    palette = Image.fromarray(rgb).quantize(4)
    assert palette.mode == "P"
    np.testing.assert_array_equal(pixels_of(encode(palette)), rgb)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(kind):
    palette = Image.fromarray(four_corners()).quantize(4)
    red = palette.getpixel((0, 0))
    pixels = pixels_of(encode(palette, kind, transparency=red))
    assert (pixels[0, 0] == 255).all()
    assert tuple(pixels[0, -1]) == (0, 255, 0)


def test_palette_with_an_alpha_for_each_colour():
    palette = Image.fromarray(four_corners()).quantize(4)
    alphas = bytes(0 if i == palette.getpixel((0, 0)) else 255 for i in range(4))
    assert (pixels_of(encode(palette, transparency=alphas))[0, 0] == 255).all()


def test_rgb_with_a_transparent_colour():
    data = encode(Image.fromarray(four_corners()), transparency=(255, 0, 0))
    pixels = pixels_of(data)
    assert (pixels[0, 0] == 255).all()
    assert tuple(pixels[-1, 0]) == (0, 0, 255)


def test_cmyk_jpeg_is_not_inverted():
    data = encode(Image.fromarray(four_corners()).convert("CMYK"), "JPEG", quality=98)
    pixels = pixels_of(data).astype(int)
    assert np.abs(pixels[4, 4] - (255, 0, 0)).max() < 12
    assert np.abs(pixels[-4, -4] - (255, 255, 255)).max() < 12
    small = decode_image(data, LIMITS, cover=(8, 8)).image
    assert small.size == (12, 8)  # scaled by 4 while decoding, colours as before
    assert np.abs(np.asarray(small).astype(int)[1, 1] - (255, 0, 0)).max() < 12


def test_cmyk_tiff():
    pixels = pixels_of(encode(Image.fromarray(four_corners()).convert("CMYK"), "TIFF"))
    np.testing.assert_array_equal(pixels, four_corners())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_upper_half(kind):
    deep = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    np.testing.assert_array_equal(pixels_of(encode(deep, kind), "L"), [[0, 0, 1, 128, 255]])


def test_a_16_bit_ppm_of_rare_scale():
    data = b"P5 2 1 1000\n" + struct.pack(">HH", 0, 1000)
    np.testing.assert_array_equal(pixels_of(data, "L"), [[0, 255]])


def test_one_bit():
    bits = np.array([[0, 1, 1, 0]], bool)
    np.testing.assert_array_equal(pixels_of(encode(bits), "L"), [[0, 255, 255, 0]])
    assert pixels_of(encode(bits)).shape == (1, 4, 3)


def test_float_pixels_are_refused():
    data = encode(np.zeros((2, 2), np.float32), "TIFF")
    with pytest.raises(InvalidInput, match="32-bit floats"):
        decode_image(data, LIMITS)


def test_32_bit_integers_beyond_16_bits_are_refused():
    data = encode(np.full((2, 2), 70_000, np.int32), "TIFF")
    with pytest.raises(InvalidInput, match="do not fit 16 bits"):
        decode_image(data, LIMITS)


def test_lab():
    rgb = Image.fromarray(gradient(4, 4))
    profile = ImageCms.createProfile
    lab = ImageCms.applyTransform(
        rgb, ImageCms.buildTransform(profile("sRGB"), profile("LAB"), "RGB", "LAB")
    )
    assert lab.mode == "LAB"
    difference = pixels_of(encode(lab, "TIFF")).astype(int) - np.asarray(rgb)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    first, second = Image.fromarray(four_corners()), Image.new("RGB", (48, 32), "black")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(first, kind, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(pixels_of(data), four_corners())


def test_of_a_stereo_photograph_the_first_picture():
    first, second = Image.fromarray(four_corners(64, 96)), Image.new("RGB", (96, 64), "black")
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(pixels_of(data).astype(int) - four_corners(64, 96)).mean() < 3
    assert decode_image(data, LIMITS, cover=(16, 16)).image.size == (24, 16)


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright(kind, orientation):
    upright = Image.fromarray(four_corners(64, 96))
    stored = upright if orientation == 1 else upright.transpose(_INVERSE[orientation])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = decode_image(encode(stored, kind, exif=exif, **options), LIMITS)
    assert picture.size == (64, 96)
    assert picture.image.size == (96, 64)
    assert np.abs(np.asarray(picture.image).astype(int) - four_corners(64, 96)).mean() < 3


_INVERSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_decode_says_where_the_picture_lies(orientation):
    upright = Image.fromarray(gradient(203, 301))
    stored = upright if orientation == 1 else upright.transpose(_INVERSE[orientation])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = encode(stored, "JPEG", quality=95, exif=exif)
    picture = decode_image(data, LIMITS, cover=(50, 70))
    assert picture.size == (203, 301)
    assert picture.image.size == (76, 51)  # a quarter, rounded up
    left, top, right, bottom = picture.box
    assert (right - left, bottom - top) == (301 / 4, 203 / 4)
    assert left >= 0 and top >= 0 and right <= 76 and bottom <= 51
    resized = picture.image.resize((70, 50), Image.Resampling.BILINEAR, box=picture.box)
    reference = upright.resize((70, 50), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(resized).astype(int) - np.asarray(reference)).mean() < 2


def test_unreadable_exif_is_no_reason_to_refuse_a_picture():
    data = encode(gradient(16, 16), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    assert pixels_of(data).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("cover", "size"),
    [
        ((400, 600), (600, 400)),
        ((201, 300), (600, 400)),
        ((200, 300), (300, 200)),
        ((1, 1), (75, 50)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers(cover, size):
    data = encode(gradient(400, 600), "JPEG")
    assert decode_image(data, LIMITS, cover=cover).image.size == size


# --- what is refused


def test_too_many_bytes():
    data = encode(noise(20, 20))
    with pytest.raises(PayloadTooLarge, match=f"has {len(data)} bytes, at most 100") as caught:
        decode_image(data, ImageLimits(max_image_bytes=100), field="inputs[3].image")
    assert caught.value.extra["field"] == "inputs[3].image"


def test_too_many_pixels_are_refused_from_the_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND")
    with pytest.raises(PayloadTooLarge) as caught:
        decode_image(data, LIMITS)
    assert "pixels" in caught.value.message


def test_the_limit_itself_is_allowed():
    data = encode(noise(10, 10))
    assert decode_image(data, ImageLimits(max_image_pixels=100)).size == (10, 10)
    with pytest.raises(PayloadTooLarge, match="10 x 10 = 100 pixels, at most 99"):
        decode_image(data, ImageLimits(max_image_pixels=99))


def test_a_very_long_side_is_refused():
    data = encode(np.zeros((1, 70_000), np.uint8))
    with pytest.raises(PayloadTooLarge, match="no side may be longer"):
        decode_image(data, LIMITS)


def test_encodings_that_pillow_decodes_in_python_have_a_lower_limit():
    data = b"P3 3000 3000 255\n" + b"1 2 3\n" * 10
    with pytest.raises(PayloadTooLarge, match="at most 4000000"):
        decode_image(data, LIMITS)


def tiled_tiff(tile: int) -> bytes:
    """Return a 16 x 16 grey TIFF in one deflated tile of `tile` x `tile`."""
    packed = zlib.compress(bytes(tile * tile), 9)
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8}
    tags[325] = len(packed)
    start = 8 + len(packed) + len(packed) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\x00" + struct.pack("<I", start) + packed.ljust(start - 8, b"\0") + directory


def test_a_small_tiff_with_huge_tiles_is_refused():
    assert decode_image(tiled_tiff(16), LIMITS).size == (16, 16)
    with pytest.raises(PayloadTooLarge, match="TIFF's tile is 2048 x 2048"):
        decode_image(tiled_tiff(2048), ImageLimits(max_image_pixels=1_000_000))


def test_a_text_bomb_is_refused():
    text = zlib.compress(b"a" * 80_000_000, 9)
    png = encode(gradient(8, 8))
    bomb = png[:33] + _chunk(b"zTXt", b"Comment\x00\x00" + text) + png[33:]
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        decode_image(bomb, LIMITS)


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_an_error_that_says_so(kind):
    data = encode(noise(64, 64), kind)
    with pytest.raises(InvalidInput) as caught:
        decode_image(data[: len(data) * 2 // 3], LIMITS)
    assert caught.value.extra["got"]
    assert kind in caught.value.message


def test_an_empty_picture():
    with pytest.raises(InvalidInput, match="empty"):
        decode_image(b"", LIMITS)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\x00\x00\x00\x18ftypheic....", "a HEIC picture"),
        (b"\x00\x00\x00\x18ftypmp42....", "an MP4-family file"),
        (b"RIFF....WAVEfmt ", "a WAV or AVI file"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n....", "a JPEG 2000 picture"),
        (b'  <SVG xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'{"image": 1}', "JSON text"),
        (b"a plain text", "text"),
        (b"\x01\x02\x03\x04\x05", "bytes of an unknown type"),
    ],
)
def test_what_is_no_picture_is_named(data, name):
    with pytest.raises(UnsupportedMedia) as caught:
        decode_image(data, LIMITS)
    assert caught.value.extra["got"] == name
    assert "JPEG" in caught.value.extra["expected"]


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "TGA", "PCX"])
def test_formats_off_the_list_are_refused_though_pillow_knows_them(kind):
    with pytest.raises(UnsupportedMedia):
        decode_image(encode(gradient(16, 16), kind), LIMITS)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0rubbish", "JPEG"),
        (b"\x89PNG\r\n\x1a\nrubbish", "PNG"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\x00\x00\x00WEBPrubbish", "WEBP"),
        (b"II*\x00", "TIFF"),
        (b"BM12345", "BMP"),
        (b"P6\n", "PPM"),
        (b"\x00\x00\x00\x18ftypavif", "AVIF"),
    ],
)
def test_a_damaged_header_names_the_format(data, kind):
    if kind not in FORMATS:
        pytest.skip(f"Pillow was built without {kind}")
    with pytest.raises(InvalidInput, match=kind):
        decode_image(data, LIMITS)


def test_many_threads_at_once():
    data = {kind: encode(gradient(90, 120), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")}
    expected = {kind: pixels_of(file).tobytes() for kind, file in data.items()}
    wrong: list[str] = []

    def work(kind: str) -> None:
        for _ in range(20):
            try:
                if pixels_of(data[kind]).tobytes() != expected[kind]:
                    wrong.append(kind)
            except Exception as error:
                wrong.append(f"{kind}: {error}")

    threads = [threading.Thread(target=work, args=(kind,)) for kind in data for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
