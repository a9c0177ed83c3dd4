"""Types of values that are no tensors: sequences, optionals and maps; and what two types have in
common.

Each also answers `dtype`, `shape`, `rank` and `is_static`, so that code which asks only for sizes
reads any type: `dtype` is that of the tensors inside, and the shape is not known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from engine.dtypes import DType
from engine.ir.dims import Dim, SymDim, fresh_symbol, substitute, symbols_of
from engine.ir.types import Shape, TensorType

VARYING = "any"  # names of varying dims begin so; no name in a file ends like a fresh symbol's
_IS_VARYING = re.compile(rf"{VARYING}_\d+")


class NoTensor:
    """What types of other values than tensors answer when they are asked for a shape."""

    __slots__ = ()

    @property
    def shape(self) -> Shape | None:
        """Not known: there may be several tensors inside, or none."""
        return None

    @property
    def rank(self) -> int | None:
        """Not known."""
        return None

    @property
    def is_static(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class SequenceType(NoTensor):
    """A list of values of one type.

    A varying dim of the element may differ from one element to the next; any other symbol means the
    same number in all of them. `length` is None where only running tells it.
    """

    element: ValueType
    length: Dim | None = None

    @property
    def dtype(self) -> DType:
        """Element type of the tensors inside."""
        return self.element.dtype

    def substitute(self, values: Mapping[str, Dim]) -> SequenceType:
        """Return the type with symbols replaced."""
        length = None if self.length is None else substitute(self.length, values)
        return SequenceType(self.element.substitute(values), length)

    def __str__(self) -> str:
        count = "" if self.length is None else f", {self.length}"
        return f"sequence({self.element}{count})"


@dataclass(frozen=True, slots=True)
class OptionalType(NoTensor):
    """A value of the element's type, or nothing."""

    element: ValueType

    @property
    def dtype(self) -> DType:
        """Element type of the tensors inside."""
        return self.element.dtype

    def substitute(self, values: Mapping[str, Dim]) -> OptionalType:
        """Return the type with symbols replaced."""
        return OptionalType(self.element.substitute(values))

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType(NoTensor):
    """A table from integers or texts to values of one type."""

    key: DType
    value: ValueType

    @property
    def dtype(self) -> DType:
        """Element type of the tensors inside."""
        return self.value.dtype

    def substitute(self, values: Mapping[str, Dim]) -> MapType:
        """Return the type with symbols replaced."""
        return MapType(self.key, self.value.substitute(values))

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


ValueType = TensorType | SequenceType | OptionalType | MapType
VALUE_TYPES = (TensorType, SequenceType, OptionalType, MapType)


def varying_dim() -> SymDim:
    """Return a dim of which nothing is known: another number from element to element, from pass to
    pass.
    """
    return fresh_symbol(VARYING)


def join_types(a: ValueType, b: ValueType, loose: Collection[str] = ()) -> ValueType:
    """Return the narrowest type that covers both; `a` itself wherever it covers `b`.

    Dims that differ become varying dims. Symbols of `a` named in `loose` cover any dim already, as
    varying dims of a sequence's elements do. Raises ValueError when no value can be of both types.
    """
    match a, b:
        case TensorType(), TensorType() if a.dtype is b.dtype:
            return a.with_shape(_join_shapes(a.shape, b.shape, loose))
        case SequenceType(), SequenceType():
            return _join_sequences(a, b)
        case OptionalType(), OptionalType():
            return OptionalType(join_types(a.element, b.element, loose))
        case OptionalType(), _:
            return OptionalType(join_types(a.element, b, loose))
        case _, OptionalType():
            return OptionalType(join_types(a, b.element, loose))
        case MapType(), MapType() if a.key is b.key:
            return MapType(a.key, join_types(a.value, b.value, loose))
    raise ValueError(f"a value cannot be {a} and {b}")


def _join_shapes(a: Shape | None, b: Shape | None, loose: Collection[str]) -> Shape | None:
    if a is None or b is None or len(a) != len(b):
        return None
    pairs = zip(a, b, strict=True)
    return tuple(x if x == y or str(x) in loose else varying_dim() for x, y in pairs)


def _join_sequences(a: SequenceType, b: SequenceType) -> SequenceType:
    joined = join_types(a.element, b.element, _varying_in(a.element))
    # An empty list says nothing about shapes.
    element = b.element if a.length == 0 else a.element if b.length == 0 else joined
    return SequenceType(element, a.length if a.length == b.length else None)


def refreshed(kind: ValueType) -> ValueType:
    """Return the type with varying dims of its own: of one element out of many, one pass out of
    many.
    """
    return with_fresh(kind, _varying_in(kind))


def all_varying(kind: ValueType) -> ValueType:
    """Return the type with every symbol replaced by a varying dim: nothing ties its elements."""
    return with_fresh(kind, symbols_in(kind))


def with_fresh(kind: ValueType, names: Iterable[str]) -> ValueType:
    """Return the type with varying dims in place of the named symbols."""
    fresh = {name: varying_dim() for name in sorted(names)}
    return kind.substitute(fresh) if fresh else kind


def _varying_in(kind: ValueType) -> frozenset[str]:
    return frozenset(name for name in symbols_in(kind) if _IS_VARYING.fullmatch(name))


def symbols_in(kind: ValueType) -> frozenset[str]:
    """Return the names of all symbols in a type."""
    match kind:
        case TensorType():
            return frozenset().union(*map(symbols_of, kind.shape or ()))
        case MapType():
            return symbols_in(kind.value)
        case SequenceType():
            return symbols_in(kind.element) | symbols_of(kind.length or 0)
    return symbols_in(kind.element)


def covers(wide: ValueType, narrow: ValueType) -> bool:
    """Whether a value of `narrow` can be one of `wide`, as far as kinds and element types go.

    An optional is taken for what it holds, as files declare it where they know that it holds
    something.
    """
    match wide, narrow:
        case TensorType(), TensorType():
            return wide.dtype is narrow.dtype
        case MapType(), MapType():
            return wide.key is narrow.key and covers(wide.value, narrow.value)
        case (SequenceType(), SequenceType()) | (OptionalType(), OptionalType()):
            return covers(wide.element, narrow.element)  # type: ignore[union-attr]  # matched above
        case _, OptionalType():
            return covers(wide, narrow.element)
    return False
