"""Small helpers that structured operators share: axes, narrow floats, checked sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.errors import ResourceLimit
from engine.ir.graph import Array
from engine.ir.types import Dim, SymDim
from engine.ops.contexts import ComputeContext, InferContext

__all__ = [
    "Array",
    "axes_of",
    "check_size",
    "int_value",
    "ints",
    "merged",
    "narrow",
    "normalize_axes",
    "normalize_axis",
    "one_of",
    "precise",
    "static_ints",
    "widen",
]


def normalize_axis(axis: int, rank: int) -> int:
    """Return `axis` counted from the front; anything outside `[-rank, rank)` is an error."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside of the {rank} axes there are")
    return axis % rank


def normalize_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Return `axes` counted from the front, in their order; a repeated one is an error."""
    result = tuple(normalize_axis(int(axis), rank) for axis in axes)
    if len(set(result)) != len(result):
        raise ValueError(f"axes {list(result)} name an axis twice")
    return result


def axes_of(ctx: InferContext, axes: Iterable[Dim], rank: int) -> tuple[int, ...]:
    """`normalize_axes` for shape rules: what is wrong is the model's fault."""
    try:
        return normalize_axes(ints(axes), rank)
    except (TypeError, ValueError) as error:
        ctx.fail(str(error))


def one_of(ctx: InferContext, name: str, allowed: Iterable[str]) -> None:
    """Hold a text attribute to the words that there are."""
    words = list(allowed)
    if ctx.attributes[name] not in words:
        ctx.fail(f"{name} must be one of {', '.join(words)}, got {ctx.attributes[name]!r}")


def int_value(dim: Dim | None) -> int | None:
    """Return the number that a dim already is, or None."""
    return None if dim is None or isinstance(dim, SymDim) else int(dim)


def merged(x: Array, axis: int) -> Array:
    """Return `x` with the axes from `axis` on as one; numpy's -1 cannot tell its size of none."""
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))


def ints(values: Any) -> tuple[int, ...]:
    """Read a small integer tensor (of either array library) or a sequence as Python numbers."""
    flat = values.reshape(-1).tolist() if hasattr(values, "tolist") else values
    return tuple(int(v) for v in flat)


def static_ints(values: Sequence[Dim] | None) -> tuple[int, ...] | None:
    """Return known shape values as numbers, or None when unknown or symbolic."""
    if values is None or any(isinstance(v, SymDim) for v in values):
        return None
    return tuple(int(v) for v in values)  # type: ignore[arg-type]  # no SymDim is left


def check_size(ctx: ComputeContext, shape: Sequence[int], dtype: Any) -> None:
    """Raise `ResourceLimit` before an array is allocated that a run may not have."""
    need = math.prod(shape) * ctx.xp.dtype(dtype).itemsize
    limit = ctx.limits.effective_run_bytes
    if need > limit:
        where = f"node {ctx.node.label!r} ({ctx.node.op})"
        raise ResourceLimit(where, f"{need} bytes", f"run_bytes={limit}")


def widen(xp: Any, x: Array) -> Array:
    """Return `x` as it computes: narrow floats as float32, everything else as it is."""
    if x.dtype.kind == "f" and x.dtype.itemsize >= 4:
        return x
    return x.astype(xp.float32) if DType.from_numpy(x.dtype).is_narrow_float else x


def precise(xp: Any, x: Array) -> Array:
    """Return `x` as sums and exponentials over it are computed.

    With numpy in float64, rounded once at the end: the reference is what others are held to, and
    what rounds to bytes next must not hang on the order of a sum. Elsewhere as `widen` has it, for
    float64 is a small part of a GPU's speed.
    """
    wide = widen(xp, x)
    return wide.astype(np.float64) if xp is np and wide.dtype == np.float32 else wide


def narrow(x: Array, dtype: Any) -> Array:
    """Return `x` in `dtype`, without a copy when it already is."""
    return x if x.dtype == dtype else x.astype(dtype)
