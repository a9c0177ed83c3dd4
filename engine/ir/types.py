"""Types of values: element type and symbolic shape, and how shapes broadcast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.dim_parser import parse_dim
from engine.ir.dims import (
    Dim,
    SymDim,
    ceildiv,
    dim_broadcast,
    dim_max,
    dim_min,
    evaluate,
    floordiv,
    fresh_symbol,
    is_static,
    mod,
    substitute,
    symbol,
    symbols_of,
)

__all__ = [
    "Dim",
    "Shape",
    "SymDim",
    "TensorType",
    "broadcast_dims",
    "broadcast_shapes",
    "ceildiv",
    "dim_broadcast",
    "dim_max",
    "dim_min",
    "element_count",
    "evaluate",
    "floordiv",
    "fresh_symbol",
    "is_static",
    "mod",
    "parse_dim",
    "substitute",
    "symbol",
    "symbols_of",
]

Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known of a value before anything runs.

    A `shape` of None means that even the rank is unknown.
    """

    dtype: DType
    shape: Shape | None = None

    @property
    def rank(self) -> int | None:
        """Number of dims, or None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dim is a number."""
        return self.shape is not None and all(map(is_static, self.shape))

    def substitute(self, values: Mapping[str, Dim]) -> TensorType:
        """Return the type with symbols replaced."""
        if self.shape is None:
            return self
        return TensorType(self.dtype, tuple(substitute(d, values) for d in self.shape))

    def with_shape(self, shape: Iterable[Dim] | None) -> TensorType:
        """Return the same element type in another shape."""
        return TensorType(self.dtype, None if shape is None else tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """Return the same shape of another element type."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def element_count(shape: Shape) -> Dim:
    """Return the product of the dims; 1 for a scalar."""
    return prod(shape, start=1)


def broadcast_dims(a: Dim, b: Dim) -> Dim:
    """Return the dim that two aligned dims broadcast to.

    A symbol beside a number other than 1 must be that number (or 1) when the model runs, so the
    number wins. Two different symbols stay open: either may turn out to be 1.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise InvalidModel(
            f"dims {a} and {b} do not broadcast: expected equal dims, or 1 on one side"
        )
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else dim_broadcast(a, b)


def broadcast_shapes(*shapes: Shape | None) -> Shape | None:
    """Return the shape that numpy-style broadcasting gives; None as soon as one rank is unknown."""
    known = [s for s in shapes if s is not None]
    if len(known) != len(shapes):
        return None
    rank = max(map(len, known), default=0)
    result: list[Dim] = [1] * rank
    for shape in known:
        offset = rank - len(shape)
        for i, dim in enumerate(shape, start=offset):
            result[i] = broadcast_dims(result[i], dim)
    return tuple(result)
