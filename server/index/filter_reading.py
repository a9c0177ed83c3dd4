"""From the JSON of a request to a filter, or to an error that says where it went wrong."""

from __future__ import annotations

import math
from typing import Any, NoReturn, cast

from server.errors import InvalidInput
from server.index.checks import INTEGERS, is_clean, shown
from server.index.filters import (
    All,
    Compare,
    Comparison,
    Exists,
    Filter,
    Not,
    OneOf,
    Scalar,
    Some,
)

MAX_DEPTH = 16  # objects inside each other
MAX_CONDITIONS = 256  # parts of one filter; SQLite takes fewer than 1,000
MAX_VALUES = 4096  # scalars in one filter
MAX_PATH = 16  # steps of one path
MAX_TEXT = 4096  # characters of one string or of one field's name

ESCAPE, ESCAPED = "\\", (".", "$", "\\")  # in the name of a field

ORDERS = ("gt", "gte", "lt", "lte")
OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not")
GROUPS = ("$and", "$or", "$not")


def read_filter(value: Any, where: str = "filter") -> Filter:
    """Check a filter as it stands in JSON, and return its tree.

    `where` is how the request calls it; errors begin with it and go on with the way to the fault.

    Raises:
        InvalidInput: it says something that no filter can, or too much.
    """
    return _Reader().filter(value, where, 1)


def _refuse(where: str, expected: str, got: Any) -> NoReturn:
    text = shown(got)
    raise InvalidInput(
        f"{where}: expected {expected}, got {text}", field=where, expected=expected, got=text
    )


class _Reader:
    """Reads one filter, and counts how large it grows."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def filter(self, value: Any, where: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            _refuse(where, "an object such as {'label': 'cat'}", value)
        self._enter(where, depth, len(value))
        return _all([self._part(key, part, where, depth) for key, part in value.items()])

    def _part(self, key: Any, value: Any, where: str, depth: int) -> Filter:
        if not isinstance(key, str):
            _refuse(where, "names of fields that are strings", key)
        inside = f"{where}.{key[:100]}"
        if not key.startswith("$"):
            return self._field(_path(key, inside), value, inside, depth)
        if key == "$not":
            return Not(self.filter(value, inside, depth + 1))
        if key not in GROUPS:
            _refuse(inside, f"a field's name, or one of {', '.join(GROUPS)}", key)
        if not isinstance(value, list) or not value:
            _refuse(inside, "a list of at least one filter", value)
        parts = tuple(
            self.filter(part, f"{inside}[{i}]", depth + 1) for i, part in enumerate(value)
        )
        return All(parts) if key == "$and" else Some(parts)

    def _field(self, path: tuple[str, ...], value: Any, where: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            return Compare(path, "eq", self._scalar(value, where))
        self._enter(where, depth + 1)
        if not value:
            _refuse(where, f"a value, or one of {', '.join(OPERATORS)}", value)
        return _all(
            [self._operator(path, name, operand, where, depth) for name, operand in value.items()]
        )

    def _operator(
        self, path: tuple[str, ...], name: Any, operand: Any, where: str, depth: int
    ) -> Filter:
        if name not in OPERATORS:
            expected = f"one of {', '.join(OPERATORS)} (fields in objects are written 'a.b')"
            _refuse(where, expected, name)
        self._enter(where, depth)
        inside = f"{where}.{name}"
        if name == "$exists":
            if not isinstance(operand, bool):
                _refuse(inside, "true or false", operand)
            return Exists(path) if operand else Not(Exists(path))
        if name == "$not":
            if not isinstance(operand, dict):
                _refuse(inside, "an object such as {'$gt': 3}", operand)
            return Not(self._field(path, operand, inside, depth + 1))
        if name in ("$in", "$nin"):
            found = OneOf(path, self._scalars(operand, inside))
            return found if name == "$in" else Not(found)
        scalar = self._scalar(operand, inside)
        if name == "$ne":
            return Not(Compare(path, "eq", scalar))
        comparison = cast("Comparison", name[1:])
        if comparison in ORDERS and (scalar is None or isinstance(scalar, bool)):
            _refuse(inside, "a number or a string, which have an order", operand)
        return Compare(path, comparison, scalar)

    def _scalars(self, value: Any, where: str) -> tuple[Scalar, ...]:
        if not isinstance(value, list):
            _refuse(where, "a list of strings, numbers, true, false or null", value)
        return tuple(self._scalar(each, f"{where}[{i}]") for i, each in enumerate(value))

    def _scalar(self, value: Any, where: str) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            raise InvalidInput(
                f"{where}: the filter names more than {MAX_VALUES} values; ask in several requests",
                field=where,
            )
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            if len(value) > MAX_TEXT or not is_clean(value):
                _refuse(where, f"at most {MAX_TEXT} characters of valid text, none NUL", value)
            return value
        if isinstance(value, int):
            if value not in INTEGERS:
                _refuse(where, "an integer of at most 64 bits", value)
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        return _refuse(where, "a string, a finite number, true, false or null", value)

    def _enter(self, where: str, depth: int, parts: int = 1) -> None:
        self._conditions += max(1, parts)
        if depth > MAX_DEPTH or self._conditions > MAX_CONDITIONS:
            raise InvalidInput(
                f"{where}: a filter may nest {MAX_DEPTH} deep and have {MAX_CONDITIONS} "
                "conditions; make it smaller, or use $in for many values",
                field=where,
            )


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _path(name: str, where: str) -> tuple[str, ...]:
    if len(name) > MAX_TEXT or not is_clean(name):
        _refuse(where, f"a path of at most {MAX_TEXT} characters of valid text, none NUL", name)
    steps = [""]
    characters = iter(name)
    for character in characters:
        if character == ".":
            steps.append("")
        elif character == ESCAPE:
            escaped = next(characters, "")
            if escaped not in ESCAPED:
                _refuse(where, "a backslash only before one of . $ and another backslash", name)
            steps[-1] += escaped
        else:
            steps[-1] += character
    if len(steps) > MAX_PATH or not all(steps):
        _refuse(where, f"1 to {MAX_PATH} names with dots between them", name)
    return tuple(steps)
