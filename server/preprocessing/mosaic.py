"""Small pictures pasted onto one large one, at given boxes, under a line of text."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from server.errors import ServerError

from .decode import decode_image
from .limits import ImageLimits

PAPER: Final = (255, 255, 255)
INK: Final = (40, 44, 52)
FAINT: Final = (225, 228, 233)
MARK: Final = (70, 120, 190)
FONT_SIZE: Final = 18
ELLIPSIS: Final = "..."
# Thumbnails are small; whatever else is stored in their place is not worth decoding.
LIMITS: Final = ImageLimits(max_image_bytes=4 << 20, max_image_pixels=4_000_000)


@dataclass(frozen=True, slots=True)
class Tile:
    """What to show in a square of a mosaic; a picture that cannot be decoded becomes a dot."""

    left: int
    top: int
    side: int
    picture: bytes | None


def draw_mosaic(
    tiles: Iterable[Tile],
    width: int,
    height: int,
    *,
    heading: int = 0,
    title: str = "",
    note: str = "",
) -> bytes:
    """Return a PNG of `width` x `height` RGB pixels.

    Tiles keep the shape of their pictures. Above them, in the first `heading` rows, stand `title`
    on the left and `note` on the right; the title is cut short where there is no room for both.
    """
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    if heading > 0:
        _write_heading(draw, width, heading, title, note)
    for tile in tiles:
        picture = None if tile.picture is None else _fitted(tile.picture, tile.side)
        if picture is None:
            _dot(draw, tile)
            continue
        left = tile.left + (tile.side - picture.width) // 2
        top = tile.top + (tile.side - picture.height) // 2
        canvas.paste(picture, (left, top))
    file = io.BytesIO()
    canvas.save(file, "PNG", compress_level=4)
    return file.getvalue()


def _fitted(data: bytes, side: int) -> Image.Image | None:
    """Decode a picture and scale it, up or down, until its longer side is `side`."""
    try:
        picture = decode_image(data, LIMITS, cover=(side, side))
    except ServerError:
        return None
    scale = side / max(picture.size)
    height, width = (max(1, round(length * scale)) for length in picture.size)
    return picture.image.resize((width, height), Image.Resampling.BILINEAR, box=picture.box)


def _dot(draw: ImageDraw.ImageDraw, tile: Tile) -> None:
    middle_x, middle_y = tile.left + tile.side // 2, tile.top + tile.side // 2
    radius = max(1, tile.side // 6)
    draw.ellipse(
        (middle_x - radius, middle_y - radius, middle_x + radius, middle_y + radius), fill=MARK
    )


def _write_heading(
    draw: ImageDraw.ImageDraw, width: int, heading: int, title: str, note: str
) -> None:
    font = ImageFont.load_default(min(FONT_SIZE, max(8, heading // 2)))
    margin = heading // 3
    note = shortened(draw, note, font, width - 2 * margin)
    room = width - 2 * margin - _length(draw, note, font) - margin * bool(note)
    middle = heading // 2
    draw.text(
        (margin, middle), shortened(draw, title, font, room), fill=INK, font=font, anchor="lm"
    )
    draw.text((width - margin, middle), note, fill=INK, font=font, anchor="rm")
    draw.line((0, heading - 1, width, heading - 1), fill=FAINT)


def shortened(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    room: float,
) -> str:
    """Return the text on one line, cut off with dots where it is wider than `room` pixels."""
    text = " ".join(text.split())[:400]
    if _length(draw, text, font) <= room:
        return text
    while text and _length(draw, text + ELLIPSIS, font) > room:
        text = text[:-1]
    return text + ELLIPSIS if text else ""


def _length(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> float:
    return draw.textlength(text, font=font)
