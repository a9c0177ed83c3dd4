"""Evaluates expressions over integers that are known only as dims: object arrays of `int` and
`SymDim`.

What cannot be decided without running (comparing two open dims, say) makes the whole value unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.dim_bounds import is_not_negative
from engine.ir.dims import Dim, dim_max, dim_min, floordiv, mod
from engine.ir.expr import Expr

SYMBOLIC_RESULTS = frozenset({DType.INT64, DType.INT32, DType.BOOL})


class Undecided(Exception):
    """The value depends on what the symbols will be."""


def evaluate_symbolic(expr: Expr, inputs: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return the value of `expr` element by element, or None when it cannot be told."""
    if any(node.dtype not in SYMBOLIC_RESULTS for node in expr.walk()):
        return None
    done: dict[int, Any] = {}
    try:
        for node in expr.walk():
            done[id(node)] = _apply(node, [done[id(a)] for a in node.args], inputs)
    except (Undecided, KeyError, ZeroDivisionError, OverflowError):
        return None
    return np.asarray(done[id(expr)], dtype=object)


def _apply(node: Expr, args: list[Any], inputs: Sequence[np.ndarray | None]) -> Any:
    if node.op == "arg":
        value = inputs[int(node.payload or 0)]
        if value is None:
            raise Undecided
        return value
    if node.op == "const":
        return np.array(node.payload, dtype=object)
    function = _FUNCTIONS["test" if node.op == "cast" and node.dtype is DType.BOOL else node.op]
    return np.frompyfunc(function, len(args), 1)(*args)


def _truncated(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    # Open dims are sizes: not negative, so truncation and floor agree unless a sign is in sight.
    if (isinstance(a, int) and a < 0) or (isinstance(b, int) and b < 0):
        raise Undecided
    return floordiv(a, b)


def _difference(a: Dim, b: Dim) -> int:
    difference = int(a) - int(b) if isinstance(a, int) and isinstance(b, int) else a - b
    if not isinstance(difference, int):
        raise Undecided
    return difference


def _equal(a: Dim, b: Dim) -> bool:
    # A size is never negative: `dim == -1` asks for a marker, and the answer is no.
    for size, number in ((a, b), (b, a)):
        if isinstance(number, int) and number < 0 and is_not_negative(size):
            return False
    return _difference(a, b) == 0


def _choose(condition: Dim, a: Dim, b: Dim) -> Dim:
    return a if _number(condition) else b


def _number(a: Dim) -> int:
    if not isinstance(a, int):
        raise Undecided
    return a


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _truncated,
    "remainder": mod,
    "neg": lambda a: -a,
    "abs": lambda a: abs(_number(a)),
    "min": dim_min,
    "max": dim_max,
    "lt": lambda a, b: _difference(a, b) < 0,
    "le": lambda a, b: _difference(a, b) <= 0,
    "eq": _equal,
    "ne": lambda a, b: not _equal(a, b),
    "not": lambda a: not _number(a),
    "and": lambda a, b: bool(_number(a)) and bool(_number(b)),
    "or": lambda a, b: bool(_number(a)) or bool(_number(b)),
    "select": _choose,
    "test": lambda a: bool(_number(a)),
    "cast": lambda a: a,
}
