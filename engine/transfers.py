"""Moving values between the host and the arrays of a namespace (numpy, or cupy on a GPU).

Some element types exist on the host only: strings, complex long doubles, and the narrow types that
`ml_dtypes` adds. Values of such a type stay numpy arrays everywhere, and what computes with them
runs on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.ir.graph import Array

DEVICE_KINDS = "biufc"
WIDEST_BYTES = 16  # complex128


def holds(xp: Any, dtype: np.dtype) -> bool:
    """Tell whether arrays of the namespace may have elements of this type."""
    if xp is np:
        return True
    return dtype.kind in DEVICE_KINDS and dtype.isbuiltin == 1 and dtype.itemsize <= WIDEST_BYTES


def to_device(xp: Any, value: Any) -> Any:
    """Return a value as the namespace holds it; None, and what it cannot hold, as they are.

    Sequences and maps move element by element.
    """
    if xp is np:
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return xp.asarray(value) if holds(xp, value.dtype) else np.asarray(value)
    return _each(value, lambda each: to_device(xp, each))


def to_host(xp: Any, value: Any) -> Any:
    """Return a value as numpy holds it; None and what is there already as they are."""
    if xp is np or value is None or isinstance(value, (np.ndarray, np.generic)):
        return value
    if isinstance(value, (list, tuple, Mapping)):
        return _each(value, lambda each: to_host(xp, each))
    return xp.asnumpy(value) if hasattr(value, "dtype") else value


def on_host(xp: Any, kernel: Callable[..., Sequence[Array]]) -> Callable[..., Sequence[Array]]:
    """Return a kernel over the namespace's arrays from one over numpy's."""

    def crossing(*inputs: Array | None) -> Sequence[Array]:
        results = kernel(*(to_host(xp, value) for value in inputs))
        return [to_device(xp, value) for value in results]

    return crossing


def _each(value: Any, move: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(move, value))
    if isinstance(value, Mapping):
        return {key: move(each) for key, each in value.items()}
    return value
