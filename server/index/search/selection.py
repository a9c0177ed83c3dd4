"""Which slots a search may answer with."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Slots = NDArray[np.int64]


class Selection:
    """A set of slots, kept as one truth value per slot; slots beyond its end are not in it.

    What is derived from the mask is made once: keep a selection for as long as the filter it
    came from gives the same items.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = np.ascontiguousarray(mask, np.bool_)

    @cached_property
    def slots(self) -> Slots:
        """Its slots in rising order."""
        return np.flatnonzero(self.mask)

    def __len__(self) -> int:
        return self.slots.size

    def within(self, alive: Mask) -> Mask:
        """Return, per slot of `alive`, whether it is alive and in here."""
        shared = min(self.mask.size, alive.size)
        both = np.zeros(alive.size, np.bool_)
        np.logical_and(self.mask[:shared], alive[:shared], out=both[:shared])
        return both
