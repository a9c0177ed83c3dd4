"""Numbers from outside -> arrays of the type a model wants, without loss.

Integers may become floats; floats never become integers; nothing may leave the range of its
type; `null` is NaN where the type has one, as answers write it. No loop over elements runs in
Python on the path of well-formed numbers.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from server.errors import InvalidInput

from .base import Array

_FLOAT32 = np.dtype(np.float32)
# Below it every element is in range, and an integer among them fits 64 bits: numpy reads those
# that do not by other rules.
_SAFE_NORM = 2.0**126


def to_array(value: Any, dtype: np.dtype[Any], field: str) -> Array:
    """Return a number, nested lists or an array as an array of `dtype`.

    Raises:
        InvalidInput: ragged lists, elements of another kind, or numbers out of range.
    """
    if dtype.kind == "O":
        return _to_strings(value, field)
    if dtype == _FLOAT32 and type(value) is list:
        row = _plain_row(value)
        if row is not None:
            return row
    found = value if isinstance(value, np.ndarray) else _read(value, dtype, field)
    if found.dtype == dtype:
        return found
    if found.size == 0 and not isinstance(value, np.ndarray):
        return found.astype(dtype)  # [] has no type of its own
    if dtype.kind == "f":
        return _to_float(found, dtype, field)
    if dtype.kind in "iu":
        return _to_integer(found, dtype, field)
    raise _wrong_kind(found, dtype, field)


def _plain_row(value: list[Any]) -> Array | None:
    """Read a list of floats, or a list that holds one such list, in half the time; else None.

    What most requests are. Anything else, and whatever is wrong, is left to the general way.
    """
    nested = len(value) == 1 and type(value[0]) is list
    row = value[0] if nested else value
    try:
        if type(sum(row)) is not float:  # lists, text, null do not add up; true and 1 make an int
            return None
        found = np.fromiter(row, np.float64, len(row))
    except (TypeError, ValueError, OverflowError):
        return None
    if not np.vdot(found, found) < _SAFE_NORM:  # NaN, infinity, or large enough to look closer
        return None
    converted = found.astype(_FLOAT32)
    return converted[None] if nested else converted


def _read(value: Any, dtype: np.dtype[Any], field: str) -> Array:
    if value is None or isinstance(value, dict):
        raise _not_a_tensor(value, field)
    try:
        found = np.array(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _ragged(value, field) from None
    if found.dtype.kind == "O" and dtype.kind == "f":
        return _with_nulls(found, dtype, field)
    if found.size and found.dtype.kind in "fO" and dtype.kind in "iu":
        return _large_integers(np.array(value, object), dtype, field)
    return found


def _with_nulls(found: Array, dtype: np.dtype[Any], field: str) -> Array:
    """Read a float tensor in which some elements are null, or larger than 64 bits."""
    for element in found.flat:
        if element is not None and type(element) not in (int, float):
            raise _wrong_element(element, dtype, field)
    try:
        return found.astype(np.float64)
    except OverflowError:
        raise InvalidInput(
            f"{field}: a number does not fit {dtype.name}",
            field=field,
            expected=dtype.name,
            got="a larger integer",
        ) from None


def _large_integers(found: Array, dtype: np.dtype[Any], field: str) -> Array:
    """Read integers of which some need 64 bits without a sign; numpy would make them floats."""
    for element in found.flat:
        if type(element) is not int:
            raise _wrong_element(element, dtype, field)
    _check_bounds(min(found.flat), max(found.flat), dtype, field)
    return found.astype(dtype)


def _to_float(found: Array, dtype: np.dtype[Any], field: str) -> Array:
    if found.dtype.kind not in "fiu":
        raise _wrong_kind(found, dtype, field)
    with np.errstate(over="ignore"):
        converted = found.astype(dtype)
    if dtype.itemsize < found.dtype.itemsize or found.dtype.kind != "f":
        overflowed = np.isinf(converted)
        if overflowed.any():
            _check_overflow(found, overflowed, dtype, field)
    return converted


def _check_overflow(found: Array, overflowed: Array, dtype: np.dtype[Any], field: str) -> None:
    """Refuse numbers that became infinite; those that were infinite before are as sent."""
    sent = found[overflowed]
    became = sent[np.isfinite(sent)]
    if became.size:
        largest = float(np.finfo(dtype.name).max)
        raise InvalidInput(
            f"{field}: {became[0]:g} does not fit {dtype.name}, whose largest number is "
            f"{largest:g}",
            field=field,
            expected=f"-{largest:g}..{largest:g}",
            got=float(became[0]),
        )


def _to_integer(found: Array, dtype: np.dtype[Any], field: str) -> Array:
    if found.dtype.kind not in "iu":
        raise _wrong_kind(found, dtype, field)
    if found.size:
        _check_bounds(int(found.min()), int(found.max()), dtype, field)
    return found.astype(dtype)


def _check_bounds(low: int, high: int, dtype: np.dtype[Any], field: str) -> None:
    bounds = np.iinfo(dtype.name)
    if low < bounds.min or high > bounds.max:
        got = low if low < bounds.min else high
        raise InvalidInput(
            f"{field}: {got} does not fit {dtype.name}",
            field=field,
            expected=f"{bounds.min}..{bounds.max}",
            got=str(got) if abs(got) >= 1 << 63 else got,  # JSON writers stop at 64 bits
        )


def _to_strings(value: Any, field: str) -> Array:
    try:
        strings = np.array(value, object)  # otherwise numpy would write numbers as text
    except ValueError:
        raise _ragged(value, field) from None
    for element in strings.flat:
        if not isinstance(element, str | bytes):
            raise _wrong_element(element, strings.dtype, field)
    return strings


def _wrong_kind(found: Array, dtype: np.dtype[Any], field: str) -> InvalidInput:
    return _wrong_element(found.flat[0] if found.size else found.dtype.name, dtype, field)


def _wrong_element(element: Any, dtype: np.dtype[Any], field: str) -> InvalidInput:
    element = element.item() if isinstance(element, np.generic) else element
    wanted = {"f": "numbers", "i": "integers", "u": "integers", "b": "true and false"}
    expected = f"{wanted.get(dtype.kind, 'strings')} ({dtype.name})"
    got = reprlib.repr(element)
    return InvalidInput(
        f"{field}: expected {expected}, got {got}", field=field, expected=expected, got=got
    )


def _not_a_tensor(value: Any, field: str) -> InvalidInput:
    got = "null" if value is None else "an object"
    return InvalidInput(
        f"{field}: expected a number or nested lists of numbers, got {got}",
        field=field,
        expected="a number or nested lists of numbers",
        got=got,
    )


def _ragged(value: Any, field: str) -> InvalidInput:
    where = _find_ragged(value, "")
    got = f"lists of different lengths at {where}" if where else reprlib.repr(value)
    return InvalidInput(
        f"{field}: expected nested lists of equal length, got {got}",
        field=field,
        expected="nested lists of equal length",
        got=got,
    )


def _find_ragged(value: Any, path: str) -> str | None:
    """Return the path of the first list whose length or depth differs from its first sibling's."""
    if not isinstance(value, list) or len(path) > 200:
        return None
    for index, child in enumerate(value):
        here = f"{path}[{index}]"
        if _length(child) != _length(value[0]):
            return f"{here} ({_in_words(child)} beside {_in_words(value[0])})"
        deeper = _find_ragged(child, here)
        if deeper:
            return deeper
    return None


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _in_words(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else "no list"
