"""One collection: its items, its facts, and its spaces."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import orjson
from psycopg import sql

from server.errors import InvalidInput, NotFound, StoreUnavailable
from server.index.checks import (
    check_dim,
    check_items,
    check_space_key,
    check_vectors,
    is_clean,
    metadata_json,
    shown,
)
from server.index.contract import (
    CollectionSpec,
    Metadata,
    NewItem,
    PutOutcome,
    Size,
    StoredItem,
    Vectors,
)
from server.index.filters import Filter
from server.index.postgres import schema, writing
from server.index.postgres.building import Builder
from server.index.postgres.database import Connection, Runner
from server.index.postgres.filter_sql import TRUE, Parameters, condition
from server.index.postgres.place import LARGEST_DIM, Place
from server.index.postgres.space import PostgresSpace

TRIES = 3  # of a put whose space is exchanged under it
FRESH_S = 1.0  # for so long a space that was there is taken to be there

COLUMNS = sql.SQL(
    "i.id, i.metadata::text, i.revision, i.has_picture, i.has_thumbnail,"
    " extract(epoch FROM i.updated)::float8"
)


class PostgresCollection:
    """See `server.index.contract.Collection`."""

    def __init__(
        self,
        runner: Runner,
        builder: Builder,
        spec: CollectionSpec,
        number: int,
        vector_oid: int,
    ) -> None:
        self.number = number
        self._runner, self._builder, self._spec = runner, builder, spec
        self._vector_oid = vector_oid
        self._items, self._pictures = schema.items_table(number), schema.pictures_table(number)
        self._lock = threading.Lock()
        self._spaces: dict[str, tuple[float, PostgresSpace]] = {}  # with when it was looked up

    @property
    def spec(self) -> CollectionSpec:
        """Return what it was made with."""
        return self._spec

    def put(
        self, items: Sequence[NewItem], vectors: Mapping[str, Vectors] | None = None
    ) -> PutOutcome:
        """Add or replace items, all or none; see the contract."""
        texts = check_items(items)
        if not items:
            return PutOutcome(0, 0)
        for _ in range(TRIES):
            try:
                return self._put(items, texts, vectors or {})
            except writing.SpaceGoneError:  # another server removed it just now
                with self._lock:
                    self._spaces.clear()
        raise StoreUnavailable("spaces of the collection are removed again and again; try later")

    def _put(
        self, items: Sequence[NewItem], texts: Sequence[bytes], vectors: Mapping[str, Vectors]
    ) -> PutOutcome:
        given = {self._space_for(key, rows): rows for key, rows in vectors.items()}
        checked = {
            space.number: check_vectors(rows, len(items), space.dim, self._spec.metric)
            for space, rows in given.items()
        }
        batch = writing.Batch.of(items, texts, checked)
        outcome = self._runner.transaction(lambda c: writing.put(c, self.number, batch))
        for space in given:
            space.wrote(len(items))
        return outcome

    def _space_for(self, key: str, rows: Vectors) -> PostgresSpace:
        """Return the space that rows are meant for, made for them if it is new."""
        known = self._existing(key)
        if known is not None:
            return known
        check_vectors(rows, len(rows), np.shape(rows)[-1], self._spec.metric)
        return self.space(key, np.shape(rows)[-1])

    def update_metadata(self, id: str, metadata: Metadata) -> bool:
        """Replace an item's metadata; its vectors stay. False if it is not there."""
        text = metadata_json(metadata).decode()
        if not storable([id]):
            return False
        rows = self._runner.rows(
            sql.SQL(
                "UPDATE {} SET metadata = %s::jsonb,"
                " updated = clock_timestamp() WHERE id = %s RETURNING 1"
            ).format(self._items),
            (text, id),
        )
        return bool(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items and their vectors; returns how many there were."""
        wanted = sorted(set(storable(ids)))
        return self._runner.transaction(lambda c: writing.delete(c, self.number, wanted))

    def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """Return items by id, in the order asked for."""
        rows = self._runner.rows(
            sql.SQL("SELECT {} FROM {} i WHERE i.id = ANY(%s)").format(COLUMNS, self._items),
            (storable(ids),),
        )
        found = {row[0]: _stored(row) for row in rows}
        return [found.get(id) for id in ids]

    def page(
        self, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[StoredItem]:
        """Return items in the order of their ids, beginning after `after`."""
        parameters = Parameters()
        where = TRUE if filter is None else condition(filter, parameters)
        rows = self._runner.rows(
            sql.SQL("SELECT {} FROM {} i WHERE i.id > {} AND {} ORDER BY i.id LIMIT {}").format(
                COLUMNS,
                self._items,
                parameters.add(check_text(after or "", "after")),
                where,
                parameters.add(max(limit, 0)),
            ),
            parameters,
        )
        return [_stored(row) for row in rows]

    def pictures(self, ids: Sequence[str], most_bytes: int | None = None) -> list[bytes | None]:
        """Return the stored pictures; longer ones than `most_bytes` are left out, unread."""
        return self._bytes_of("picture", ids, most_bytes)

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored thumbnails."""
        return self._bytes_of("thumbnail", ids)

    def _bytes_of(
        self, column: str, ids: Sequence[str], most_bytes: int | None = None
    ) -> list[bytes | None]:
        query = sql.SQL(
            "SELECT id, {0} FROM {1} WHERE id = ANY(%s)"
            " AND (%s::bigint IS NULL OR octet_length({0}) <= %s)"
        ).format(sql.Identifier(column), self._pictures)
        wanted = (storable(ids), most_bytes, most_bytes)
        found: dict[str, bytes] = dict(
            self._runner.run(lambda c: c.execute(query, wanted, binary=True).fetchall())
        )
        return [found.get(id) for id in ids]

    def size(self) -> Size:
        """Count."""
        rows = self._runner.rows(
            sql.SQL(
                "SELECT count(*), count(*) FILTER (WHERE has_picture),"
                " pg_total_relation_size(%s::regclass) + pg_total_relation_size(%s::regclass)"
                " + coalesce((SELECT sum(pg_total_relation_size(('vectors_' || number)::regclass))"
                " FROM spaces WHERE collection = %s), 0)::bigint FROM {}"
            ).format(self._items),
            (f"items_{self.number}", f"pictures_{self.number}", self.number),
        )
        return Size(*rows[0])

    def space(self, key: str, dim: int) -> PostgresSpace:
        """Return the space of that key, an empty one if it is new; see the contract."""
        check_space_key(key)
        if check_dim(dim) > LARGEST_DIM:
            raise InvalidInput(
                f"dim: pgvector keeps vectors of up to {LARGEST_DIM} elements, got {dim}",
                field="dim",
            )
        found = self._existing(key)
        if found is None:
            self._runner.transaction(lambda c: self._make_space(c, key, dim))
            found = self._existing(key)
        if found is None:
            raise NotFound(f"the space {key!r} was removed while it was being made")
        if found.dim != dim:
            raise InvalidInput(
                f"the space {key!r} holds vectors of length {found.dim}, not of {dim}",
                field="dim",
                expected=found.dim,
                got=dim,
            )
        return found

    def _make_space(self, connection: Connection, key: str, dim: int) -> None:
        row = connection.execute(
            "INSERT INTO spaces (collection, key, dim) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING RETURNING number",
            (self.number, key, dim),
        ).fetchone()
        if row is not None:
            schema.make_vectors_table(connection, row[0], dim)

    def _existing(self, key: str) -> PostgresSpace | None:
        """Return the space of that key, as the database knew it a moment ago at most."""
        now = time.monotonic()
        with self._lock:
            checked, known = self._spaces.get(key, (0.0, None))
        if known is not None and now - checked < FRESH_S:
            return known
        rows = self._runner.rows(
            sql.SQL("SELECT number, dim FROM spaces WHERE collection = %s AND key = %s"),
            (self.number, check_space_key(key)),
        )
        with self._lock:
            _, known = self._spaces.get(key, (0.0, None))
            if not rows:
                self._spaces.pop(key, None)
                return None
            if known is None or known.number != rows[0][0]:
                known = self._make_object(key, *rows[0])
            self._spaces[key] = (now, known)
            return known

    def _make_object(self, key: str, number: int, dim: int) -> PostgresSpace:
        place = Place(self.number, number, key, dim, self._spec.metric)
        return PostgresSpace(self._runner, self._builder, place, self._vector_oid)

    def spaces(self) -> list[str]:
        """Return the keys of all spaces, oldest first."""
        rows = self._runner.rows(
            sql.SQL("SELECT key FROM spaces WHERE collection = %s ORDER BY number"),
            (self.number,),
        )
        return [key for (key,) in rows]

    def stop_building(self, key: str) -> None:
        """Give up an index that is being built, so that its table can go."""
        space = self._existing(key)
        if space is not None:
            self._builder.cancel(space.number)

    def drop_space(self, key: str) -> None:
        """Forget a space and its vectors; one that is not there is no error."""
        self.stop_building(key)
        self._runner.transaction(lambda c: self._drop_space(c, key))
        with self._lock:
            self._spaces.pop(key, None)
        self._runner.run(schema.sweep)

    def _drop_space(self, connection: Connection, key: str) -> None:
        row = connection.execute(
            "DELETE FROM spaces WHERE collection = %s AND key = %s RETURNING number",
            (self.number, key),
        ).fetchone()
        if row is not None:
            schema.bury(connection, [f"vectors_{row[0]}"])

    def fact(self, name: str) -> str | None:
        """Read a small text kept with the collection."""
        rows = self._runner.rows(
            sql.SQL("SELECT value FROM facts WHERE collection = %s AND name = %s"),
            (self.number, check_text(name, "fact")),
        )
        return rows[0][0] if rows else None

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a small text with the collection."""
        if value is None:
            self._runner.execute(
                sql.SQL("DELETE FROM facts WHERE collection = %s AND name = %s"),
                (self.number, name),
            )
            return
        self._runner.execute(
            sql.SQL(
                "INSERT INTO facts (collection, name, value) VALUES (%s, %s, %s)"
                " ON CONFLICT (collection, name) DO UPDATE SET value = excluded.value"
            ),
            (self.number, check_text(name, "fact"), check_text(value, "fact")),
        )

    def busy(self, name: str, wait_s: float) -> AbstractContextManager[bool]:
        """Enter as the only one of all processes; False when another is inside for `wait_s`."""
        return self._builder.locks.held(f"{self.number}/{name}", wait_s)


def storable(ids: Sequence[str]) -> list[str]:
    """Return those ids that could be in the database at all."""
    return [id for id in ids if isinstance(id, str) and is_clean(id)]


def check_text(text: str, what: str) -> str:
    """Return a text that PostgreSQL can compare with.

    Raises:
        InvalidInput: it has a NUL, or half a surrogate pair.
    """
    if not is_clean(text):
        raise InvalidInput(f"{what}: {shown(text)} is not valid text", field=what)
    return text


def _stored(row: Sequence[Any]) -> StoredItem:
    id, metadata, revision, has_picture, has_thumbnail, updated = row
    return StoredItem(id, orjson.loads(metadata), revision, has_picture, has_thumbnail, updated)
