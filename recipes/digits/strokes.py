"""Digits drawn as a person draws them with a mouse: a check that MNIST itself cannot give.

Each digit is a few strokes through control points, moved about at random, with a pen of one
width. It is drawn on a 280 x 280 canvas and reduced to 28 x 28 the way the server does it.
Nothing here is used in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CANVAS, SIZE = 280, 28
Points = NDArray[np.float64]
Stroke = tuple[tuple[float, float], ...]

# Control points (x, y) in a unit box, y downwards. A stroke of two points is a straight line,
# one of more is a smooth curve; corners are where one stroke ends and the next begins.
SHAPES: dict[int, tuple[tuple[Stroke, ...], ...]] = {
    0: (
        (((0.5, 0.0), (0.1, 0.25), (0.08, 0.7), (0.5, 1.0), (0.92, 0.7), (0.9, 0.25), (0.5, 0.0)),),
        (((0.6, 0.02), (0.2, 0.2), (0.15, 0.8), (0.5, 1.0), (0.85, 0.7), (0.8, 0.2), (0.45, 0.0)),),
    ),
    1: (
        (((0.5, 0.0), (0.5, 1.0)),),
        (((0.3, 0.25), (0.55, 0.0)), ((0.55, 0.0), (0.52, 1.0))),
        (((0.6, 0.0), (0.4, 1.0)),),
    ),
    2: (
        (
            ((0.1, 0.25), (0.3, 0.02), (0.75, 0.05), (0.85, 0.35), (0.5, 0.7), (0.08, 1.0)),
            ((0.08, 1.0), (0.95, 0.97)),
        ),
        (
            ((0.15, 0.2), (0.45, 0.0), (0.85, 0.2), (0.7, 0.55), (0.1, 0.95)),
            ((0.1, 0.95), (0.9, 1.0)),
        ),
    ),
    3: (
        (
            ((0.12, 0.12), (0.5, 0.0), (0.85, 0.2), (0.7, 0.42), (0.4, 0.48)),
            ((0.4, 0.48), (0.8, 0.55), (0.9, 0.8), (0.55, 1.0), (0.1, 0.88)),
        ),
        (
            ((0.15, 0.05), (0.6, 0.02), (0.85, 0.22), (0.45, 0.47)),
            ((0.45, 0.47), (0.85, 0.6), (0.85, 0.85), (0.5, 1.0), (0.12, 0.92)),
        ),
    ),
    4: (
        (((0.25, 0.0), (0.1, 0.55)), ((0.1, 0.55), (0.9, 0.55)), ((0.75, 0.1), (0.7, 1.0))),
        (((0.65, 0.0), (0.05, 0.62)), ((0.05, 0.62), (0.95, 0.62)), ((0.65, 0.0), (0.65, 1.0))),
    ),
    5: (
        (
            ((0.85, 0.02), (0.25, 0.0)),
            ((0.25, 0.0), (0.2, 0.42)),
            ((0.2, 0.42), (0.6, 0.38), (0.88, 0.65), (0.65, 0.97), (0.12, 0.92)),
        ),
        (
            ((0.8, 0.0), (0.3, 0.02)),
            ((0.3, 0.02), (0.22, 0.48)),
            ((0.22, 0.48), (0.7, 0.45), (0.85, 0.75), (0.5, 1.0), (0.15, 0.9)),
        ),
    ),
    6: (
        (
            (
                (0.7, 0.0), (0.3, 0.3), (0.15, 0.7), (0.45, 1.0), (0.82, 0.82), (0.7, 0.55),
                (0.4, 0.52), (0.18, 0.72),
            ),
        ),
        (
            (
                (0.6, 0.0), (0.22, 0.4), (0.2, 0.85), (0.55, 1.0), (0.85, 0.75), (0.55, 0.55),
                (0.22, 0.75),
            ),
        ),
    ),
    7: (
        (((0.08, 0.03), (0.9, 0.0)), ((0.9, 0.0), (0.4, 1.0))),
        (((0.1, 0.0), (0.88, 0.02)), ((0.88, 0.02), (0.35, 1.0)), ((0.3, 0.52), (0.8, 0.5))),
    ),
    8: (
        (
            (
                (0.5, 0.46), (0.2, 0.25), (0.5, 0.0), (0.8, 0.22), (0.5, 0.46), (0.12, 0.75),
                (0.5, 1.0), (0.88, 0.76), (0.5, 0.46),
            ),
        ),
        (
            (
                (0.75, 0.12), (0.4, 0.0), (0.2, 0.22), (0.55, 0.48), (0.85, 0.78), (0.5, 1.0),
                (0.15, 0.78), (0.5, 0.48), (0.8, 0.2), (0.6, 0.02),
            ),
        ),
    ),
    9: (
        (
            ((0.8, 0.2), (0.45, 0.0), (0.18, 0.25), (0.4, 0.5), (0.78, 0.3)),
            ((0.8, 0.2), (0.75, 1.0)),
        ),
        (
            ((0.78, 0.15), (0.4, 0.02), (0.15, 0.28), (0.45, 0.48), (0.8, 0.25)),
            ((0.8, 0.2), (0.82, 0.6), (0.65, 0.92), (0.25, 0.95)),
        ),
    ),
}


@dataclass(frozen=True)
class Hand:
    """How a set of digits is drawn. Lengths are parts of the canvas."""

    height: tuple[float, float] = (0.6, 0.75)
    off_centre: float = 0.0               # how much of the free room the digit may move
    pen: tuple[float, float] = (0.07, 0.09)


HANDS: dict[str, Hand] = {
    "centred": Hand(),
    "off-centre": Hand(height=(0.4, 0.65), off_centre=0.95),
    "small": Hand(height=(0.3, 0.4), off_centre=0.6, pen=(0.05, 0.08)),
    "thin": Hand(off_centre=0.5, pen=(0.028, 0.045)),
    "thick": Hand(off_centre=0.5, pen=(0.11, 0.15)),
}


def smooth(points: Points, steps: int = 12) -> Points:
    """Return a Catmull-Rom curve through the points."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
               + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate([*pieces, points[-1:]])


