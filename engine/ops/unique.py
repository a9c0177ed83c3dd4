"""Unique: the distinct elements of a tensor, or its distinct slices along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.dtypes import DType
from engine.ir.types import TensorType, element_count
from engine.ops.common import Array, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator


@operator("Unique", since=(11, 28))
class Unique:
    """Distinct values, where each came first, which one every element is, and how many there are.

    Sorted, or in the order in which they came. How many there are decides about every row, so items
    of a batch never stay apart.
    """

    attributes = {"axis": None, "sorted": 1}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One size that only running can tell, and the size of what was looked through."""
        x, axis, count = ctx.type(0), ctx.attributes["axis"], ctx.fresh_dim("unique")
        if axis is None:
            values = x.with_shape((count,))
            looked_at = ctx.fresh_dim() if x.shape is None else element_count(x.shape)
        elif x.shape is None:
            values, looked_at = x, ctx.fresh_dim()
        else:
            axis = ctx.normal_axis(axis, len(x.shape))
            looked_at = x.shape[axis]
            values = x.with_shape((*x.shape[:axis], count, *x.shape[axis + 1 :]))
        index = TensorType(DType.INT64, (count,))
        return [values, index, index.with_shape((looked_at,)), index][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Slices are compared by the numbers of their values, so that any type will do."""
        xp = ctx.xp
        named = ctx.attributes["axis"]
        axis = 0 if named is None else normalize_axis(int(named), x.ndim)
        data = x.reshape(-1) if named is None else x
        keys = widen(xp, data).reshape(-1)  # bfloat16 is not sorted where something is no number
        codes = xp.unique(keys, return_inverse=True)[1].reshape(data.shape)
        rest = math.prod(data.shape[:axis] + data.shape[axis + 1 :])
        lines = xp.moveaxis(codes, axis, 0).reshape(data.shape[axis], rest)
        first, inverse, counts = _distinct(ctx, lines)
        if not ctx.attributes["sorted"]:
            order = xp.argsort(first)
            place = xp.empty_like(order)
            place[order] = xp.arange(order.size)
            first, inverse, counts = first[order], place[inverse], counts[order]
        values = xp.take(data, first, axis=axis)
        indices = [each.astype(xp.int64) for each in (first, inverse, counts)]
        return [xp.asarray(values, dtype=x.dtype), *indices][: ctx.n_outputs]


def _distinct(ctx: ComputeContext, lines: Array) -> tuple[Array, Array, Array]:
    """Distinct lines of a matrix of codes, smallest first: first places, numbers, counts."""
    xp = ctx.xp
    count = lines.shape[0]
    if not lines.size:  # no lines, or lines without elements, which are all the same
        few = min(count, 1)
        return xp.zeros(few, xp.int64), xp.zeros(count, xp.int64), xp.full(few, count, xp.int64)
    order = xp.lexsort(lines.T[::-1])  # stable: of equal lines the first one leads
    ranked = lines[order]
    starts = xp.concatenate((xp.ones(1, bool), (ranked[1:] != ranked[:-1]).any(axis=1)))
    group = xp.cumsum(starts) - 1
    inverse = xp.empty_like(group)
    inverse[order] = group
    return order[starts], inverse, xp.bincount(group)
