"""Checks feeds against a graph's inputs before anything runs.

On the path of every call, so it is kept short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from engine.errors import InvalidInput
from engine.ir.graph import Array, Value
from engine.ir.types import SymDim, TensorType
from engine.ir.values import misfit

Rule = tuple[str, np.dtype, int, tuple[tuple[int, int], ...], tuple[tuple[int, str], ...]]


class FeedChecker:
    """Called with feeds, raises `InvalidInput` unless names, types, ranks and dims fit."""

    def __init__(self, inputs: Sequence[Value]) -> None:
        self._inputs = tuple(inputs)
        self._count = len(self._inputs)
        self._rules = tuple(_rule(v) for v in self._inputs if isinstance(v.type, TensorType))
        self._others = tuple(v for v in self._inputs if not isinstance(v.type, TensorType))
        self._expressions = tuple(
            (value.name, axis, dim)
            for value in self._inputs
            for axis, dim in enumerate(value.type.shape or ())
            if isinstance(dim, SymDim) and not dim.is_symbol
        )

    def __call__(self, feeds: Mapping[str, Array]) -> None:
        """Check one call's feeds."""
        if len(feeds) != self._count:
            self._fail(feeds)
        bound: dict[str, int] = {}
        for name, dtype, rank, fixed, symbols in self._rules:
            array = feeds.get(name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                self._fail(feeds)
            shape = array.shape
            if rank >= 0 and len(shape) != rank:
                self._fail(feeds)
            for axis, size in fixed:
                if shape[axis] != size:
                    self._fail(feeds)
            for axis, symbol in symbols:
                if bound.setdefault(symbol, shape[axis]) != shape[axis]:
                    self._fail(feeds)
        for value in self._others:
            if value.name not in feeds or misfit(feeds[value.name], value.type) is not None:
                self._fail(feeds)
        for name, axis, dim in self._expressions:
            if dim.symbols <= bound.keys() and dim.evaluate(bound) != feeds[name].shape[axis]:
                self._fail(feeds)

    def _fail(self, feeds: Mapping[str, Array]) -> NoReturn:
        """Find out again, with time to spare, what is wrong."""
        names = [v.name for v in self._inputs]
        missing = [n for n in names if n not in feeds]
        unknown = [n for n in feeds if n not in names]
        if missing or unknown:
            raise InvalidInput(
                f"feeds: missing {missing}, unknown {unknown}; expected exactly {names}"
            )
        bound: dict[str, tuple[int, str]] = {}
        for value in self._inputs:
            _explain(value, feeds[value.name], bound)
        sizes = {symbol: size for symbol, (size, _) in bound.items()}
        for name, axis, dim in self._expressions:
            size = feeds[name].shape[axis]
            if dim.symbols <= sizes.keys() and dim.evaluate(sizes) != size:
                raise InvalidInput(
                    f"input {name!r}: dim {axis} must be {dim} for {sizes}, got {size}"
                )
        raise InvalidInput("feeds do not fit the model's inputs")


def _rule(value: Value) -> Rule:
    shape = value.type.shape
    dims = () if shape is None else tuple(enumerate(shape))
    fixed = tuple((axis, dim) for axis, dim in dims if isinstance(dim, int))
    symbols = tuple((i, str(d)) for i, d in dims if isinstance(d, SymDim) and d.is_symbol)
    return value.name, value.type.dtype.numpy, -1 if shape is None else len(shape), fixed, symbols


def _explain(value: Value, array: object, bound: dict[str, tuple[int, str]]) -> None:
    where, kind = f"input {value.name!r}", value.type
    if not isinstance(kind, TensorType):
        problem = misfit(array, kind)
        if problem is not None:
            raise InvalidInput(f"{where}: {problem}")
        return
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"{where}: expected a numpy array, got {type(array).__name__}")
    if array.dtype != kind.dtype.numpy:
        raise InvalidInput(f"{where}: expected type {kind.dtype.numpy}, got {array.dtype}")
    expected = _text(kind)
    if kind.shape is None:
        return
    if array.ndim != len(kind.shape):
        raise InvalidInput(
            f"{where}: expected {len(kind.shape)} dims {expected}, got shape {list(array.shape)}"
        )
    for axis, (dim, size) in enumerate(zip(kind.shape, array.shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InvalidInput(
                f"{where}: expected shape {expected}, got {list(array.shape)}: "
                f"dim {axis} must be {dim}"
            )
        if isinstance(dim, SymDim) and dim.is_symbol:
            first, source = bound.setdefault(str(dim), (size, f"{value.name!r} dim {axis}"))
            if first != size:
                raise InvalidInput(
                    f"{where}: dim {axis} ({dim}) is {size}, but {source} is {first}; "
                    "they must be equal"
                )


def _text(kind: TensorType) -> str:
    return "" if kind.shape is None else "[" + ", ".join(map(str, kind.shape)) + "]"
