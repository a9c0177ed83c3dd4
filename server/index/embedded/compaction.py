"""Rows of removed items leave the files: the others move together into files of a new generation.

The new files are made beside the old ones, while items come and go: they follow what has changed
meanwhile, round by round, until next to nothing is left. Only the last round and the transaction
that lets the new files count keep writers waiting. Searches that are under way go on in the old
files, which stay mapped although they are removed. A process that is killed meanwhile has either
generation, whole; files of the other are strays, removed when the collection is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.index.contract import Metric
from server.index.embedded import statements
from server.index.embedded.database import Database
from server.index.embedded.held import HeldSpace
from server.index.embedded.loading import sync_folder
from server.index.embedded.numbers import Numbers
from server.index.embedded.selections import Selections
from server.index.embedded.table import Mask, Slots, Table

BLOCK_BYTES = 4 << 20  # copied at a time
IDS = 4096  # taken over at a time: other threads wait for no longer


class Stopped(Exception):
    """The collection is being closed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A collection at one moment; its arrays are copies, or nobody changes them meanwhile."""

    upto: int  # slots
    live: Mask
    spaces: Sequence[tuple[HeldSpace, Mask]]  # with which rows count


def look(table: Table, spaces: Sequence[HeldSpace]) -> Seen:
    """Return what there is now, as it will not stay; nothing may change during the call."""
    upto = len(table.ids)
    return Seen(upto, table.live[:upto].copy(), [(held, _filled(held, upto)) for held in spaces])


def _filled(held: HeldSpace, upto: int) -> Mask:
    filled = np.zeros(upto, np.bool_)
    known = held.filled[:upto]
    filled[: known.size] = known
    return filled


class Compaction:
    """The next generation of files, as far as it is made."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        metric: Metric,
        source: Table,
        go_on: Callable[[], bool],
    ) -> None:
        """Begin with nothing; `go_on` is asked again and again, and False stops the work."""
        self.table = Table(source.generation + 1)
        self.selections = Selections(database, self.table)
        self.spaces: dict[int, HeldSpace] = {}
        self._folder, self._database, self._metric = folder, database, metric
        self._source = source
        self._go_on = go_on
        self._old: Slots = np.empty(0, np.int64)  # by new slot
        self._upto = 0  # old slots that were looked at

    def follow(self, seen: Seen) -> int:
        """Make the new files what the old ones were when they were seen; returns changed rows.

        Raises:
            ServerError: the disk is full or failed.
            Stopped: `go_on` said so.
        """
        with self._database.explained():
            changed = self._follow_items(seen)
            there = {held.row.number for held, _ in seen.spaces}
            for number in self.spaces.keys() - there:
                self.spaces.pop(number).close(remove=True)
            for held, filled in seen.spaces:
                changed += self._follow_space(held, seen.live & filled)
        return changed

    def _follow_items(self, seen: Seen) -> int:
        came = self._upto + np.flatnonzero(seen.live[self._upto :])
        for first in range(0, came.size, IDS):
            self._check()
            self.table.add(self._source.names[came[first : first + IDS]].tolist())
        self._old = np.concatenate((self._old, came))
        self._upto = seen.upto
        live = self.table.live[: self._old.size]
        gone = np.flatnonzero(live & ~seen.live[self._old])
        self.table.remove_slots(gone.tolist())
        return came.size + gone.size

    def _follow_space(self, source: HeldSpace, filled: Mask) -> int:
        """Copy rows that came, and forget those that went; `filled` is by old slot."""
        target = self.spaces.get(source.row.number) or self._new_space(source)
        wanted = filled[self._old]
        has = _filled(target, self._old.size)
        came, gone = np.flatnonzero(wanted & ~has), np.flatnonzero(has & ~wanted)
        if came.size:
            target.reserve(self._old.size)
            for part in _parts(came, BLOCK_BYTES // (4 * source.row.dim)):
                self._check()
                # Forced little by little: writers wait for the disk behind all that waits for it.
                target.write(part, source.file.matrix[self._old[part]])
            target.count(came)
        target.forget(gone.tolist())
        return came.size + gone.size

    def _new_space(self, source: HeldSpace) -> HeldSpace:
        path = HeldSpace.index_path(self._folder, source.row, self.table.generation)
        source.index.save_for(path, self._old)  # so that it need not be made again
        target = HeldSpace(self._folder, source.row, self._metric, self.table, self.selections)
        self.spaces[source.row.number] = target
        sync_folder(self._folder)
        return target

    def _check(self) -> None:
        if not self._go_on():
            raise Stopped

    def settle(self) -> None:
        """Wait for indexes that are read from their files.

        Raises:
            Stopped: `go_on` said so.
        """
        for held in self.spaces.values():
            while held.index.is_loading and not held.index.settle(0.05):
                self._check()

    def switch(self, selections: Selections) -> None:
        """Let the new generation count, in one transaction; all was followed, nothing changes.

        Raises:
            ServerError: the disk is full or failed; the old generation counts.
        """
        old, source = self._old, self._source
        self.table.numbers = Numbers(source.numbers.of(old), source.numbers.of_one(self._upto))
        # Before the commit: what fails after it must not take the new files for no use.
        self.selections.take_over(selections, old)
        with self._database.write() as writer:
            statements.set_kept(writer, self.table.generation, self.table.numbers)
            statements.forget_waiting(writer)

    def close(self, *, remove: bool) -> None:
        """Let go of what was made, or remove it."""
        for held in self.spaces.values():
            held.close(remove=remove)


def _parts(slots: Slots, rows: int) -> Iterator[Slots]:
    step = max(1, rows)
    for first in range(0, slots.size, step):
        yield slots[first : first + step]
