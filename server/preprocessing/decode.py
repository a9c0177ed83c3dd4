"""Bytes of a picture -> upright 8-bit RGB or greyscale pixels, within limits.

The header is checked before any pixel is decoded. JPEGs are decoded at the smallest of their
four scales that still covers what the transform needs. Everything Pillow may raise on hostile
bytes becomes one of three errors: `PayloadTooLarge`, `UnsupportedMedia`, `InvalidInput`.

Safe to call from many threads: Pillow releases the GIL while it decodes, and nothing here is
shared between calls.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

# Imported for their effect: a plugin that Pillow has not loaded yet would be loaded in the first
# request, by whichever thread comes first.
from PIL import (
    AvifImagePlugin,  # noqa: F401  registers the format
    BmpImagePlugin,  # noqa: F401  registers the format
    GifImagePlugin,  # noqa: F401  registers the format
    Image,
    JpegImagePlugin,  # noqa: F401  registers the format
    MpoImagePlugin,  # noqa: F401  registers the format
    PngImagePlugin,  # noqa: F401  registers the format
    PpmImagePlugin,  # noqa: F401  registers the format
    TiffImagePlugin,  # noqa: F401  registers the format
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  registers the format
    features,
)

from server.errors import InvalidInput, PayloadTooLarge, ServerError, UnsupportedMedia

from .limits import SLOW_DECODER_PIXELS, ImageLimits
from .orientation import Box, Turn, turn_of, turn_upright
from .sniff import describe, picture_format

Mode = Literal["RGB", "L"]
HeightWidth = tuple[int, int]

_OPTIONAL = {"WEBP": "webp", "AVIF": "avif"}  # formats that Pillow may have been built without

FORMATS: Final[tuple[str, ...]] = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
    if name not in _OPTIONAL or features.check(_OPTIONAL[name])
)

_PYTHON_DECODERS = frozenset({"ppm", "ppm_plain", "bmp_rle"})
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags

# Pillow warns about odd metadata, and of bombs which the limits below refuse anyway.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded pixels, upright. `box` holds the picture: a scaled JPEG may end between pixels."""

    image: Image.Image  # mode RGB or L
    box: Box
    size: HeightWidth  # of the picture as sent, upright; a scaled decode has fewer pixels


def decode_image(
    data: bytes,
    limits: ImageLimits,
    *,
    mode: Mode = "RGB",
    cover: HeightWidth | None = None,
    field: str = "image",
) -> Picture:
    """Decode a picture of any accepted format; of an animation, the first frame.

    Args:
        data: the file's bytes.
        limits: bounds on bytes and pixels, checked before decoding.
        mode: RGB, or L for greyscale.
        cover: height and width (upright) that the result must have at least; lets a JPEG be
            decoded at 1/2, 1/4 or 1/8 of its size. None decodes every pixel.
        field: where the picture stood in the request, for errors.

    Raises:
        PayloadTooLarge: more bytes or pixels than the limits allow.
        UnsupportedMedia: not a picture, or of a format that is not accepted.
        InvalidInput: a picture that is empty, truncated or damaged.
    """
    if not data:
        raise InvalidInput("the picture is empty", field=field, expected="a picture", got="0 bytes")
    limits.check_bytes(len(data), field)
    _hush_pillow()
    try:
        return _decode(data, limits, mode, cover, field)
    except ServerError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data, field) from None
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PayloadTooLarge(
            f"the picture unpacks to more than can be decoded: {error}", field=field
        ) from None
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        kind = picture_format(data) or "picture"
        reason = str(error) or type(error).__name__
        raise InvalidInput(
            f"the {kind} cannot be decoded: {reason}",
            field=field,
            expected="a whole, undamaged picture",
            got=reason,
        ) from None


def _decode(
    data: bytes, limits: ImageLimits, mode: Mode, cover: HeightWidth | None, field: str
) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_header(image, limits, field)
        width, height = image.size
        box = None
        if cover is not None and image.format in ("JPEG", "MPO"):
            box = _draft(image, mode, cover, turn_of(image))
        image.load()
        if box is None:
            width, height = image.size
            box = (0.0, 0.0, float(width), float(height))
        turn = turn_of(image)  # after load: PNGs may carry it behind their pixels
        pixels = _to_mode(image, mode, field)
    upright, box = turn_upright(pixels, box, turn)
    size = (width, height) if turn is not None and turn.swaps_axes else (height, width)
    return Picture(upright, box, size)


def _check_header(image: Image.Image, limits: ImageLimits, field: str) -> None:
    """Refuse from the header alone what would cost too much to decode."""
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0][0] in _PYTHON_DECODERS:
        limits = limits.lowered_to(SLOW_DECODER_PIXELS)
    limits.check_pixels(*image.size, field=field)
    # A tile is decoded whole, however little of it lies inside the picture.
    tags = getattr(image, "tag_v2", None)
    if tags is not None and _TILE_WIDTH in tags and _TILE_LENGTH in tags:
        limits.check_pixels(int(tags[_TILE_WIDTH]), int(tags[_TILE_LENGTH]), field, "TIFF's tile")


def _draft(image: Image.Image, mode: Mode, cover: HeightWidth, turn: Turn | None) -> Box | None:
    """Ask the JPEG decoder for its smallest scale that still covers; return where it lies."""
    height, width = reversed(cover) if turn is not None and turn.swaps_axes else cover
    wanted = mode if image.mode != "CMYK" else None
    drafted = image.draft(wanted, (width, height))
    return None if drafted is None else drafted[1]


def _to_mode(image: Image.Image, mode: Mode, field: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bits(image, field)
    elif image.mode == "F":
        raise InvalidInput(
            "the picture's pixels are 32-bit floats, whose white is not defined; "
            "send 8 or 16 bits a channel",
            field=field,
            expected="8 or 16 bits a channel",
            got="32-bit float",
        )
    elif image.has_transparency_data:
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image, field: str) -> Image.Image:
    """Keep the upper 8 of 16 bits; Pillow itself would clip everything above 255 to white."""
    samples = np.asarray(image)
    if samples.size and (samples.min() < 0 or samples.max() > 0xFFFF):
        raise InvalidInput(
            "the picture's pixels do not fit 16 bits; send 8 or 16 bits a channel",
            field=field,
            expected="0..65535",
            got=f"{samples.min()}..{samples.max()}",
        )
    return Image.fromarray((samples >> 8).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    layers = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(layers, mask=layers.getchannel("A"))
    return canvas


def _unidentified(data: bytes, field: str) -> ServerError:
    found = describe(data)
    accepted = ", ".join(FORMATS)
    if picture_format(data) in FORMATS:
        return InvalidInput(
            f"the picture's header cannot be read: it seems to be {found}",
            field=field,
            expected=f"one of {accepted}",
            got=found,
        )
    return UnsupportedMedia(
        f"not a picture that can be decoded: it seems to be {found}; send one of {accepted}",
        field=field,
        expected=f"one of {accepted}",
        got=found,
    )


def _hush_pillow() -> None:
    """Keep Pillow's warnings from becoming log lines, or errors where warnings are errors.

    `warnings.catch_warnings` is not safe in threads; adding one filter, once, is.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=r"PIL\.")
