"""Filters on metadata as SQL over a jsonb column, every value of theirs a parameter."""

from __future__ import annotations

from typing import Any, assert_never

import orjson
from psycopg import sql

from server.index.filters import All, Compare, Comparison, Exists, Filter, Not, OneOf, Scalar, Some

OPERATORS: dict[Comparison, sql.SQL] = {
    "gt": sql.SQL(">"),
    "gte": sql.SQL(">="),
    "lt": sql.SQL("<"),
    "lte": sql.SQL("<="),
}
ALTERNATIVES_BY_INDEX = 16  # up to so many values the index is asked for each
METADATA = sql.SQL("i.metadata")
TRUE, FALSE = sql.SQL("true"), sql.SQL("false")


class Parameters(dict[str, Any]):
    """The values of a statement, by the names that their placeholders have."""

    def add(self, value: Any) -> sql.Placeholder:
        """Take a value, and return what stands for it."""
        name = f"p{len(self)}"
        self[name] = value
        return sql.Placeholder(name)

    def add_json(self, value: Any) -> sql.Composed:
        """Take a value of JSON, and return it as a jsonb."""
        return sql.SQL("{}::jsonb").format(self.add(orjson.dumps(value).decode()))


def condition(filter: Filter, parameters: Parameters) -> sql.Composable:
    """Return the condition on `i.metadata` that stands for a filter.

    No part of it is ever NULL, so NOT is the complement.
    """
    match filter:
        case All(parts):
            return _joined(parts, sql.SQL(" AND "), TRUE, parameters)
        case Some(parts):
            return _joined(parts, sql.SQL(" OR "), FALSE, parameters)
        case Not(part):
            return sql.SQL("NOT ({})").format(condition(part, parameters))
        case Exists(path):
            return sql.SQL("({}) IS NOT NULL").format(_value_at(path, parameters))
        case OneOf(path, values):
            return _one_of(path, values, parameters)
        case Compare(path, "eq", value):
            return _contains(path, value, parameters)
        case Compare(path, comparison, value):
            return _ordered(path, OPERATORS[comparison], value, parameters)
        case _:
            assert_never(filter)


def _joined(
    parts: tuple[Filter, ...], word: sql.SQL, empty: sql.SQL, parameters: Parameters
) -> sql.Composable:
    if not parts:
        return empty
    return word.join(sql.SQL("({})").format(condition(part, parameters)) for part in parts)


def _value_at(path: tuple[str, ...], parameters: Parameters) -> sql.Composable:
    """Step through objects; `->` with a text on an array or a scalar is NULL."""
    value: sql.Composable = METADATA
    for step in path:
        value = sql.SQL("{} -> {}::text").format(value, parameters.add(step))
    return value


def _contains(path: tuple[str, ...], value: Scalar, parameters: Parameters) -> sql.Composable:
    """Use containment, which the index on metadata answers; of a scalar it is equality."""
    wanted: Any = value
    for step in reversed(path):
        wanted = {step: wanted}
    return sql.SQL("{} @> {}").format(METADATA, parameters.add_json(wanted))


def _one_of(
    path: tuple[str, ...], values: tuple[Scalar, ...], parameters: Parameters
) -> sql.Composable:
    if len(values) <= ALTERNATIVES_BY_INDEX:
        each = tuple(Compare(path, "eq", value) for value in values)
        return _joined(each, sql.SQL(" OR "), FALSE, parameters)
    texts = [orjson.dumps(value).decode() for value in values]
    return sql.SQL("coalesce(({}) = ANY({}::text[]::jsonb[]), false)").format(
        _value_at(path, parameters), parameters.add(texts)
    )


def _ordered(
    path: tuple[str, ...], operator: sql.SQL, bound: Scalar, parameters: Parameters
) -> sql.Composable:
    value = _value_at(path, parameters)
    if isinstance(bound, str):  # by code points, whatever the database's collation is
        kind = sql.SQL("'string'")
        compared = sql.SQL("(({}) #>> '{{}}') COLLATE \"C\" {} {}::text").format(
            value, operator, parameters.add(bound)
        )
    else:
        kind = sql.SQL("'number'")
        compared = sql.SQL("({}) {} {}").format(value, operator, parameters.add_json(bound))
    return sql.SQL("coalesce(CASE jsonb_typeof({}) WHEN {} THEN {} END, false)").format(
        value, kind, compared
    )
