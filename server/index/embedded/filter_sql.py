"""Filters as conditions of SQLite on the column `metadata`, a JSON text.

Every condition is true or false, never NULL: what is missing must stay findable by a negation.
Values are bound, never written into the text. Numbers are bound as JSON and read by the same code
of SQLite as the stored ones, so that equal numbers are equal whatever its rounding.

A name that JSON has to escape cannot be said in a path of every SQLite: some compare it with what
stands in the text, some with what that means. Such paths are walked object by object instead,
where the names are the ones that are meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from server.index.filters import All, Compare, Exists, Filter, Not, OneOf, Scalar, Some

ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# What is asked of the value at a path; its type stands first, and itself at most once.
IS_THERE = "{type} IS NOT NULL"
IS_TYPE = "{type} IS ?"
IS_NUMBER = "coalesce({type}, '') IN ('integer', 'real')"
IS_TEXT = "{type} IS 'text'"
AMONG = "{value} IN (SELECT value FROM json_each(?))"

Path = tuple[str, ...]


class Condition(NamedTuple):
    """A condition for WHERE, and what its question marks stand for."""

    sql: str
    values: tuple[str, ...]


def condition(filter: Filter) -> Condition:
    """Translate a filter."""
    match filter:
        case Compare(path, "eq", value):
            return _equal(path, value)
        case Compare(path, comparison, value):
            return _ordered(path, ORDER[comparison], value)
        case OneOf(path, values):
            return _one_of(path, values)
        case Exists(path):
            return _asked(path, IS_THERE)
        case Not(part):
            inner = condition(part)
            return Condition(f"NOT ({inner.sql})", inner.values)
        case All(parts):
            return _joined("AND", [condition(part) for part in parts], empty="1")
        case Some(parts):
            return _joined("OR", [condition(part) for part in parts], empty="0")


def _asked(path: Path, question: str, *values: str) -> Condition:
    """Ask something of the value at a path."""
    if any(map(_is_escaped, path)):
        return _walked(path, question, values)
    sql = question.format(type="json_type(metadata, ?)", value="json_extract(metadata, ?)")
    mentioned = 1 + ("{value}" in question)
    return Condition(sql, (_json_path(path),) * mentioned + values)


def _walked(path: Path, question: str, values: Iterable[str]) -> Condition:
    """Ask it of the value that is reached by looking through each object's names."""
    tables = ["json_each(metadata) AS v0"]
    for i in range(1, len(path)):
        # Without the CASE, a text or a number would be read as if it were JSON.
        inside = f"CASE v{i - 1}.type WHEN 'object' THEN v{i - 1}.value END"
        tables.append(f"json_each({inside}) AS v{i}")
    last = f"v{len(path) - 1}"
    named = " AND ".join(f"v{i}.key = ?" for i in range(len(path)))
    asked = question.format(type=f"{last}.type", value=f"{last}.value")
    return Condition(
        f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {named} AND {asked})", (*path, *values)
    )


def _is_escaped(step: str) -> bool:
    return any(character in '"\\' or ord(character) < 0x20 for character in step)


def _json_path(path: Path) -> str:
    return "$" + "".join(f'."{step}"' for step in path)


def _type_name(value: bool | None) -> str:
    return "null" if value is None else "true" if value else "false"


def _equal(path: Path, value: Scalar) -> Condition:
    if value is None or isinstance(value, bool):
        return _asked(path, IS_TYPE, _type_name(value))
    return _ordered(path, "=", value)


def _ordered(path: Path, operator: str, value: Scalar) -> Condition:
    if isinstance(value, str):
        return _asked(path, f"{IS_TEXT} AND {{value}} {operator} ?", value)
    return _asked(
        path,
        f"{IS_NUMBER} AND {{value}} {operator} json_extract(?, '$')",
        orjson.dumps(value).decode(),
    )


def _one_of(path: Path, values: tuple[Scalar, ...]) -> Condition:
    """Ask once for all strings, once for all numbers, and once for each of null, true, false."""
    texts = [value for value in values if isinstance(value, str)]
    types = {_type_name(value) for value in values if value is None or isinstance(value, bool)}
    numbers = [
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    parts = [_asked(path, IS_TYPE, name) for name in sorted(types)]
    for kind, some in ((IS_TEXT, texts), (IS_NUMBER, numbers)):
        if some:
            parts.append(_asked(path, f"{kind} AND {AMONG}", orjson.dumps(some).decode()))
    return _joined("OR", parts, empty="0")


def _joined(word: str, parts: list[Condition], empty: str) -> Condition:
    if not parts:
        return Condition(empty, ())
    return Condition(
        f" {word} ".join(f"({part.sql})" for part in parts),
        tuple(value for part in parts for value in part.values),
    )
