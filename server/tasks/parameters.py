"""A task's parameters, declared as a table of named checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .base import CheckedParameters, Parameters, unknown_parameter, wrong_parameter

Check = Callable[[str, Any], Any]  # (name, value) -> value, or raises InvalidInput

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


class ParameterTable:
    """The parameters of one task of one model: their checks and their defaults.

    Values may be strings, as query strings and form fields deliver them.
    """

    def __init__(self, task: str, checks: Mapping[str, Check], defaults: Mapping[str, Any]) -> None:
        """Keep the table; `defaults` may hold more than can be set."""
        self._task = task
        self._checks = dict(checks)
        self._defaults = CheckedParameters(defaults)

    def check(self, raw: Parameters) -> CheckedParameters:
        """Return all parameters, checked, with defaults filled in."""
        if type(raw) is CheckedParameters:
            return raw
        if not raw:
            return self._defaults
        checked = CheckedParameters(self._defaults)
        for name, value in raw.items():
            check = self._checks.get(name)
            if check is None:
                raise unknown_parameter(str(name), tuple(self._checks), self._task)
            checked[name] = check(name, value)
        return checked


def positive_int(name: str, value: Any) -> int:
    """Accept an integer of at least 1."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int or value < 1:
        raise wrong_parameter(name, "an integer of at least 1", value)
    return value


def fraction(name: str, value: Any) -> float:
    """Accept a number from 0 to 1."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise wrong_parameter(name, "a number from 0 to 1", value) from None
    if type(value) not in (int, float) or not 0.0 <= value <= 1.0:
        raise wrong_parameter(name, "a number from 0 to 1", value)
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """Accept true and false, also as words."""
    word = value.lower() if isinstance(value, str) else None
    if value is True or word in TRUE_WORDS:
        return True
    if value is False or word in FALSE_WORDS:
        return False
    raise wrong_parameter(name, "true or false", value)


def one_of(*choices: str) -> Check:
    """Return a check that accepts one of these words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise wrong_parameter(name, " or ".join(map(repr, choices)), value)
        return value

    return check
