"""Which slots a search may answer with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Slots = NDArray[np.int64]


class Selection:
    """A set of slots, kept as one truth value per slot; slots beyond its end are not in it.

    Lists note in it what they find out about it: keep a selection for as long as the filter it
    came from gives the same items.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = np.ascontiguousarray(mask, np.bool_)
        # How many of its slots are in each of some lists, and of which lists: the lists' own note.
        self.counted: tuple[object, NDArray[np.int64]] | None = None

    @property
    def slots(self) -> Slots:
        """Its slots in rising order; eight times as large as the mask, so it is not kept."""
        return np.flatnonzero(self.mask)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.mask))

    def within(self, alive: Mask) -> Allowed:
        """Return its slots that are alive now."""
        shared = min(self.mask.size, alive.size)
        both = np.zeros(alive.size, np.bool_)
        np.logical_and(self.mask[:shared], alive[:shared], out=both[:shared])
        return Allowed(both, int(np.count_nonzero(both)), self)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The slots of a selection that are alive at this moment."""

    mask: Mask
    count: int
    selection: Selection
