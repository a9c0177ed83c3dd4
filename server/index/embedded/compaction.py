"""Rows of removed items leave the files: the others move together into files of a new generation.

Searches that are under way go on in the old files, which stay mapped although they are removed.
A process that is killed meanwhile has either generation, whole; files of the other are strays,
removed when the collection is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.index.contract import Metric
from server.index.embedded import statements
from server.index.embedded.database import Database
from server.index.embedded.held import HeldSpace
from server.index.embedded.loading import sync_folder
from server.index.embedded.selections import Selections
from server.index.embedded.table import Slots, Table

BLOCK_BYTES = 16 << 20  # copied at a time


@dataclass(frozen=True, slots=True)
class Moved:
    """The collection in its new files."""

    table: Table
    selections: Selections
    spaces: list[HeldSpace]
    old_slots: Slots  # by new slot


def prepare(
    folder: Path, database: Database, metric: Metric, table: Table, spaces: Sequence[HeldSpace]
) -> Moved:
    """Write the next generation. Nothing may change the collection from here to `switch`.

    Raises:
        ServerError: the disk is full or failed; the old generation counts.
    """
    old = np.flatnonzero(table.live[: len(table.ids)])  # new slot -> old slot
    new_table = Table(table.generation + 1, len(old))
    for slot, before in enumerate(old.tolist()):
        new_table.place(slot, table.ids[before])
    selections = Selections(database, new_table)
    made: list[HeldSpace] = []
    try:
        with database.explained():
            for space in spaces:
                made.append(HeldSpace(folder, space.row, metric, new_table, selections))
                made[-1].attach(_copy(space, made[-1], old))
            sync_folder(folder)
    except BaseException:
        for held in made:
            held.close(remove=True)
        raise
    return Moved(new_table, selections, made, old)


def _copy(source: HeldSpace, target: HeldSpace, old: Slots) -> Slots:
    """Copy the rows that count; returns their new slots."""
    filled = np.zeros(len(old), np.bool_)
    known = old < source.filled.size
    filled[known] = source.filled[old[known]]
    slots = np.flatnonzero(filled)
    step = max(1, BLOCK_BYTES // (4 * source.row.dim))
    for start in range(0, len(slots), step):
        part = slots[start : start + step]
        target.file.write(part, source.file.matrix[old[part]])
    target.file.sync()
    return slots


def switch(database: Database, moved: Moved) -> None:
    """Let the new generation count, in one transaction.

    Raises:
        ServerError: the disk is full or failed; the old generation counts.
    """
    old = moved.old_slots
    moves = [(slot, before) for slot, before in enumerate(old.tolist()) if slot != before]
    try:
        _renumber(database, moves, len(old), moved.table.generation)
    except BaseException:
        for held in moved.spaces:
            held.close(remove=True)
        raise


def _renumber(
    database: Database, moves: list[tuple[int, int]], next_slot: int, generation: int
) -> None:
    with database.write() as writer:
        # Slots only ever move down, and in rising order: the one moved to is always free.
        writer.executemany("UPDATE items SET slot = ? WHERE slot = ?", moves)
        writer.executemany("UPDATE vectors SET slot = ? WHERE slot = ?", moves)
        statements.set_counter(writer, "next_slot", next_slot)
        statements.set_counter(writer, "generation", generation)
