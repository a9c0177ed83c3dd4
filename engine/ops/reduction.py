"""Reductions: an element's map, how elements combine, a finish. Also ArgMax and ArgMin."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from engine.dtypes import BOOLS, FLOATS, DType
from engine.ir import expr as e
from engine.ir.expr import Expr
from engine.ir.graph import Array
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.define_reduction import reduced_shape, reduction
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

VERSIONS = (1, 11, 13, 18)
SUMMABLE = FLOATS | {DType.INT32, DType.INT64, DType.UINT32, DType.UINT64}
ORDERED = SUMMABLE | BOOLS | {DType.INT8, DType.UINT8}


def _real(x: Expr) -> Expr:
    """Logarithms and roots of integers are computed in float64 and truncate at the end."""
    return x if x.dtype.is_float else e.cast(x, DType.FLOAT64)


def _root(total: Expr, count: Expr) -> Expr:
    return e.sqrt(total)


def _logarithm(total: Expr, count: Expr) -> Expr:
    return e.log(total)


def _mean(total: Expr, count: Expr) -> Expr:
    return total / count


def _logarithm_above_peak(total: Expr, count: Expr, peak: Expr) -> Expr:
    return e.log(total) + peak


@reduction("ReduceSum", since=(1, 11, 13), types=SUMMABLE, combine="add")
def reduce_sum(x: Expr) -> Expr:
    """The sum."""
    return x


@reduction("ReduceMean", since=VERSIONS, types=SUMMABLE, combine="add", finish=_mean)
def reduce_mean(x: Expr) -> Expr:
    """The sum over the number of elements; integers truncate."""
    return x


@reduction("ReduceProd", since=VERSIONS, types=SUMMABLE, combine="mul")
def reduce_prod(x: Expr) -> Expr:
    """The product."""
    return x


@reduction("ReduceMax", since=(1, 11, 12, 13, 18, 20), types=ORDERED, combine="max")
def reduce_max(x: Expr) -> Expr:
    """The largest; NaN if there is one."""
    return x


@reduction("ReduceMin", since=(1, 11, 12, 13, 18, 20), types=ORDERED, combine="min")
def reduce_min(x: Expr) -> Expr:
    """The smallest; NaN if there is one."""
    return x


@reduction("ReduceL1", since=VERSIONS, types=SUMMABLE, combine="add")
def reduce_l1(x: Expr) -> Expr:
    """The sum of magnitudes."""
    return e.absolute(x)


@reduction("ReduceL2", since=VERSIONS, types=SUMMABLE, combine="add", finish=_root)
def reduce_l2(x: Expr) -> Expr:
    """The square root of the sum of squares."""
    return _real(x) * _real(x)


@reduction("ReduceSumSquare", since=VERSIONS, types=SUMMABLE, combine="add")
def reduce_sum_square(x: Expr) -> Expr:
    """The sum of squares."""
    return x * x


@reduction("ReduceLogSum", since=VERSIONS, types=SUMMABLE, combine="add", finish=_logarithm)
def reduce_log_sum(x: Expr) -> Expr:
    """The logarithm of the sum."""
    return _real(x)


@reduction(
    "ReduceLogSumExp",
    since=VERSIONS,
    types=SUMMABLE,
    combine="add",
    finish=_logarithm_above_peak,
    centred=True,
)
def reduce_log_sum_exp(x: Expr, peak: Expr) -> Expr:
    """The logarithm of the sum of exponentials, the peak taken out: exp overflows early."""
    return e.exp(_real(x) - peak)


class _ArgExtremum:
    """Where the largest or the smallest element along one axis is."""

    attributes = MappingProxyType({"axis": 0, "keepdims": 1, "select_last_index": 0})

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The axis leaves, or becomes 1."""
        shape = ctx.shape(0)
        if shape is None:
            return (TensorType(DType.INT64, None),)
        axis = ctx.normal_axis(ctx.attributes["axis"], max(len(shape), 1))
        keep = bool(ctx.attributes["keepdims"])
        return (TensorType(DType.INT64, reduced_shape(shape, (axis,), keep)),)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay apart unless their axis is searched."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        searched = ctx.attributes["axis"] % rank
        gone = 0 if ctx.attributes["keepdims"] else 1
        return follow(
            ctx, lambda axis: None if axis == searched else axis - gone * (searched < axis)
        )

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """One comparison per element."""
        shape = ctx.shape(0)
        return 0 if shape is None else element_count(shape)


@operator("ArgMax", since=(1, 11, 12, 13))
class ArgMax(_ArgExtremum):
    """Position of the largest element: the first of equal ones, or the last if asked for."""

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Search along the axis."""
        return (_position(ctx, x, ctx.xp.argmax),)


@operator("ArgMin", since=(1, 11, 12, 13))
class ArgMin(_ArgExtremum):
    """Position of the smallest element: the first of equal ones, or the last if asked for."""

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Search along the axis."""
        return (_position(ctx, x, ctx.xp.argmin),)


def _position(ctx: ComputeContext, x: Array, search: Any) -> Array:
    xp, axis = ctx.xp, ctx.attributes["axis"]
    x = x if x.ndim else x.reshape(1)
    if ctx.attributes["select_last_index"]:
        found = x.shape[axis] - 1 - search(xp.flip(x, axis), axis=axis)
    else:
        found = search(x, axis=axis)
    found = xp.asarray(found, dtype=xp.int64)
    return xp.expand_dims(found, axis) if ctx.attributes["keepdims"] else found
