"""What numpy's functions offer and CuPy's do not, over arrays of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.ir.graph import Array

UFUNCS = {"add": "add", "mul": "multiply", "max": "maximum", "min": "minimum"}
FUNCTIONS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}
# Types that a GPU combines in place without losing an update (CUDA's atomicAdd and its kin).
ATOMIC = frozenset({"int32", "uint32", "uint64", "float16", "float32", "float64"})

Reduce = Callable[[Array, tuple[int, ...], bool], Array]


def reducer(xp: Any, how: str, dtype: np.dtype, empty: Any) -> Reduce:
    """Return a function of (array, axes, keepdims) that combines along axes within `dtype`.

    Args:
        xp: The array namespace.
        how: "add", "mul", "max" or "min".
        dtype: The type of the sum; also the array's own when `how` is "max" or "min".
        empty: What combining no element at all gives.
    """
    if xp is np:
        return _numpy_reducer(how, dtype, empty)
    named = "any" if how == "max" else "all" if how == "min" else ""
    function = getattr(xp, named if named and dtype.kind == "b" else FUNCTIONS[how])
    typed = {"dtype": dtype} if how in ("add", "mul") else {}

    def combine(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
        if x.size:
            return xp.asarray(function(x, axis=axes, keepdims=keep, **typed))
        kept = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
        return xp.full(kept, empty, dtype)

    return combine


def _numpy_reducer(how: str, dtype: np.dtype, empty: Any) -> Reduce:
    """Reduce by the methods of numpy's functions: less of a detour than numpy's own functions."""
    if dtype.kind == "b" and how in ("max", "min"):
        reduce_bool: Any = (np.logical_or if how == "max" else np.logical_and).reduce
        return lambda x, axes, keep: np.asarray(reduce_bool(x, axis=axes, keepdims=keep))
    reduce_all = getattr(np, UFUNCS[how]).reduce

    def combine(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
        if x.size:
            result = reduce_all(x, axis=axes, dtype=dtype, keepdims=keep)
        else:
            result = reduce_all(x, axis=axes, dtype=dtype, keepdims=keep, initial=empty)
        return np.asarray(result)

    return combine


def combine_at(xp: Any, how: str, target: Array, index: tuple[Array, ...], updates: Array) -> None:
    """Combine `updates` into places of `target`, in place; a place may be named several times."""
    ufunc = UFUNCS[how]
    if xp is np or (how != "mul" and target.dtype.name in ATOMIC):
        getattr(xp, ufunc).at(target, index, updates)
        return
    host = xp.asnumpy(target)
    getattr(np, ufunc).at(host, tuple(map(xp.asnumpy, index)), xp.asnumpy(updates))
    target[...] = xp.asarray(host)
