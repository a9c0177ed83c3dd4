"""Specifications of kernels as JSON and back, for processes that compile them.

A specification is a frozen dataclass of plain values: numbers, text, tuples, enums and further
dataclasses of the engine. Anything else has no JSON form, and its kernel is compiled in place.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from enum import Enum
from typing import Any, Final

PACKAGE: Final = "engine"
_PLAIN: Final = (bool, int, float, str, type(None))


class NotPlain(ValueError):
    """A specification holds what JSON cannot say, or a text is none of a specification."""


def write_spec(value: Any) -> str:
    """Return a specification in one line; `NotPlain` where it has no such form."""
    return json.dumps(_encoded(value), separators=(",", ":"))


def read_spec(text: str) -> Any:
    """Return the specification that a text tells of; only the engine's own classes are made."""
    try:
        return _decoded(json.loads(text))
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotPlain(f"expected the text of a specification: {error}") from error


def _encoded(value: Any) -> Any:
    if isinstance(value, Enum):
        return {"enum": _name(type(value)), "value": value.name}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": [_encoded(each) for each in value]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _encoded(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _name(type(value)), "fields": fields}
    raise NotPlain(f"a {type(value).__name__} has no form in JSON")


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decoded(each) for each in value["tuple"])
    if "enum" in value:
        return _found(value["enum"])[value["value"]]
    return _found(value["class"])(**{k: _decoded(v) for k, v in value["fields"].items()})


def _name(kind: type) -> str:
    if kind.__module__.partition(".")[0] != PACKAGE or "<" in kind.__qualname__:
        raise NotPlain(f"{kind.__module__}.{kind.__qualname__} is no class of the engine")
    return f"{kind.__module__}:{kind.__qualname__}"


def _found(name: str) -> Any:
    module, _, qualname = name.partition(":")
    if module.partition(".")[0] != PACKAGE:
        raise NotPlain(f"{name} is no class of the engine")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not (
        isinstance(found, type) and (issubclass(found, Enum) or dataclasses.is_dataclass(found))
    ):
        raise NotPlain(f"{name} is no dataclass and no enum")
    return found
