"""Filters as conditions of SQLite on the column `metadata`, a JSON text.

Every condition is true or false, never NULL: what is missing must stay findable by a negation.
Values are bound, never written into the text. Numbers are bound as JSON and read by the same code
of SQLite as the stored ones, so that equal numbers are equal whatever its rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from server.index.filters import All, Compare, Exists, Filter, Not, OneOf, Scalar, Some

ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
IS_NUMBER = "coalesce(json_type(metadata, ?), '') IN ('integer', 'real')"
IS_TEXT = "json_type(metadata, ?) IS 'text'"
IS_TYPE = "json_type(metadata, ?) IS ?"


class Condition(NamedTuple):
    """A condition for WHERE, and what its question marks stand for."""

    sql: str
    values: tuple[str, ...]


def condition(filter: Filter) -> Condition:
    """Translate a filter."""
    match filter:
        case Compare(path, "eq", value):
            return _equal(_json_path(path), value)
        case Compare(path, comparison, value):
            return _ordered(_json_path(path), ORDER[comparison], value)
        case OneOf(path, values):
            return _one_of(_json_path(path), values)
        case Exists(path):
            return Condition("json_type(metadata, ?) IS NOT NULL", (_json_path(path),))
        case Not(part):
            inner = condition(part)
            return Condition(f"NOT ({inner.sql})", inner.values)
        case All(parts):
            return _joined("AND", [condition(part) for part in parts], empty="1")
        case Some(parts):
            return _joined("OR", [condition(part) for part in parts], empty="0")


def _json_path(path: tuple[str, ...]) -> str:
    return "$" + "".join(f'."{step}"' for step in path)


def _type_name(value: bool | None) -> str:
    return "null" if value is None else "true" if value else "false"


def _equal(path: str, value: Scalar) -> Condition:
    if value is None or isinstance(value, bool):
        return Condition(IS_TYPE, (path, _type_name(value)))
    return _ordered(path, "=", value)


def _ordered(path: str, operator: str, value: Scalar) -> Condition:
    if isinstance(value, str):
        return Condition(
            f"{IS_TEXT} AND json_extract(metadata, ?) {operator} ?", (path, path, value)
        )
    return Condition(
        f"{IS_NUMBER} AND json_extract(metadata, ?) {operator} json_extract(?, '$')",
        (path, path, orjson.dumps(value).decode()),
    )


def _one_of(path: str, values: tuple[Scalar, ...]) -> Condition:
    """Ask once for all strings, once for all numbers, and once for each of null, true, false."""
    texts = [value for value in values if isinstance(value, str)]
    types = {_type_name(value) for value in values if value is None or isinstance(value, bool)}
    numbers = [
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    parts = [Condition(IS_TYPE, (path, name)) for name in sorted(types)]
    among = "json_extract(metadata, ?) IN (SELECT value FROM json_each(?))"
    for kind, some in ((IS_TEXT, texts), (IS_NUMBER, numbers)):
        if some:
            parts.append(
                Condition(f"{kind} AND {among}", (path, path, orjson.dumps(some).decode()))
            )
    return _joined("OR", parts, empty="0")


def _joined(word: str, parts: list[Condition], empty: str) -> Condition:
    if not parts:
        return Condition(empty, ())
    return Condition(
        f" {word} ".join(f"({part.sql})" for part in parts),
        tuple(value for part in parts for value in part.values),
    )
