"""Draws a matrix of counts: which classes are taken for which."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT = (255, 255, 255), (34, 34, 34), (120, 120, 120)
RIGHT, WRONG = np.array([31, 78, 121]), np.array([176, 58, 46])  # on the diagonal, and off it
TEXT_PIXELS = 13
LONGEST_LABEL = 18
CELL_PIXELS = (34, 6)  # of few classes, and at least
MOST_PIXELS = 900  # of the square
MARGIN = 16
LABELLED = 60  # classes; more have no names at the sides
COUNTED = 24  # pixels that a cell needs to hold its count
DARK = 0.5  # share from which on a count is written in white

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_matrix(matrix: NDArray[np.int64], labels: Sequence[str], title: str) -> bytes:
    """Return a PNG: a row for each true class, a column for each answer, darker where more are.

    Args:
        matrix: (classes, classes) counts.
        labels: The classes' names.
        title: A line above.
    """
    classes = len(labels)
    cell = max(CELL_PIXELS[1], min(CELL_PIXELS[0], MOST_PIXELS // classes))
    names = [_short(label) for label in labels] if classes <= LABELLED else []
    font = ImageFont.load_default(TEXT_PIXELS)
    beside = max((int(font.getlength(name)) for name in names), default=0) + 8
    above = 2 * MARGIN + TEXT_PIXELS + beside
    width = max(MARGIN + beside + classes * cell, int(font.getlength(title))) + 2 * MARGIN
    image = Image.new("RGB", (width, above + classes * cell + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN // 2), title, fill=INK, font=font)
    left = MARGIN + beside
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row, column in np.argwhere(matrix).tolist():
        corner = (left + column * cell, above + row * cell)
        colour = RIGHT if row == column else WRONG
        count, share = int(matrix[row, column]), float(shares[row, column])
        _draw_cell(draw, corner, cell, count, colour, share, font)
    frame = [left - 1, above - 1, left + classes * cell, above + classes * cell]
    draw.rectangle(frame, outline=SOFT)
    for k, name in enumerate(names):
        middle = k * cell + cell // 2
        draw.text((left - 6, above + middle), name, fill=INK, font=font, anchor="rm")
        _draw_upright(image, name, (left + middle, above - 6), font)
    file = io.BytesIO()
    image.quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    cell: int,
    count: int,
    colour: NDArray[np.int64],
    share: float,
    font: Font,
) -> None:
    x, y = corner
    ground = np.asarray(PAPER) + (colour - np.asarray(PAPER)) * share
    draw.rectangle([x, y, x + cell - 1, y + cell - 1], fill=tuple(int(c) for c in ground))
    if count and cell >= COUNTED:
        ink = PAPER if share > DARK else INK
        draw.text((x + cell // 2, y + cell // 2), str(count), fill=ink, font=font, anchor="mm")


def _draw_upright(image: Image.Image, name: str, foot: tuple[int, int], font: Font) -> None:
    """Write a name upwards, from a little above the matrix."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(name))
    label = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), PAPER)
    ImageDraw.Draw(label).text((-left, -top), name, fill=INK, font=font)
    turned = label.rotate(90, expand=True)
    image.paste(turned, (foot[0] - turned.width // 2, foot[1] - turned.height))


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
