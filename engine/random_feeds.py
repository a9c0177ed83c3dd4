"""Random inputs for a model: for warming up, profiling and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.ir.dim_parser import parse_dim
from engine.ir.types import evaluate, symbols_of
from engine.session import TensorSpec

DEFAULT_SIZE = 1


def random_feeds(
    inputs: Sequence[TensorSpec], sizes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return a value for every input: normal floats, small integers. Unsized symbols are 1.

    Sequences have one element, optionals hold something, maps are empty.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _nested(spec.kind, _random(spec, sizes or {}, generator)) for spec in inputs}


def _nested(kind: str, tensor: np.ndarray) -> Any:
    """Return a tensor in what its kind puts around it."""
    outermost, _, inner = kind.partition("(")
    match outermost:
        case "sequence":
            return [_nested(inner, tensor)]
        case "optional":
            return _nested(inner, tensor)
        case "map":
            return {}
    return tensor


def _size(dim: int | str, sizes: Mapping[str, int]) -> int:
    """Return a number for a dim, which may be an expression of symbols, as in `past+length`."""
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    parsed = parse_dim(dim)
    known = {name: sizes.get(name, DEFAULT_SIZE) for name in symbols_of(parsed)}
    return max(0, evaluate(parsed, known))


def _random(spec: TensorSpec, sizes: Mapping[str, int], generator: Any) -> np.ndarray:
    shape = tuple(_size(dim, sizes) for dim in spec.shape or ())
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "O":
        return np.full(shape, "text", object)
    if dtype.kind == "b":
        return np.asarray(generator.integers(0, 2, shape), bool)
    if dtype.kind in "iu":
        return np.asarray(generator.integers(0, 2, shape), dtype)
    return np.asarray(generator.standard_normal(shape), np.float32).astype(dtype)
