"""Values at run time: a tensor is an array, a sequence a list, a map a dict, an optional None or a
value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ir.value_types import MapType, OptionalType, ValueType

CELL_BYTES = 128  # of a place in a list or dict and the small object that it holds


def value_bytes(value: Any) -> int:
    """Return about how many bytes a value holds; arrays that lists share count in each of them."""
    if value is None:
        return 0
    size: int | None = getattr(value, "nbytes", None)
    if size is not None:
        return size
    if isinstance(value, dict):
        return sum(CELL_BYTES + value_bytes(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(CELL_BYTES + value_bytes(v) for v in value)
    return CELL_BYTES


def copy_value(value: Any) -> Any:
    """Return a copy that shares nothing with the value."""
    if isinstance(value, list):
        return [copy_value(each) for each in value]
    if isinstance(value, dict):
        return {key: copy_value(each) for key, each in value.items()}
    return value.copy() if hasattr(value, "copy") else value


def misfit(value: Any, kind: ValueType) -> str | None:
    """Say why a value from outside is not of a type, or return None when it is.

    Symbols fit every size.
    """
    match kind:
        case TensorType():
            return _tensor_misfit(value, kind)
        case OptionalType():
            return None if value is None else misfit(value, kind.element)
        case MapType():
            return _map_misfit(value, kind)
    if not isinstance(value, list | tuple):
        return f"expected {kind} as a list, got {type(value).__name__}"
    if isinstance(kind.length, int) and kind.length != len(value):
        return f"expected {kind}, got {len(value)} elements"
    return _first_misfit(((f"element {i}", v, kind.element) for i, v in enumerate(value)))


def _tensor_misfit(value: Any, kind: TensorType) -> str | None:
    if not isinstance(value, np.ndarray):
        return f"expected {kind} as a numpy array, got {type(value).__name__}"
    if value.dtype != kind.dtype.numpy:
        return f"expected type {kind.dtype.numpy}, got {value.dtype}"
    if kind.shape is None:
        return None
    pairs = zip(kind.shape, value.shape, strict=False)
    if len(kind.shape) != value.ndim or any(isinstance(d, int) and d != n for d, n in pairs):
        return f"expected {kind}, got shape {list(value.shape)}"
    return None


def _map_misfit(value: Any, kind: MapType) -> str | None:
    if not isinstance(value, dict):
        return f"expected {kind} as a dict, got {type(value).__name__}"
    wanted: type | tuple[type, ...] = str if kind.key is DType.STRING else (int, np.integer)
    bad = next((k for k in value if not isinstance(k, wanted) or isinstance(k, bool)), None)
    if bad is not None:
        return f"expected keys of type {kind.key}, got {bad!r}"
    if isinstance(kind.value, TensorType) and not kind.value.shape:
        return _number_misfit(value.values(), kind.value.dtype)
    return _first_misfit(((f"key {k!r}", v, kind.value) for k, v in value.items()))


def _number_misfit(numbers: Iterable[Any], dtype: DType) -> str | None:
    """Values of maps may be plain numbers and texts."""
    wanted: tuple[type, ...] = (int, float, np.number, np.bool_)
    if dtype is DType.STRING:
        wanted = (str,)
    for number in numbers:
        is_scalar = isinstance(number, np.ndarray) and number.ndim == 0
        if not (isinstance(number, wanted) or is_scalar):
            return f"expected values of type {dtype}, got {number!r:.40}"
    return None


def _first_misfit(parts: Iterable[tuple[str, Any, ValueType]]) -> str | None:
    for where, value, kind in parts:
        problem = misfit(value, kind)
        if problem is not None:
            return f"{where}: {problem}"
    return None
