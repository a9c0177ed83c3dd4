"""What filters mean, in plain Python: the slow twin of what the stores make of them."""

from __future__ import annotations

from typing import Any

from server.index.filters import All, Compare, Exists, Filter, Not, OneOf, Some

NOTHING = object()


def matches(filter: Filter, metadata: dict[str, Any]) -> bool:
    match filter:
        case Compare(path, "eq", value):
            return equal(reach(metadata, path), value)
        case Compare(path, comparison, value):
            return ordered(reach(metadata, path), comparison, value)
        case OneOf(path, values):
            return any(equal(reach(metadata, path), value) for value in values)
        case Exists(path):
            return reach(metadata, path) is not NOTHING
        case All(parts):
            return all(matches(part, metadata) for part in parts)
        case Some(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)


def reach(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(value, dict) or step not in value:
            return NOTHING
        value = value[step]
    return value


def kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def equal(found: Any, value: Any) -> bool:
    return kind(found) == kind(value) != "other" and bool(found == value)


def ordered(found: Any, comparison: str, value: Any) -> bool:
    if kind(found) != kind(value) or kind(value) not in ("number", "text"):
        return False
    results = {
        "gt": found > value,
        "gte": found >= value,
        "lt": found < value,
        "lte": found <= value,
    }
    return bool(results[comparison])
