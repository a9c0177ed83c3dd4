"""One space in memory: its rows, which of them count, and the index over them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from server.index.contract import Metric, Vectors
from server.index.embedded.rows import RowFile
from server.index.embedded.selections import Selections
from server.index.embedded.statements import SpaceRow
from server.index.embedded.table import Slots, Table, longer
from server.index.search import SlotIndex

ROWS, INDEX = ".f32", ".ann"


class HeldSpace:
    """The files of a space in one generation. One thread changes it at a time."""

    def __init__(
        self, folder: Path, row: SpaceRow, metric: Metric, table: Table, selections: Selections
    ) -> None:
        """Open the files, without any row that counts yet."""
        self.row, self.table, self.selections = row, table, selections
        self.file = RowFile(_path(folder, row, table.generation, ROWS), row.dim)
        self.filled = np.zeros(max(len(table.ids), 1024), np.bool_)  # by slot
        self.index = SlotIndex(row.dim, metric, self.index_path(folder, row, table.generation))
        self._matrix = self.file.matrix
        self.index.grow(self._matrix)

    def attach(self, slots: Slots) -> None:
        """Begin with rows that are in the file already."""
        self.filled = longer(self.filled, len(self.table.ids))
        self.filled[slots] = True
        self.index.add(slots)

    @staticmethod
    def rows_in(folder: Path, row: SpaceRow, generation: int) -> int:
        """Count the rows that are in the file of a space; none if there is no file."""
        path = _path(folder, row, generation, ROWS)
        return path.stat().st_size // (4 * row.dim) if path.exists() else 0

    @staticmethod
    def index_path(folder: Path, row: SpaceRow, generation: int) -> Path:
        """Return where the index over a space is kept."""
        return _path(folder, row, generation, INDEX)

    def write(self, slots: Slots, rows: Vectors, *, force: bool = True) -> None:
        """Write rows that do not count yet, and force them to the disk.

        Raises:
            OSError: the disk is full or failed.
        """
        self.file.write(slots, rows)
        if force:
            self.file.sync()
        self._follow_file()

    def reserve(self, count: int) -> None:
        """Make room for so many rows.

        Raises:
            OSError: the file cannot grow, or be mapped.
        """
        self.file.reserve(count)
        self._follow_file()

    def _follow_file(self) -> None:
        if self.file.matrix is not self._matrix:
            self._matrix = self.file.matrix
            self.index.grow(self._matrix)

    def count(self, slots: Slots) -> None:
        """Let written rows count."""
        self.mark(slots)
        self.find(slots)

    def mark(self, slots: Slots) -> None:
        """Let written rows be there for those who ask for them by item: the first half."""
        if len(slots):
            self.filled = longer(self.filled, int(slots[-1]) + 1)
            self.filled[slots] = True

    def find(self, slots: Slots) -> None:
        """Let searches find them: the second half, once it is known whose they are."""
        self.index.add(slots)

    def forget(self, slots: Sequence[int]) -> None:
        """Let rows count no more."""
        gone = [slot for slot in slots if slot < self.filled.size and self.filled[slot]]
        if gone:
            self.filled[gone] = False
            self.index.remove(np.array(gone, np.int64))

    def filled_slots(self) -> Slots:
        """Return the slots of rows that count, in rising order."""
        return np.flatnonzero(self.filled[: len(self.table.ids)])

    def empty_slots(self, limit: int | None = None) -> Slots:
        """Return the slots of items that have no row here, oldest first."""
        count = len(self.table.ids)
        filled = longer(self.filled, count)
        return np.flatnonzero(self.table.live[:count] & ~filled[:count])[:limit]

    def close(self, *, remove: bool = False) -> None:
        """Stop work on the index and let go of the files, or remove them."""
        self.index.close(keep=not remove)
        self.file.close()
        if remove:
            for suffix in (ROWS, INDEX):
                with suppress(OSError):  # what is left goes when the collection is opened again
                    self.file.path.with_suffix(suffix).unlink()


def _path(folder: Path, row: SpaceRow, generation: int, suffix: str) -> Path:
    return folder / f"{row.number}-{generation}{suffix}"
