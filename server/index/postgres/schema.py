"""The tables: made and brought up to date by whichever server comes first.

    schema_version                 one row per step of `STEPS` that was taken
    collections  spaces  facts     what there is
    items_N  pictures_N            a pair for collection N; pictures apart, so that scans skip them
    vectors_M                      one per space M, of type vector(dim)
    graves                         tables that are to go when nobody reads them any more

Every item that changes gets a new number of the sequence `revisions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from psycopg import errors as pg
from psycopg import sql

from server.errors import Conflict, StoreUnavailable
from server.index.contract import CollectionSpec
from server.index.postgres.database import Connection, Database

# Any constant will do, if only all versions of this program agree on it.
MIGRATION_LOCK = 0x6D696C6C72616365
OLDEST_PGVECTOR = (0, 8)  # the first whose index goes on until enough items match
SWEEP_WAITS = "200ms"
LARGEST_PLAIN_DIM = 1900  # a row of so many fits a page, and is not worth storing beside it

STEPS: tuple[str, ...] = (
    """
    CREATE SEQUENCE revisions;
    CREATE TABLE collections (
        number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        metric text NOT NULL,
        model text,
        dim integer,
        created timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE spaces (
        number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        collection integer NOT NULL REFERENCES collections ON DELETE CASCADE,
        key text COLLATE "C" NOT NULL,
        dim integer NOT NULL,
        ef_search integer,
        verdict text,
        judged_at bigint,
        recall double precision,
        UNIQUE (collection, key)
    );
    CREATE TABLE facts (
        collection integer NOT NULL REFERENCES collections ON DELETE CASCADE,
        name text COLLATE "C" NOT NULL,
        value text NOT NULL,
        PRIMARY KEY (collection, name)
    );
    CREATE TABLE graves (name text PRIMARY KEY);
    """,
)


def prepare(database: Database) -> int:
    """Bring the schema up to date; return the number of the type vector.

    Raises:
        StoreUnavailable: pgvector is missing or too old, the account may not make tables, or a
            newer version of this program has been here.
    """
    home = database.run(lambda connection: _extension(connection, database))
    database.place_extension(home)
    if _steps_taken(database) < len(STEPS):
        database.run(lambda connection: _migrate(connection, database))
    database.run(sweep)
    rows = database.rows(sql.SQL("SELECT 'vector'::regtype::oid::bigint"))
    return int(rows[0][0])


def _extension(connection: Connection, database: Database) -> str:
    """Return the schema that holds pgvector, installed if need be."""
    where = database.options.place
    found = _find_extension(connection)
    if found is None:
        try:
            with connection.transaction():
                _lock(connection)
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
        except (pg.InsufficientPrivilege, pg.FeatureNotSupported, pg.UndefinedFile) as error:
            raise StoreUnavailable(
                f"{where} has no pgvector: install it on the server and run "
                "CREATE EXTENSION vector in this database as an administrator"
            ) from error
        found = _find_extension(connection)
    if found is None:
        raise StoreUnavailable(f"{where} lost its extension vector while it was being looked at")
    home, version = found
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        raise StoreUnavailable(
            f"{where} has pgvector {version}; 0.8 or newer is needed: "
            "update it and run ALTER EXTENSION vector UPDATE"
        )
    return home


def _find_extension(connection: Connection) -> tuple[str, str] | None:
    row = connection.execute(
        "SELECT n.nspname, e.extversion FROM pg_extension e "
        "JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def _lock(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))


def _steps_taken(database: Database) -> int:
    table = f"{database.options.schema}.schema_version"
    rows = database.rows(sql.SQL("SELECT to_regclass(%s) IS NOT NULL"), (table,))
    if not rows[0][0]:
        return 0
    taken = database.rows(sql.SQL("SELECT coalesce(max(step), 0) FROM schema_version"))
    return _known(int(taken[0][0]), database)


def _known(taken: int, database: Database) -> int:
    if taken > len(STEPS):
        raise StoreUnavailable(
            f"{database.options.place}, schema {database.options.schema!r}, was brought to version "
            f"{taken} by a newer Millrace; this one knows {len(STEPS)}: upgrade it"
        )
    return taken


def _migrate(connection: Connection, database: Database) -> None:
    """Take the steps that are missing, in one transaction, as the only one."""
    with connection.transaction():
        _lock(connection)
        connection.execute(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(
                sql.Identifier(database.options.schema)
            )
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version ("
            "step integer PRIMARY KEY, taken timestamptz NOT NULL DEFAULT now())"
        )
        row = connection.execute("SELECT coalesce(max(step), 0) FROM schema_version").fetchone()
        taken = _known(int(row[0]) if row else 0, database)
        for number, step in enumerate(STEPS[taken:], taken + 1):
            connection.execute(step.encode())
            connection.execute("INSERT INTO schema_version (step) VALUES (%s)", (number,))


def items_table(collection: int) -> sql.Identifier:
    """Name the items of a collection."""
    return sql.Identifier(f"items_{collection}")


def pictures_table(collection: int) -> sql.Identifier:
    """Name the pictures and thumbnails of a collection."""
    return sql.Identifier(f"pictures_{collection}")


def vectors_table(space: int) -> sql.Identifier:
    """Name the vectors of a space."""
    return sql.Identifier(f"vectors_{space}")


def insert_collection(connection: Connection, spec: CollectionSpec) -> int:
    """Make a collection within a transaction; return its number.

    Raises:
        Conflict: there is one of that name.
    """
    row = connection.execute(
        "INSERT INTO collections (name, metric, model, dim) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (name) DO NOTHING RETURNING number",
        (spec.name, spec.metric, spec.model, spec.dim),
    ).fetchone()
    if row is None:
        raise Conflict(f"there is a collection {spec.name!r} already; delete it first")
    number = int(row[0])
    make_collection_tables(connection, number)
    return number


def make_collection_tables(connection: Connection, collection: int) -> None:
    """Make the tables of a new collection."""
    connection.execute(
        sql.SQL(
            "CREATE TABLE {items} ("
            ' id text COLLATE "C" PRIMARY KEY,'
            " revision bigint NOT NULL,"
            " metadata jsonb NOT NULL,"
            " has_picture boolean NOT NULL,"
            " has_thumbnail boolean NOT NULL,"
            " updated timestamptz NOT NULL);"
            "CREATE INDEX ON {items} (revision);"
            "CREATE INDEX ON {items} USING gin (metadata jsonb_path_ops);"
            "CREATE TABLE {pictures} ("
            ' id text COLLATE "C" PRIMARY KEY,'
            " picture bytea,"
            " thumbnail bytea);"
            # They are compressed already.
            "ALTER TABLE {pictures} ALTER picture SET STORAGE EXTERNAL,"
            " ALTER thumbnail SET STORAGE EXTERNAL"
        ).format(items=items_table(collection), pictures=pictures_table(collection))
    )


def make_vectors_table(connection: Connection, space: int, dim: int) -> None:
    """Make the table of a new space."""
    table = vectors_table(space)
    connection.execute(
        sql.SQL(
            'CREATE TABLE {} (id text COLLATE "C" PRIMARY KEY, embedding vector({}) NOT NULL)'
        ).format(table, sql.Literal(dim))
    )
    storage = "PLAIN" if dim <= LARGEST_PLAIN_DIM else "EXTERNAL"
    connection.execute(
        sql.SQL("ALTER TABLE {} ALTER embedding SET STORAGE {}").format(
            table,
            sql.SQL(storage),
        )
    )


def bury(connection: Connection, tables: Sequence[str]) -> None:
    """Have tables removed that nothing leads to any more, as soon as nobody reads them."""
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO graves (name) VALUES (%s)", [(name,) for name in tables])


def sweep(connection: Connection) -> None:
    """Remove the tables that were buried; those that somebody still reads stay for next time."""
    for (name,) in connection.execute("SELECT name FROM graves").fetchall():
        with suppress(pg.LockNotAvailable, pg.DeadlockDetected), connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (SWEEP_WAITS,))
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
            connection.execute("DELETE FROM graves WHERE name = %s", (name,))
