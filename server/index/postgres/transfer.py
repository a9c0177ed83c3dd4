"""Collections out of the database as archives, and back; both as of one moment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
from psycopg import errors as pg
from psycopg import sql

from server.errors import Conflict
from server.index.archive import ArchivedItem, Contents, open_archive, restore_into, write_archive
from server.index.contract import CollectionSpec, NewItem
from server.index.postgres import schema
from server.index.postgres.binary import decoded_rows
from server.index.postgres.building import Builder
from server.index.postgres.collection import PostgresCollection
from server.index.postgres.database import Connection, Database, Within

ITEMS_AT_ONCE = 64  # with their pictures


@contextmanager
def snapshot(database: Database, spec: CollectionSpec, number: int) -> Iterator[Iterator[bytes]]:
    """Give the archive of a collection as it is on entering, whatever is written meanwhile.

    Raises:
        StoreUnavailable: the database does not answer, also while the archive is being read.
    """
    with database.apart(statement_timeout=False) as connection:
        yield write_archive(_contents(connection, spec, number))


def _contents(connection: Connection, spec: CollectionSpec, number: int) -> Contents:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    spaces = connection.execute(
        "SELECT number, key, dim FROM spaces WHERE collection = %s ORDER BY number", (number,)
    ).fetchall()
    tables = [schema.vectors_table(space) for space, _, _ in spaces]
    items, pictures = schema.items_table(number), schema.pictures_table(number)
    # None of them can be dropped until the archive is written.
    everything = sql.SQL(", ").join([items, pictures, *tables])
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(everything))
    facts = connection.execute("SELECT name, value FROM facts WHERE collection = %s", (number,))
    dims = {key: dim for _, key, dim in spaces}
    return Contents(
        spec, dict(facts.fetchall()), dims, _items(connection, items, pictures, tables, dims)
    )


def _items(
    connection: Connection,
    items: sql.Identifier,
    pictures: sql.Identifier,
    tables: list[sql.Identifier],
    dims: dict[str, int],
) -> Iterator[ArchivedItem]:
    names = [sql.Identifier(f"v{i}") for i in range(len(tables))]
    columns = [sql.SQL(", {}.embedding").format(name) for name in names]
    joins = [
        sql.SQL(" LEFT JOIN {} {} ON {}.id = i.id").format(table, name, name)
        for table, name in zip(tables, names, strict=True)
    ]
    query = sql.SQL(
        "SELECT i.id, i.metadata::text, p.picture, p.thumbnail{} FROM {} i"
        " LEFT JOIN {} p ON p.id = i.id{} ORDER BY i.id"
    ).format(sql.SQL("").join(columns), items, pictures, sql.SQL("").join(joins))
    with connection.cursor("items", binary=True) as cursor:
        cursor.itersize = ITEMS_AT_ONCE
        for id, metadata, picture, thumbnail, *raw in cursor.execute(query):
            rows = {
                key: decoded_rows([value], dim)[0]
                for (key, dim), value in zip(dims.items(), raw, strict=True)
                if value is not None
            }
            yield ArchivedItem(NewItem(id, orjson.loads(metadata), picture, thumbnail), rows)


def restore(
    database: Database, builder: Builder, name: str, archive: Path, vector_oid: int
) -> None:
    """Make a collection from an archive in one transaction.

    It goes by a name that nobody can ask for until all of it is there: so whoever makes another
    one of its name meanwhile does not have to wait.

    Raises:
        Conflict: there is one of that name.
        InvalidInput: it is not an archive, or a damaged one.
        StoreUnavailable: the database does not answer.
    """
    taken = f"there is a collection {name!r} already; delete it first"
    if database.rows(sql.SQL("SELECT FROM collections WHERE name = %s"), (name,)):
        raise Conflict(taken)
    with open_archive(archive) as contents, database.apart() as connection:
        try:
            with connection.transaction():
                _restore(connection, database, builder, name, contents, vector_oid)
        except pg.UniqueViolation as error:
            raise Conflict(taken) from error


def _restore(
    connection: Connection,
    database: Database,
    builder: Builder,
    name: str,
    contents: Contents,
    vector_oid: int,
) -> None:
    hidden = replace(contents.spec, name=f"restoring {uuid.uuid4()}")
    number = schema.insert_collection(connection, hidden)
    within = Within(connection, database.options)
    restore_into(PostgresCollection(within, builder, hidden, number, vector_oid), contents)
    connection.execute("UPDATE collections SET name = %s WHERE number = %s", (name, number))
