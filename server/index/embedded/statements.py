"""What is asked of SQLite. Lists of values go in as one JSON text, however long they are.

The columns `slot` have what `numbers` calls the numbers of slots.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from server.index.contract import Missing, NewItem, StoredItem, Vectors
from server.index.embedded.filter_sql import condition
from server.index.embedded.numbers import Numbers
from server.index.filters import Filter

COLUMNS = "id, metadata, revision, has_picture, has_thumbnail, updated_s"
ROW_ELEMENT = np.dtype("<f4")
PUT_ITEM = """
    INSERT INTO items (id, slot, revision, updated_s, has_picture, has_thumbnail, metadata)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET slot = excluded.slot, revision = excluded.revision,
        updated_s = excluded.updated_s, has_picture = excluded.has_picture,
        has_thumbnail = excluded.has_thumbnail, metadata = excluded.metadata
"""


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """A line of the table `spaces`."""

    number: int
    key: str
    dim: int


def listed(values: Iterable[str | int]) -> str:
    """Return values as the JSON text that `json_each` reads."""
    return orjson.dumps(list(values)).decode()


def counter(connection: sqlite3.Connection, name: str) -> int:
    """Read a counter."""
    found = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return int(found[0])


def set_counter(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Write a counter."""
    connection.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))


def set_kept(connection: sqlite3.Connection, generation: int, numbers: Numbers) -> None:
    """Let the files of another generation count, with the slots that it has."""
    connection.execute("DELETE FROM kept")
    connection.execute(
        "INSERT INTO kept VALUES (?, ?, ?)", (generation, numbers.first, numbers.to_store())
    )
    set_counter(connection, "generation", generation)


def read_numbers(connection: sqlite3.Connection, generation: int) -> Numbers:
    """Return the numbers of the slots of the generation that counts."""
    found = connection.execute(
        "SELECT numbers, first FROM kept WHERE generation = ?", (generation,)
    ).fetchone()
    return Numbers.plain() if found is None else Numbers.stored(*found)


def next_revision(connection: sqlite3.Connection) -> int:
    """Count one change of the collection. An id that was deleted and comes again goes on above."""
    connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'revision'")
    return counter(connection, "revision")


def put_items(
    connection: sqlite3.Connection,
    items: Sequence[NewItem],
    texts: Sequence[bytes],
    first: int,
    old: Sequence[int],
    now_s: float,
) -> None:
    """Add or replace items of different ids; their slots get the numbers from `first` on.

    `old` are the numbers of those that are replaced.
    """
    revision = next_revision(connection)
    if old:
        forget_vectors(connection, old)
        forget_bytes(connection, [item.id for item in items])
    connection.executemany(
        PUT_ITEM,
        [
            (
                item.id,
                first + i,
                revision,
                now_s,
                item.picture is not None,
                item.thumbnail is not None,
                text.decode(),
            )
            for i, (item, text) in enumerate(zip(items, texts, strict=True))
        ],
    )
    for table, data in (
        ("pictures", [(item.picture, item.id) for item in items if item.picture is not None]),
        ("thumbnails", [(item.thumbnail, item.id) for item in items if item.thumbnail is not None]),
    ):
        connection.executemany(
            f"INSERT INTO {table} (key, data) SELECT key, ? FROM items WHERE id = ?", data
        )
    set_counter(connection, "next_slot", first + len(items))


def claim_vectors(connection: sqlite3.Connection, space: int, numbers: Iterable[int]) -> None:
    """Let vectors of slots count: their rows are on the disk, or copied with the claim."""
    connection.executemany(
        "INSERT INTO vectors (slot, space) VALUES (?, ?)", [(number, space) for number in numbers]
    )


