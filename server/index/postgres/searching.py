"""The statements that find the nearest vectors.

An exact search adds 0 to the distance, so that no index can serve the order. An approximate one
with a filter asks of each vector that the index yields whether its item matches: as a subquery
for one value, which the planner cannot turn into a join that would lose the index's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from psycopg import sql

from server.index.contract import Vectors
from server.index.filters import Filter
from server.index.postgres.binary import vector, vector_array
from server.index.postgres.database import Connection
from server.index.postgres.filter_sql import Parameters, condition
from server.index.postgres.place import Place

Found = list[tuple[str, float]]  # ids and distances, nearest first

# A statement with another LIMIT is another one to be planned and kept: few limits, few statements.
LIMITS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
ONE, EACH = sql.SQL("%(query)s::vector"), sql.SQL("q.query")
FOR_EACH = sql.SQL(
    "{} SELECT q.row::int, n.id, n.distance"
    " FROM unnest(%(query)s::vector[]) WITH ORDINALITY AS q (query, row)"
    " CROSS JOIN LATERAL ({}) n"
)
ALONE = sql.SQL("{} {}")
NOTHING = sql.SQL("")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of every row of queries."""

    place: Place
    wanted: int
    filter: Filter | None = None
    exclude: Sequence[str] = ()
    ef_search: int | None = None  # None: exact


def search(
    connection: Connection, request: Request, queries: Vectors, vector_oid: int
) -> list[Found]:
    """Return what is nearest to each row of `queries` (m, dim)."""
    if request.ef_search is not None:
        connection.use_ef_search(request.ef_search)
    single = len(queries) == 1
    parameters = Parameters()
    statement = _statement(request, parameters, single)
    # How to gather what matches depends on how much does: such a plan is not kept.
    keep = None if request.filter is None or request.ef_search is not None else False

    def asked() -> list[Any]:
        return connection.execute(statement, parameters, prepare=keep, binary=True).fetchall()

    if single:
        parameters["query"] = vector(queries[0])
        return [_in_order(asked(), request.wanted)]
    parameters["query"] = vector_array(queries, vector_oid)
    found: list[Found] = [[] for _ in queries]
    for row, id, distance in asked():
        found[row - 1].append((id, distance))
    return [_in_order(each, request.wanted) for each in found]


def _in_order(rows: Sequence[tuple[str, float]], wanted: int) -> Found:
    """Sort, as the index yields nearly in order only."""
    return sorted(rows, key=lambda row: row[1])[:wanted]


def limit_for(wanted: int) -> int:
    """Return how many rows to ask for to have `wanted`."""
    return next((each for each in LIMITS if each >= wanted), wanted)


def _statement(request: Request, parameters: Parameters, single: bool) -> bytes:
    limit = limit_for(request.wanted)
    by_index = request.ef_search is not None
    if request.filter is None and not request.exclude:
        return _plain(request.place, limit, by_index, single)
    matches = None if request.filter is None else condition(request.filter, parameters)
    spared = None
    if request.exclude:
        ids = parameters.add(list(request.exclude))
        spared = sql.SQL("v.id <> ALL({}::text[])").format(ids)
    return _compose(request.place, limit, by_index, single, matches, spared)


@lru_cache(maxsize=512)
def _plain(place: Place, limit: int, by_index: bool, single: bool) -> bytes:
    """Return the statement without conditions, which is nearly always the same."""
    return _compose(place, limit, by_index, single, None, None)


def _compose(
    place: Place,
    limit: int,
    by_index: bool,
    single: bool,
    matches: sql.Composable | None,
    spared: sql.Composable | None,
) -> bytes:
    gathered, source, holds = _source(place, by_index, single, matches)
    holds += [] if spared is None else [spared]
    distance, order = _distance(place, by_index, ONE if single else EACH)
    where = sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(holds)) if holds else NOTHING
    nearest = sql.SQL("SELECT v.id, {} AS distance FROM {}{} ORDER BY {} LIMIT {}").format(
        distance, source, where, order, sql.Literal(limit)
    )
    form = ALONE if single else FOR_EACH
    return form.format(gathered, nearest).as_bytes(None)


def _source(
    place: Place, by_index: bool, single: bool, matches: sql.Composable | None
) -> tuple[sql.Composable, sql.Composable, list[sql.Composable]]:
    """Return what is gathered before, where `v` comes from, and what must hold of it."""
    plain = sql.SQL("{} v").format(place.vectors)
    if matches is None:
        return NOTHING, plain, []
    if by_index:
        asked = sql.SQL("(SELECT {} FROM {} i WHERE i.id = v.id)").format(matches, place.items)
        return NOTHING, plain, [asked]
    joined = sql.SQL("{} i JOIN {} v ON v.id = i.id").format(place.items, place.vectors)
    if single:
        return NOTHING, joined, [matches]
    gathered = sql.SQL(  # once, however many queries there are
        "WITH matching AS MATERIALIZED (SELECT v.id, v.embedding FROM {} WHERE {})"
    ).format(joined, matches)
    return gathered, sql.SQL("matching v"), []


def _distance(
    place: Place, by_index: bool, query: sql.Composable
) -> tuple[sql.Composable, sql.Composable]:
    """Return the distance, and what the rows are to be ordered by."""
    distance = sql.SQL("v.embedding {} {}").format(place.operator, query)
    named = sql.SQL("distance")
    if not by_index:
        return sql.SQL("({}) + 0").format(distance), named
    if not place.halved:
        return distance, named
    held, asked = place.indexed(sql.SQL("v.embedding")), place.indexed(query)
    return distance, sql.SQL("{} {} {}").format(held, place.operator, asked)


def share_found(found: Sequence[Found], truth: Sequence[Found]) -> float:
    """Return which share of the true answers was found; 1 where there are none.

    One that is as near as the farthest true one counts as well.
    """
    hits, wanted = 0, 0
    for have, want in zip(found, truth, strict=True):
        if want:
            wanted += len(want)
            hits += sum(distance <= want[-1][1] for _, distance in have[: len(want)])
    return hits / wanted if wanted else 1.0
