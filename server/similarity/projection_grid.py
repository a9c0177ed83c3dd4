"""Points of a map moved to the cells of a grid, one each, so that pictures at them stay apart."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]  # (n, 2): column and row; -1 where no cell was free

REACH: Final = 4  # cells that a point may be moved, either way


def snapped(points: NDArray[np.float32], cells: int, reach: int = REACH) -> Cells:
    """Give each point (n, 2) within [-1, 1] a cell of its own in a grid of `cells` x `cells`.

    Each gets the nearest free cell, those first that lie nearest to the middle of theirs. A
    point with no free cell within `reach` gets none, and is marked -1. Upwards in the plane is
    upwards in the grid: row 0 is the top.
    """
    unit = (np.clip(points.astype(np.float64), -1, 1) + 1) / 2
    places = np.stack([unit[:, 0], 1 - unit[:, 1]], 1) * cells - 0.5  # a cell's middle is whole
    own = np.clip(np.rint(places).astype(np.int64), 0, cells - 1)
    off = np.square(places - own).sum(1)
    steps = np.arange(-reach, reach + 1)
    around = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    free = np.zeros((cells + 2 * reach, cells + 2 * reach), np.bool_)  # with a margin of taken ones
    free[reach : reach + cells, reach : reach + cells] = True
    found = np.full((len(points), 2), -1, np.int64)
    for k in np.argsort(off, kind="stable"):
        near = own[k] + around
        open_ = free[near[:, 0] + reach, near[:, 1] + reach]
        if not open_.any():
            continue
        distance = np.square(near - places[k]).sum(1)
        column, row = near[np.where(open_, distance, np.inf).argmin()]
        free[column + reach, row + reach] = False
        found[k] = column, row
    return found
