"""What a transaction does to items and vectors.

Whoever writes vectors of an item holds the lock on the item's row, and takes such locks in the
order of the ids: so vectors need no locks of their own, and two writers cannot wait for each
other. The spaces are read after the locks were taken; one that was made later has no vector of
these items, and will find the new ones missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from server.errors import NotFound
from server.index.contract import Missing, NewItem, PutOutcome, Vectors
from server.index.postgres import schema
from server.index.postgres.binary import copy_rows, encoded_rows
from server.index.postgres.database import Connection


class SpaceGoneError(Exception):
    """A space that vectors are meant for was removed, perhaps for another one of its key."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Items in the order of their ids, each id once, with vectors by the number of their space."""

    items: list[NewItem]
    metadata: list[str]  # JSON
    vectors: Mapping[int, list[bytes]]  # as pgvector reads them

    @classmethod
    def of(
        cls, items: Sequence[NewItem], metadata: Sequence[bytes], vectors: Mapping[int, Vectors]
    ) -> Batch:
        """Sort, and keep the last of those with the same id."""
        last = {item.id: place for place, item in enumerate(items)}
        order = [last[id] for id in sorted(last)]
        return cls(
            [items[i] for i in order],
            [metadata[i].decode() for i in order],
            {space: encoded_rows(rows[order]) for space, rows in vectors.items()},
        )


def put(connection: Connection, collection: int, batch: Batch) -> PutOutcome:
    """Add or replace items.

    Raises:
        NotFound: the collection was removed.
        SpaceGoneError: a space was.
    """
    _stay(connection, collection)
    ids = [item.id for item in batch.items]
    added = _upsert(connection, schema.items_table(collection), batch)
    if added < len(ids):
        _delete_from(connection, schema.pictures_table(collection), ids)
    with_bytes = [
        item for item in batch.items if item.picture is not None or item.thumbnail is not None
    ]
    if with_bytes:
        _copy(
            connection,
            schema.pictures_table(collection),
            ("id", "picture", "thumbnail"),
            ((item.id.encode(), item.picture, item.thumbnail) for item in with_bytes),
        )
    spaces = space_numbers(connection, collection)
    if not batch.vectors.keys() <= set(spaces):
        raise SpaceGoneError
    for space in spaces:
        _delete_from(connection, schema.vectors_table(space), ids)
        if space in batch.vectors:
            put_vectors(connection, space, ids, batch.vectors[space])
    return PutOutcome(added, len(ids) - added)


def _upsert(connection: Connection, table: sql.Identifier, batch: Batch) -> int:
    """Write the rows of `items`; return how many are new."""
    rows = connection.execute(
        sql.SQL(
            "INSERT INTO {} AS i (id, revision, metadata, has_picture, has_thumbnail, updated)"
            " SELECT id, nextval('revisions'), metadata::jsonb, picture, thumbnail,"
            " clock_timestamp()"
            " FROM unnest(%s::text[], %s::text[], %s::bool[], %s::bool[])"
            " AS given (id, metadata, picture, thumbnail)"
            ' ORDER BY id COLLATE "C"'
            " ON CONFLICT (id) DO UPDATE SET revision = excluded.revision,"
            " metadata = excluded.metadata, has_picture = excluded.has_picture,"
            " has_thumbnail = excluded.has_thumbnail, updated = excluded.updated"
            " RETURNING i.xmax = 0"
        ).format(table),
        (
            [item.id for item in batch.items],
            batch.metadata,
            [item.picture is not None for item in batch.items],
            [item.thumbnail is not None for item in batch.items],
        ),
    ).fetchall()
    return sum(is_new for (is_new,) in rows)


def delete(connection: Connection, collection: int, ids: Sequence[str]) -> int:
    """Remove items with all that belongs to them; return how many there were."""
    items = schema.items_table(collection)
    found = connection.execute(
        sql.SQL("SELECT id FROM {} WHERE id = ANY(%s) ORDER BY id FOR UPDATE").format(items),
        (list(ids),),
    ).fetchall()
    there = [id for (id,) in found]
    if there:
        tables = [schema.vectors_table(each) for each in space_numbers(connection, collection)]
        for table in (items, schema.pictures_table(collection), *tables):
            _delete_from(connection, table, there)
    return len(there)


def fill(
    connection: Connection,
    collection: int,
    space: int,
    made_of: Sequence[Missing],
    vectors: Sequence[bytes],
) -> int:
    """Store vectors of the items that are still what they were made of; return how many.

    Raises:
        NotFound: the space was removed.
    """
    there = connection.execute("SELECT FROM spaces WHERE number = %s FOR KEY SHARE", (space,))
    if not there.fetchall():
        raise NotFound("the space was removed meanwhile")
    unchanged = connection.execute(
        sql.SQL(
            "SELECT i.id FROM {} i JOIN unnest(%s::text[], %s::bigint[]) AS given (id, revision)"
            " ON given.id = i.id WHERE i.revision = given.revision"
            " AND NOT EXISTS (SELECT FROM {} v WHERE v.id = i.id) ORDER BY i.id FOR SHARE OF i"
        ).format(schema.items_table(collection), schema.vectors_table(space)),
        ([each.id for each in made_of], [each.revision for each in made_of]),
    ).fetchall()
    rows = {each.id: vector for each, vector in zip(made_of, vectors, strict=True)}
    ids = sorted({id for (id,) in unchanged})
    put_vectors(connection, space, ids, [rows[id] for id in ids])
    return len(ids)


def _stay(connection: Connection, collection: int) -> None:
    """Keep the collection from being removed until this transaction ends."""
    there = connection.execute(
        "SELECT FROM collections WHERE number = %s FOR KEY SHARE", (collection,)
    )
    if not there.fetchall():
        raise NotFound("the collection was removed meanwhile")


def space_numbers(connection: Connection, collection: int) -> list[int]:
    """Return the numbers of a collection's spaces."""
    rows = connection.execute(
        "SELECT number FROM spaces WHERE collection = %s ORDER BY number", (collection,)
    )
    return [number for (number,) in rows.fetchall()]


def put_vectors(
    connection: Connection, space: int, ids: Iterable[str], vectors: Iterable[bytes]
) -> None:
    """Write vectors of items that have none in this space."""
    rows = ((id.encode(), vector) for id, vector in zip(ids, vectors, strict=True))
    _copy(connection, schema.vectors_table(space), ("id", "embedding"), rows)


def _delete_from(connection: Connection, table: sql.Identifier, ids: Sequence[str]) -> None:
    connection.execute(sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(table), (list(ids),))


def _copy(
    connection: Connection,
    table: sql.Identifier,
    columns: Sequence[str],
    rows: Iterable[Sequence[bytes | None]],
) -> None:
    """Write rows whose fields are in PostgreSQL's binary format."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in copy_rows(rows):
            copy.write(piece)