def forget_vectors(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Let the vectors of slots count no more, in all spaces."""
    connection.execute(
        "DELETE FROM vectors WHERE slot IN (SELECT value FROM json_each(?))", (listed(numbers),)
    )


NOT_COPIED = (
    "space = ?1 AND slot >= ?2 AND NOT EXISTS (SELECT 1 FROM waiting AS w WHERE w.space = ?1"
    " AND slot >= w.first AND slot < w.first + w.count)"
)


def lost_from(connection: sqlite3.Connection, space: int, number: int) -> tuple[int, int]:
    """Count vectors of a space from a slot's number on that have no copy waiting.

    Returns how many, and how many of them have a picture.
    """
    found = connection.execute(
        "SELECT count(*), coalesce(sum(has_picture), 0) FROM vectors JOIN items USING (slot)"
        f" WHERE {NOT_COPIED}",
        (space, number),
    ).fetchone()
    return int(found[0]), int(found[1])


def forget_lost(connection: sqlite3.Connection, space: int, number: int) -> None:
    """Let the vectors that `lost_from` counts count no more."""
    connection.execute(f"DELETE FROM vectors WHERE {NOT_COPIED}", (space, number))


def add_waiting(connection: sqlite3.Connection, space: int, first: int, rows: Vectors) -> None:
    """Keep a copy of the rows (n, dim) of slots with the numbers from `first` on."""
    connection.execute(
        "INSERT INTO waiting (space, first, count, data) VALUES (?, ?, ?, ?)",
        (space, first, len(rows), rows.astype(ROW_ELEMENT).tobytes()),
    )


def waiting_of(connection: sqlite3.Connection, row: SpaceRow) -> list[tuple[int, Vectors]]:
    """Return the copies of a space, oldest first: the first number, and rows (n, dim)."""
    found = connection.execute(
        "SELECT first, data FROM waiting WHERE space = ? ORDER BY key", (row.number,)
    )
    return [
        (first, np.frombuffer(data, ROW_ELEMENT).astype(np.float32).reshape(-1, row.dim))
        for first, data in found
    ]


def forget_waiting(connection: sqlite3.Connection) -> None:
    """Remove all copies: their files have been forced to the disk."""
    connection.execute("DELETE FROM waiting")


def forget_bytes(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Remove pictures and thumbnails."""
    wanted = listed(ids)
    for table in ("pictures", "thumbnails"):
        connection.execute(
            f"DELETE FROM {table} WHERE key IN"
            " (SELECT key FROM items WHERE id IN (SELECT value FROM json_each(?)))",
            (wanted,),
        )


def delete_items(
    connection: sqlite3.Connection, ids: Sequence[str], numbers: Sequence[int]
) -> None:
    """Remove items with all that belongs to them; `numbers` are those of their slots."""
    next_revision(connection)
    forget_vectors(connection, numbers)
    forget_bytes(connection, ids)
    connection.execute(
        "DELETE FROM items WHERE id IN (SELECT value FROM json_each(?))", (listed(ids),)
    )


def update_metadata(connection: sqlite3.Connection, id: str, text: bytes, now_s: float) -> None:
    """Replace the metadata of an item."""
    connection.execute(
        "UPDATE items SET metadata = ?, updated_s = ? WHERE id = ?",
        (text.decode(), now_s, id),
    )


def items_by_id(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, StoredItem]:
    """Return the items there are."""
    found = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE id IN (SELECT value FROM json_each(?))", (listed(ids),)
    )
    return {row[0]: stored_item(row) for row in found}


def items_after(
    connection: sqlite3.Connection, after: str, limit: int, filter: Filter | None
) -> list[StoredItem]:
    """Return items in the order of their ids."""
    sql, values = condition(filter) if filter is not None else ("1", ())
    found = connection.execute(
        f"SELECT {COLUMNS} FROM items WHERE id > ? AND ({sql}) ORDER BY id LIMIT ?",
        (after, *values, limit),
    )
    return [stored_item(row) for row in found]


def stored_item(row: Sequence[Any]) -> StoredItem:
    """Return what a row of `COLUMNS` says."""
    id, metadata, revision, has_picture, has_thumbnail, updated_s = row
    return StoredItem(
        id, orjson.loads(metadata), revision, bool(has_picture), bool(has_thumbnail), updated_s
    )


def bytes_of(
    connection: sqlite3.Connection, table: str, ids: Sequence[str], most_bytes: int | None
) -> dict[str, bytes]:
    """Return what `pictures` or `thumbnails` holds of items, up to so many bytes of each."""
    found = connection.execute(
        f"SELECT id, data FROM items JOIN {table} USING (key)"
        " WHERE id IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR length(data) <= ?2)",
        (listed(ids), most_bytes),
    )
    return dict(found.fetchall())


def missing_of(connection: sqlite3.Connection, numbers: Iterable[int]) -> list[Missing]:
    """Return the items of slots, oldest first."""
    found = connection.execute(
        "SELECT id, revision, has_picture FROM items"
        " WHERE slot IN (SELECT value FROM json_each(?)) ORDER BY slot",
        (listed(numbers),),
    )
    return [Missing(id, revision, bool(pictured)) for id, revision, pictured in found]


def numbers_and_revisions(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return (number of the slot, revision) of the items there are."""
    found = connection.execute(
        "SELECT id, slot, revision FROM items WHERE id IN (SELECT value FROM json_each(?))",
        (listed(ids),),
    )
    return {id: (number, revision) for id, number, revision in found}


def all_spaces(connection: sqlite3.Connection) -> list[SpaceRow]:
    """Return all spaces, oldest first."""
    found = connection.execute("SELECT number, key, dim FROM spaces ORDER BY number")
    return [SpaceRow(*row) for row in found]


def add_space(connection: sqlite3.Connection, key: str, dim: int) -> SpaceRow:
    """Add a space without vectors."""
    number = connection.execute("INSERT INTO spaces (key, dim) VALUES (?, ?)", (key, dim)).lastrowid
    assert number is not None  # an INSERT has one
    return SpaceRow(number, key, dim)


def drop_space(connection: sqlite3.Connection, number: int) -> None:
    """Forget a space and which vectors it has."""
    connection.execute("DELETE FROM waiting WHERE space = ?", (number,))
    connection.execute("DELETE FROM vectors WHERE space = ?", (number,))
    connection.execute("DELETE FROM spaces WHERE number = ?", (number,))


def fact(connection: sqlite3.Connection, name: str) -> str | None:
    """Read a fact."""
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def set_fact(connection: sqlite3.Connection, name: str, value: str | None) -> None:
    """Write a fact, or remove it."""
    if value is None:
        connection.execute("DELETE FROM facts WHERE name = ?", (name,))
    else:
        connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
