"""What is to be done about a collection's lists, from what is known of it. Pure decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Job = Literal["load", "build", "tune", "drop"]

# Below either, comparing every row takes a fraction of a millisecond (a core's cache holds the
# rows) and lists would save less than the rest of a request takes; see docs/adr.
MIN_ROWS = 5_000
MIN_FLOATS = 2_500_000

ROWS_PER_CENTRE = 32  # that k-means is shown: more do not change recall
REBUILD_GROWN = 4  # times the rows that centres were made for: lists have become long
TUNE_GROWN = 1.5  # times the rows that the number of lists to read was found for
RETRY_GROWN = 2  # times the rows for which lists were of no use


@dataclass(frozen=True, slots=True)
class Situation:
    """A collection and what it has."""

    rows: int
    dim: int
    saved: bool  # a file of lists waits to be read
    centres_for: int | None  # rows that the lists were made for; None: no lists
    planned_for: int  # rows that the plan was made for
    refused_at: int | None  # rows for which lists were of no use


def is_large(rows: int, dim: int) -> bool:
    """Return whether comparing every row takes long enough to do something about it."""
    return rows >= MIN_ROWS and rows * dim >= MIN_FLOATS


def due(now: Situation) -> Job | None:
    """Return what should be done next; None: nothing."""
    if now.saved:
        return "load"
    if now.centres_for is None:
        if not is_large(now.rows, now.dim):
            return None
        if now.refused_at is not None and now.rows < RETRY_GROWN * now.refused_at:
            return None
        return "build"
    if not is_large(2 * now.rows, now.dim):  # half the size: not at every small change about it
        return "drop"
    if now.rows >= REBUILD_GROWN * now.centres_for:
        return "build"
    if not now.planned_for / TUNE_GROWN / 2 < now.rows < now.planned_for * TUNE_GROWN:
        return "tune"
    return None


def lists_for(rows: int) -> int:
    """Return into how many lists rows are put: reading the centres and the lists costs alike."""
    return max(16, int(3.2 * math.sqrt(rows)))