def draw_digit(digit: int, hand: Hand, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one digit, light on dark, and reduce it to 28 x 28."""
    shapes = SHAPES[digit]
    strokes = [np.array(stroke) for stroke in shapes[rng.integers(len(shapes))]]
    strokes = _place(_moved_about(strokes, rng), hand, rng)
    canvas = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(canvas)
    width = rng.uniform(*hand.pen) * CANVAS
    for stroke in strokes:
        _draw_line(pen, stroke if len(stroke) == 2 else smooth(stroke), width)
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def draw_set(
    hand: Hand, count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `count` digits, every class equally often."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    return np.stack([draw_digit(int(label), hand, rng) for label in labels]), labels


def _moved_about(strokes: list[Points], rng: np.random.Generator) -> list[Points]:
    """Jitter control points; ends that touched still touch, as a person would see to it."""
    moved: dict[tuple[float, float], Points] = {}
    for stroke in strokes:
        for point in stroke:
            moved.setdefault(tuple(point), point + rng.normal(0, 0.03, 2))
    return [np.stack([moved[tuple(point)] for point in stroke]) for stroke in strokes]


def _place(strokes: list[Points], hand: Hand, rng: np.random.Generator) -> list[Points]:
    """Slant, turn, scale and put the digit on the canvas, all of it inside."""
    height = rng.uniform(*hand.height) * CANVAS
    width = height * rng.uniform(0.5, 0.8)
    angle, slant = rng.normal(0, 0.08), rng.normal(0.1, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, -slant], [0, 1]]) @ np.diag([width, height])
    shaped = [(stroke - 0.5) @ linear.T for stroke in strokes]
    every = np.concatenate(shaped)
    low, high = every.min(0), every.max(0)
    room = np.maximum(0, CANVAS / 2 - (high - low) / 2 - hand.pen[1] * CANVAS / 2)
    centre = CANVAS / 2 + room * hand.off_centre * rng.uniform(-1, 1, 2)
    return [stroke - (low + high) / 2 + centre for stroke in shaped]


def _draw_line(pen: ImageDraw.ImageDraw, points: Points, width: float) -> None:
    """Draw a line with round ends and joints."""
    path = [(float(x), float(y)) for x, y in points]
    pen.line(path, fill=255, width=max(1, round(width)), joint="curve")
    for x, y in path:
        r = width / 2
        pen.ellipse([x - r, y - r, x + r, y + r], fill=255)
