"""Few rows wait for the disk with the transaction that claims them, not before it.

They are written to their file at once, as all are, but what is forced to the disk is a copy of
them in the database's log, by the commit. Whoever opens the collection writes such copies into
the files again. Now and then the files are forced to the disk as well, and the copies go with the
next transaction. Many rows are not copied: forcing their file costs little beside writing them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from server.index.contract import Vectors
from server.index.embedded import statements
from server.index.embedded.held import HeldSpace
from server.index.embedded.table import Slots

MOST_COPIED = 256 << 10  # bytes of rows in one call
MOST_BYTES = 4 << 20  # of copies: read when the collection is opened, and kept in the log


class Waiting:
    """What is in the table `waiting`. One thread changes it at a time."""

    def __init__(self) -> None:
        """Begin with no copies."""
        self._bytes = 0
        self._forced = False  # the files have all of them: they may go

    def write(
        self, rows: Mapping[HeldSpace, Vectors], slots: Slots, files: Iterable[HeldSpace]
    ) -> bool:
        """Write rows that do not count yet; returns whether `claim` must copy them.

        Raises:
            OSError: the disk is full or failed.
        """
        copied = sum(matrix.nbytes for matrix in rows.values()) <= MOST_COPIED
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
            if copied:
                statements.add_waiting(writer, held.row.number, int(numbers[0]), matrix)

    def claimed(self, rows: Mapping[HeldSpace, Vectors], copied: bool) -> None:
        """Take note that the transaction is done."""
        if self._forced:
            self._bytes, self._forced = 0, False
        if copied:
            self._bytes += sum(matrix.nbytes for matrix in rows.values())

    def forget(self) -> None:
        """Take note that all copies went, as compaction has written and forced every row."""
        self._bytes, self._forced = 0, False
