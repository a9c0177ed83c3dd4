"""Which slot belongs to which item: the part of SQLite that searches need, kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.index.embedded.numbers import Numbers, Slots

Mask = NDArray[np.bool_]
Names = NDArray[np.object_]

__all__ = ["Mask", "Names", "Slots", "Table", "TouchedSlots", "Turn", "longer"]


@dataclass(eq=False)
class Turn:
    """Counts the beginnings and ends of something that readers must not see half done.

    Odd while it goes on. Whoever reads the same even number before and after its work has seen
    nothing of it; else it does the work again, in the end with the lock in its hand.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    committing: int = 0  # from before a transaction that replaces items, until memory agrees
    updating: int = 0  # the last and much shorter part of it

    @contextmanager
    def of(self, replacing: bool) -> Iterator[None]:
        """Enter a transaction together with the change of memory that follows it."""
        if not replacing:
            yield
            return
        with self.lock:
            self.committing += 1
            try:
                yield
            finally:
                self.committing += 1

    @contextmanager
    def of_memory(self, replacing: bool) -> Iterator[None]:
        """Enter the change of memory; new items alone may be seen one after the other."""
        if not replacing:
            yield
            return
        self.updating += 1
        try:
            yield
        finally:
            self.updating += 1


class Table:
    """Slots of one generation of files. One thread changes it at a time, any number reads."""

    def __init__(self, generation: int, next_slot: int = 0, numbers: Numbers | None = None) -> None:
        """Begin with slots that belong to nobody."""
        self.generation = generation
        self.numbers = Numbers.plain() if numbers is None else numbers
        self.ids: list[str] = [""] * next_slot  # by slot; those of removed items stay
        # The same ids where an answer's are fetched at once: they lie all over the memory, and an
        # array waits for several at a time where a list waits for one after the other.
        self.names: Names = np.full(max(next_slot, 1024), "", object)
        self.slots: dict[str, int] = {}  # of the items there are
        self.live: Mask = np.zeros(max(next_slot, 1024), np.bool_)  # by slot, with room to grow
        self.touched = TouchedSlots()
        self.turn = Turn()

    def next_slots(self, count: int) -> Slots:
        """Return slots that were never used; they are free until `add`."""
        return np.arange(len(self.ids), len(self.ids) + count, dtype=np.int64)

    def add(self, ids: Sequence[str]) -> None:
        """Give the next slots to items; older slots of theirs must have been removed."""
        first = len(self.ids)
        self.live = longer(self.live, first + len(ids))
        self.live[first : first + len(ids)] = True
        self.names = _longer_names(self.names, first + len(ids))
        self.names[first : first + len(ids)] = ids
        self.ids.extend(ids)
        self.slots.update(zip(ids, range(first, first + len(ids)), strict=True))

    def remove_slots(self, slots: Sequence[int]) -> None:
        """Forget items by their slots, where they have not got others since."""
        for slot in slots:
            self.live[slot] = False
            if self.slots.get(self.ids[slot]) == slot:
                del self.slots[self.ids[slot]]

    def place(self, slot: int, id: str) -> None:
        """Give an item the slot it has in the database."""
        self.ids[slot] = self.names[slot] = id
        self.slots[id] = slot
        self.live[slot] = True

    def remove(self, ids: Sequence[str]) -> None:
        """Forget items; their slots are never used again."""
        for id in ids:
            self.live[self.slots.pop(id)] = False

    @property
    def dead(self) -> int:
        """Count the slots that compaction would free."""
        return len(self.ids) - len(self.slots)


class TouchedSlots:
    """The slots whose metadata changed, in the order it happened, as far back as is worth it."""

    MOST = 4096

    def __init__(self) -> None:
        # Replaced together: a reader takes both parts of one moment.
        self._noted: tuple[int, list[int]] = (0, [])  # how many were forgotten before these

    def add(self, slot: int) -> None:
        """Note a change; one thread at a time."""
        forgotten, slots = self._noted
        if len(slots) >= self.MOST:
            self._noted = forgotten + len(slots), [slot]
        else:
            slots.append(slot)

    @property
    def position(self) -> int:
        """Return where the list ends now."""
        forgotten, slots = self._noted
        return forgotten + len(slots)

    def since(self, position: int) -> list[int] | None:
        """Return the slots noted after a position; None if that is not known any more."""
        forgotten, slots = self._noted
        return None if position < forgotten else slots[position - forgotten :]


def _longer_names(names: Names, size: int) -> Names:
    if size <= names.size:
        return names
    more = np.full(max(size, 2 * names.size), "", object)
    more[: names.size] = names
    return more


def longer(mask: Mask, size: int) -> Mask:
    """Return a mask with room for `size`; a longer one has room for more to come."""
    if size <= mask.size:
        return mask
    grown = np.zeros(max(size, 2 * mask.size), np.bool_)
    grown[: mask.size] = mask
    return grown
