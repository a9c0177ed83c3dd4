"""How the database numbers slots: once for good, whatever generation of files they are in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]

STORED = np.dtype("<i8")  # in the database


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of the slots of one generation, which rise with the slots.

    The first slots are those that a compaction kept, with the numbers that they had; the others
    follow one by one. So a compaction has nothing to write anew in the tables of the items.
    """

    kept: Slots
    first: int  # number of the slot behind those that were kept

    @classmethod
    def plain(cls) -> Numbers:
        """Return the numbers of a collection that was never compacted: its slots."""
        return cls(np.empty(0, np.int64), 0)

    @classmethod
    def stored(cls, data: bytes, first: int) -> Numbers:
        """Return what was kept in the database."""
        return cls(np.frombuffer(data, STORED).astype(np.int64), first)

    def to_store(self) -> bytes:
        """Return the numbers that were kept as the database keeps them."""
        return self.kept.astype(STORED).tobytes()

    def of(self, slots: Slots) -> Slots:
        """Return the numbers (n,) of slots."""
        numbers = slots + (self.first - self.kept.size)
        old = slots < self.kept.size
        numbers[old] = self.kept[slots[old]]
        return numbers

    def of_one(self, slot: int) -> int:
        """Return the number of a slot."""
        if slot < self.kept.size:
            return int(self.kept[slot])
        return slot + self.first - self.kept.size

    def slots_of(self, numbers: Slots) -> Slots:
        """Return the slots (n,) of numbers, whether they are taken by now or not; else -1."""
        slots = numbers - (self.first - self.kept.size)
        old = np.flatnonzero(numbers < self.first)
        if old.size:
            wanted = numbers[old]
            places = np.searchsorted(self.kept, wanted)
            there = places < self.kept.size
            there[there] = self.kept[places[there]] == wanted[there]
            slots[old] = np.where(there, places, -1)
        return slots

    def slot_of(self, number: int) -> int:
        """Return the slot of a number, or -1."""
        return int(self.slots_of(np.array([number], np.int64))[0])
