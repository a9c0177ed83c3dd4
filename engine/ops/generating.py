"""Tensors made from shapes and numbers: Range, ConstantOfShape, EyeLike, OneHot, Trilu."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.dim_bounds import is_not_negative
from engine.ir.types import Dim, SymDim, TensorType, ceildiv, dim_max
from engine.ops.common import Array, check_size, int_value, ints, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow, side_inputs_problem, spread
from engine.ops.rows import SIZES, RowContext, RowState

COUNTABLE = 1 << 20  # elements of a range that shape arithmetic follows by value at most


@operator("Range", since=(11, 27))
class Range:
    """Numbers from `start` up to `limit` in steps of `delta`."""

    attributes = {"stash_type": 1}  # float32, as narrow floats always compute here

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As many as fit, where the bounds are known."""
        return [TensorType(ctx.dtype(0), (Range.count(ctx),))]

    @staticmethod
    def count(ctx: InferContext) -> Dim:
        """How many numbers there are."""
        fixed = [ctx.constant(i) for i in range(3)]
        if all(value is not None for value in fixed):
            return range_length(*(value.reshape(()).item() for value in fixed))  # type: ignore[union-attr]
        known = [ctx.value(i) for i in range(3)]
        if any(value is None or len(value) != 1 for value in known):
            return ctx.fresh_dim("range")
        start, limit, delta = (value[0] for value in known if value is not None)
        if not isinstance(delta, int) or delta <= 0:
            return ctx.fresh_dim("range")
        count = ceildiv(limit - start, delta)
        return count if is_not_negative(count) else dim_max(count, 0)

    @staticmethod
    def compute(ctx: ComputeContext, start: Array, limit: Array, delta: Array) -> Sequence[Array]:
        """Each number is computed from its place, so that errors do not add up."""
        xp = ctx.xp
        first, last, step = (value.reshape(()).item() for value in (start, limit, delta))
        count = range_length(first, last, step)
        check_size(ctx, (count,), start.dtype)
        wide = xp.int64 if start.dtype.kind in "iu" else widen(xp, start).dtype
        steps = xp.arange(count, dtype=wide)
        return [(steps * step + first).astype(start.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Its length may depend on how many items there are, never on what is in them."""
        if any(state is not None and state.is_rows for state in ctx.rows):
            return ctx.mixed("its bounds come from the items")
        return [SIZES]


def range_length(start: float, limit: float, delta: float) -> int:
    """How many numbers a range has."""
    if delta == 0:
        raise ValueError("a step of 0 never ends")
    if isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int):
        return max(-(-(limit - start) // delta), 0)
    return max(ceil((limit - start) / delta), 0)


@operator("ConstantOfShape", since=(9, 20, 21, 23, 24, 25))
class ConstantOfShape:
    """A tensor of one value, in the shape given by value."""

    attributes = {"value": None}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The shape where it is known, its rank otherwise."""
        dtype = DType.from_numpy(_fill(ctx.attributes).dtype)
        shape = ctx.value(0)
        if shape is not None:
            return [TensorType(dtype, tuple(shape))]
        wanted = ctx.shape(0)
        rank = int_value(wanted[0]) if wanted else None
        dims = None if rank is None else ctx.fresh_dims(rank)
        return [TensorType(dtype, dims)]

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Small integer fills are followed by value."""
        fill, shape = _fill(ctx.attributes), ctx.value(0)
        if shape is None or any(isinstance(d, SymDim) for d in shape):
            return [None]
        sizes = ints(shape)
        if fill.dtype.kind not in "iu" or np.prod(sizes, dtype=float) > COUNTABLE:
            return [None]
        return [np.full(sizes, int(fill), dtype=object)]

    @staticmethod
    def compute(ctx: ComputeContext, shape: Array) -> Sequence[Array]:
        """Checked against the limit first."""
        fill, sizes = _fill(ctx.attributes), ints(shape)
        if min(sizes, default=0) < 0:
            raise ValueError(f"a shape cannot be {list(sizes)}")
        check_size(ctx, sizes, fill.dtype)
        return [ctx.xp.full(sizes, fill.item(), dtype=fill.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """One entry per item carries items: all entries are equal."""
        if any(state is not None and state.is_rows for state in ctx.rows):
            return ctx.mixed("its shape comes from the items")
        found = spread(ctx)
        return [SIZES if found is None else found]


def _fill(attributes: Any) -> np.ndarray:
    value = attributes["value"]
    return np.zeros((), np.float32) if value is None else np.asarray(value).reshape(())


@operator("EyeLike", since=(9, 22))
class EyeLike:
    """Ones on a diagonal, in the shape of the input."""

    attributes = {"dtype": None, "k": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The stated type, or the input's."""
        number = ctx.attributes["dtype"]
        return [ctx.type(0) if number is None else ctx.type(0).with_dtype(DType.from_onnx(number))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Only the shape of the input matters."""
        number = ctx.attributes["dtype"]
        kind = x.dtype if number is None else DType.from_onnx(number).numpy
        rows, columns = x.shape
        return [ctx.xp.eye(rows, columns, k=int(ctx.attributes["k"])).astype(kind)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Its size depends on how many items there are, and so do its rows."""
        return [SIZES]


@operator("OneHot", since=(9, 11))
class OneHot:
    """One `on` value per index along a new axis, `off` elsewhere."""

    attributes = {"axis": -1}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Insert `depth` at the axis."""
        dtype, shape = ctx.dtype(2), ctx.shape(0)
        if shape is None:
            return [TensorType(dtype, None)]
        fixed, known = ctx.constant(1), ctx.value(1)
        depth: Dim = ctx.fresh_dim("depth")
        if fixed is not None:
            depth = int(fixed.reshape(-1)[0])
        elif known is not None:
            depth = known[0]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(shape) + 1)
        return [TensorType(dtype, (*shape[:axis], depth, *shape[axis:]))]

    @staticmethod
    def compute(
        ctx: ComputeContext, indices: Array, depth: Array, values: Array
    ) -> Sequence[Array]:
        """Indices outside of `[-depth, depth)` light nothing."""
        xp, count = ctx.xp, int(depth.reshape(-1)[0])
        axis = normalize_axis(ctx.attributes["axis"], indices.ndim + 1)
        check_size(ctx, (*indices.shape, max(count, 0)), values.dtype)
        wanted = indices.astype(xp.int64)
        wanted = xp.expand_dims(xp.where(wanted < 0, wanted + count, wanted), axis)
        shape = [1] * (indices.ndim + 1)
        shape[axis] = -1
        lit = xp.arange(count, dtype=xp.int64).reshape(shape) == wanted
        return [xp.where(lit, values[1], values[0])]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on an axis of the indices, which the new axis may shift."""
        rank = ctx.rank(0)
        if rank is None:
            return ctx.mixed("its rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank + 1)
        return follow(ctx, lambda a: a if a < axis else a + 1)


@operator("Trilu", since=14)
class Trilu:
    """The upper or lower triangle of matrices, zero elsewhere."""

    attributes = {"upper": 1}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, k: Array | None = None) -> Sequence[Array]:
        """The diagonal `k` bounds the triangle; far ones are cut to the matrix."""
        xp = ctx.xp
        rows, columns = x.shape[-2:]
        offset = 0 if k is None else int(k.reshape(-1)[0])
        distance = xp.arange(columns)[None, :] - xp.arange(rows)[:, None]
        keep = distance >= offset if ctx.attributes["upper"] else distance <= offset
        return [xp.where(keep, x, xp.zeros((), dtype=x.dtype))]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie in front of the matrices."""
        rank = ctx.rank(0)
        if rank is None or side_inputs_problem(ctx, (0,)):
            return ctx.mixed("its rank is unknown, or the diagonal depends on the items")
        return follow(ctx, lambda a: a if a < rank - 2 else None)
