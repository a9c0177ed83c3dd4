"""Compares what an engine gave with what a case expects, as strictly as the suite's own runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Two units in the last place, where a type is coarser than a case's tolerance.
COARSE = {"bfloat16": 2.0**-6, "float16": 2.0**-9}


class Mismatch(AssertionError):
    """An engine's outputs are not those that the case expects."""


def compare_all(ours: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """Raise `Mismatch` unless there are as many outputs as expected, and each agrees."""
    if len(ours) != len(expected):
        raise Mismatch(f"{len(ours)} outputs, expected {len(expected)}")
    for i, (mine, wanted) in enumerate(zip(ours, expected, strict=True)):
        compare_value(mine, wanted, rtol, atol, f"output {i}")


def compare_value(ours: Any, expected: Any, rtol: float, atol: float, where: str = "value") -> None:
    """Raise `Mismatch` unless two values agree: arrays, sequences (lists), or None."""
    if expected is None or ours is None:
        if ours is not expected:
            raise Mismatch(f"{where}: {_kind(ours)}, expected {_kind(expected)}")
        return
    if isinstance(expected, (list, tuple)):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(expected):
            raise Mismatch(f"{where}: {_kind(ours)}, expected {_kind(expected)}")
        for i, (mine, wanted) in enumerate(zip(ours, expected, strict=True)):
            compare_value(mine, wanted, rtol, atol, f"{where}[{i}]")
        return
    _compare_arrays(np.asarray(ours), np.asarray(expected), rtol, atol, where)


def _compare_arrays(
    ours: np.ndarray, expected: np.ndarray, rtol: float, atol: float, where: str
) -> None:
    if ours.shape != expected.shape:
        raise Mismatch(f"{where}: shape {list(ours.shape)}, expected {list(expected.shape)}")
    if expected.dtype.kind in "OUST":
        if not np.array_equal(ours.astype(str), expected.astype(str)):
            raise Mismatch(f"{where}: texts differ")
        return
    if ours.dtype != expected.dtype:
        raise Mismatch(f"{where}: type {ours.dtype}, expected {expected.dtype}")
    coarse = COARSE.get(ours.dtype.name, 0.0)
    wide = np.complex128 if ours.dtype.kind == "c" else np.float64
    mine, wanted = ours.astype(wide), expected.astype(wide)
    close = np.isclose(mine, wanted, rtol=max(rtol, coarse), atol=max(atol, coarse), equal_nan=True)
    if not close.all():
        with np.errstate(all="ignore"):
            worst = np.nanmax(np.abs(mine - wanted))
        count = f"{int((~close).sum())} of {close.size}"
        raise Mismatch(f"{where}: {count} elements differ, by {worst:.3g} at most")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return f"a sequence of {len(value)}"
    return f"{type(value).__name__}"
