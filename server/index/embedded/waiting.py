"""Few rows wait for the disk with the transaction that claims them, not before it.

They are written to their file at once, as all are, but what is forced to the disk is a copy of
them in the database's log, by the commit. Whoever opens the collection writes such copies into
the files again. Now and then the files are forced to the disk as well, and the copies go with the
next transaction. Many rows are not copied: forcing their file costs little beside writing them.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Mapping

import numpy as np

from server.index.contract import Vectors
from server.index.embedded import statements
from server.index.embedded.held import HeldSpace
from server.index.embedded.table import Slots

MOST_COPIED = 256 << 10  # bytes of rows in one call
MOST_RUNS = 8  # of rows that stand beside each other in the file: each is a copy of its own
MOST_BYTES = 4 << 20  # of copies: read when the collection is opened, and kept in the log


class Waiting:
    """What is in the table `waiting`. One thread changes it at a time."""

    def __init__(self) -> None:
        """Begin with no copies."""
        self._bytes = 0
        self._forced = False  # the files have all of them: they may go

    def write(
        self,
        rows: Mapping[HeldSpace, Vectors],
        slots: Slots,
        numbers: Slots,
        files: Iterable[HeldSpace],
    ) -> bool:
        """Write rows that do not count yet; returns whether `claim` must copy them.

        Slots and their numbers (n,) ascend.

        Raises:
            OSError: the disk is full or failed.
        """
        copied = sum(matrix.nbytes for matrix in rows.values()) <= MOST_COPIED
        copied = copied and len(_runs(numbers)) <= MOST_RUNS
        if self._bytes > MOST_BYTES:
            for held in files:
                held.file.sync()
            self._forced = True
        for held, matrix in rows.items():
            held.write(slots, matrix, force=not copied)
        return copied

    def claim(
        self,
        writer: sqlite3.Connection,
        rows: Mapping[HeldSpace, Vectors],
        numbers: Slots,
        copied: bool,
    ) -> None:
        """Let rows count, in the transaction of `writer`, with copies of them if need be."""
        if self._forced:
            statements.forget_waiting(writer)
        for held, matrix in rows.items():
            statements.claim_vectors(writer, held.row.number, numbers.tolist())
            for start, stop in _runs(numbers) if copied else ():
                first = int(numbers[start])
                statements.add_waiting(writer, held.row.number, first, matrix[start:stop])

    def claimed(self, rows: Mapping[HeldSpace, Vectors], copied: bool) -> None:
        """Take note that the transaction is done."""
        if self._forced:
            self._bytes, self._forced = 0, False
        if copied:
            self._bytes += sum(matrix.nbytes for matrix in rows.values())

    def forget(self) -> None:
        """Take note that all copies went, as compaction has written and forced every row."""
        self._bytes, self._forced = 0, False


def _runs(numbers: Slots) -> list[tuple[int, int]]:
    """Return where rows stand beside each other, as first and behind the last."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return list(itertools.pairwise([0, *breaks.tolist(), len(numbers)]))
