"""From the files of a collection to what is kept of them in memory."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import orjson

from server.errors import InternalFault
from server.index.contract import CollectionSpec, Metric, Vectors
from server.index.embedded import statements
from server.index.embedded.database import Database
from server.index.embedded.held import INDEX, ROWS, HeldSpace
from server.index.embedded.selections import Selections
from server.index.embedded.statements import SpaceRow
from server.index.embedded.table import Table

DATABASE = "items.sqlite"
ROWS_AT_ONCE = 4096
UNFINISHED = ".new"  # of an index that was being saved
log = logging.getLogger(__name__)


def make_collection(folder: Path, spec: CollectionSpec) -> None:
    """Make the files of an empty collection.

    Raises:
        ServerError: the disk is full, or may not be written to.
    """
    database = Database(folder / DATABASE)
    try:
        with database.write() as writer:
            writer.executemany(
                "INSERT INTO about VALUES (?, ?)",
                [("spec", orjson.dumps(asdict(spec)).decode()), ("created_s", str(time.time()))],
            )
        with database.explained():
            sync_folder(folder)
    finally:
        database.close()


def database_of(folder: Path) -> Database:
    """Open the database of a collection.

    Raises:
        ServerError: it is not there, or cannot be opened.
    """
    path = folder / DATABASE
    if not path.is_file():
        raise InternalFault(f"{path} is missing: restore the collection from a snapshot")
    return Database(path)


def read_spec(database: Database, folder: Path) -> CollectionSpec:
    """Return what a collection was made with; its name is its folder's."""
    with database.read() as reader:
        found = reader.execute("SELECT value FROM about WHERE name = 'spec'").fetchone()
    if found is None:
        raise InternalFault(f"{folder} was never finished: remove it")
    return replace(CollectionSpec(**orjson.loads(found[0])), name=folder.name)


def read_table(database: Database) -> tuple[Table, Selections]:
    """Read which item is in which slot."""
    with database.read() as reader:
        generation = statements.counter(reader, "generation")
        numbers = statements.read_numbers(reader, generation)
        behind = statements.counter(reader, "next_slot") - numbers.first
        table = Table(generation, numbers.kept.size + behind, numbers)
        found = reader.execute("SELECT slot, id FROM items")
        while rows := found.fetchmany(ROWS_AT_ONCE):
            slots = numbers.slots_of(np.array([number for number, _ in rows], np.int64))
            for slot, (_, id) in zip(slots.tolist(), rows, strict=True):
                table.place(slot, id)
    return table, Selections(database, table)


def read_spaces(
    folder: Path, database: Database, metric: Metric, table: Table, selections: Selections
) -> list[HeldSpace]:
    """Open the files of all spaces, and remove what is left of others."""
    with database.read() as reader:
        rows = statements.all_spaces(reader)
    for row in rows:
        _forget_lost(folder, database, row, table)
    with database.read() as reader, database.explained():
        claimed: dict[int, list[int]] = {row.number: [] for row in rows}
        for number, space in reader.execute("SELECT slot, space FROM vectors ORDER BY slot"):
            claimed[space].append(number)
        _remove_strays(folder, {f"{row.number}-{table.generation}" for row in rows})
        opened: list[HeldSpace] = []
        copied = False
        try:
            for row in rows:
                held = HeldSpace(folder, row, metric, table, selections)
                opened.append(held)
                copied |= _write_waiting(held, statements.waiting_of(reader, row))
                numbers = np.array(claimed.pop(row.number), np.int64)
                held.attach(table.numbers.slots_of(numbers))
        except BaseException:
            for held in opened:
                held.close()
            raise
        sync_folder(folder)  # SQLite has made its log by now
    if copied:
        with database.write() as writer:
            statements.forget_waiting(writer)
    return opened


def _write_waiting(held: HeldSpace, copies: list[tuple[int, Vectors]]) -> bool:
    """Write rows whose file may have lost them when the machine went down; whether there are."""
    for first, rows in copies:
        numbers = np.arange(first, first + len(rows), dtype=np.int64)
        held.write(held.table.numbers.slots_of(numbers), rows, force=False)
    if copies:
        held.file.sync()
    return bool(copies)


def _forget_lost(folder: Path, database: Database, row: SpaceRow, table: Table) -> None:
    """Let vectors count no more whose file is gone or cut, where they can be made again.

    Raises:
        InternalFault: some of them came without a picture.
    """
    there = table.numbers.of_one(HeldSpace.rows_in(folder, row, table.generation))
    with database.read() as reader:
        lost, pictured = statements.lost_from(reader, row.number, there)
    if not lost:
        return
    what = f"{lost} vectors of the space {row.key!r} are missing in {folder}"
    if pictured < lost:
        raise InternalFault(
            f"{what}, and {lost - pictured} of them have no picture to be made again from: "
            "restore the collection from a snapshot, or the folder from a backup"
        )
    log.error("%s: they have to be made again from the pictures", what)
    with database.write() as writer:
        statements.forget_lost(writer, row.number, there)


def _remove_strays(folder: Path, stems: set[str]) -> None:
    """Remove files that a compaction or a dropped space left when the process was killed."""
    for path in folder.iterdir():
        own = path.name.partition(".")[0]
        if path.suffix == UNFINISHED or (path.suffix in (ROWS, INDEX) and own not in stems):
            log.info("removing %s, which no space uses any more", path)
            path.unlink(missing_ok=True)


def bytes_on_disk(path: Path) -> int:
    """Return the room a file takes; none if it is gone."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk.

    Raises:
        OSError: the disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
