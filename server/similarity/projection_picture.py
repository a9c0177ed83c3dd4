"""The map of a collection as one picture: thumbnails at their points, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from server.errors import InvalidInput
from server.preprocessing import Tile, draw_mosaic
from server.similarity.projection_grid import REACH, snapped

SMALLEST, LARGEST = 256, 4096  # pixels of a side of the map
LEAST_SIDE, MOST_SIDE = 20, 160  # of a thumbnail on it, with the gap around it
ROOM: Final = 2.5  # cells of the grid for each item: enough to keep clusters apart
HEADING: Final = 44
GAP: Final = 2


def draw_map(
    points: ArrayLike,
    thumbnails: Sequence[bytes | None],
    size: int = 1200,
    title: str = "",
) -> bytes:
    """Return the map as PNG, `size` pixels square under a heading with `title`.

    Every thumbnail (any accepted format) stands in a cell of a grid near its point (n, 2) in
    [-1, 1]; None, and what cannot be decoded, becomes a dot. Where points are so dense that
    no cell is free nearby, items are left out and the heading says how many are shown.

    Raises:
        InvalidInput: a size out of bounds, or points that do not fit the thumbnails.
    """
    if not SMALLEST <= size <= LARGEST:
        raise InvalidInput(
            f"a map may be {SMALLEST} to {LARGEST} pixels wide, not {size}",
            field="size",
            expected=f"{SMALLEST}..{LARGEST}",
            got=size,
        )
    places = np.asarray(points, np.float32)
    if places.size == 0 and not thumbnails:
        places = places.reshape(0, 2)
    if places.shape != (len(thumbnails), 2) or not np.isfinite(places).all():
        raise InvalidInput(
            f"{len(thumbnails)} thumbnails need finite points of shape "
            f"({len(thumbnails)}, 2), got {places.shape}",
            field="points",
            expected=[len(thumbnails), 2],
            got=list(places.shape),
        )
    cells = cells_for(len(thumbnails), size)
    edges = np.linspace(0, size, cells + 1).astype(int)  # cells differ by a pixel, to fill the map
    side = max(1, int(size // cells) - GAP)
    moved = snapped(places, cells, max(REACH, cells // 5))
    tiles = [
        Tile(int(edges[column]) + GAP // 2, HEADING + int(edges[row]) + GAP // 2, side, thumbnail)
        for (column, row), thumbnail in zip(moved, thumbnails, strict=True)
        if column >= 0
    ]
    note = f"{len(tiles):,} of {len(thumbnails):,} items shown"
    if len(tiles) == len(thumbnails):
        note = f"{len(tiles):,} item{'s' * (len(tiles) != 1)}"
    return draw_mosaic(tiles, size, size + HEADING, heading=HEADING, title=title, note=note)


def cells_for(items: int, size: int) -> int:
    """Return how many cells a side of the grid has, so that thumbnails stay within bounds."""
    wanted = int(np.ceil(np.sqrt(max(1, items) * ROOM)))
    return int(np.clip(wanted, -(-size // MOST_SIDE), size // LEAST_SIDE))
