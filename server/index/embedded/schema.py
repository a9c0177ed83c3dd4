"""The tables of a collection."""

from __future__ import annotations

APPLICATION_ID = 0x4D4C5243  # "MLRC", what `file` shows of it
VERSION = 2

SECOND = (
    # What the slots that the last compaction kept are called in the other tables; see `numbers`.
    """CREATE TABLE kept (
        generation INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,
        numbers BLOB NOT NULL
    )""",
    # Rows that count and are not forced to the disk in their file; see `waiting`.
    """CREATE TABLE waiting (
        key INTEGER PRIMARY KEY,
        space INTEGER NOT NULL,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
)

# Pictures stand apart from the items: whoever filters or lists reads past none of them. An item
# keeps its key for life; its slot is another one each time it is put in again.
SCHEMA = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('generation', 0), ('next_slot', 0), ('revision', 0)",
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE items (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        slot INTEGER NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        updated_s REAL NOT NULL,
        has_picture INTEGER NOT NULL,
        has_thumbnail INTEGER NOT NULL,
        metadata TEXT NOT NULL
    )""",
    "CREATE INDEX pictured ON items (has_picture) WHERE has_picture",
    "CREATE TABLE pictures (key INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE thumbnails (key INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    # AUTOINCREMENT: the files of a dropped space must never pass for those of another.
    """CREATE TABLE spaces (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        dim INTEGER NOT NULL
    )""",
    "CREATE TABLE vectors (slot INTEGER, space INTEGER, PRIMARY KEY (slot, space)) WITHOUT ROWID",
    *SECOND,
)

# What is to be done with a file of an earlier format.
UPGRADES: dict[int, tuple[str, ...]] = {1: SECOND}
