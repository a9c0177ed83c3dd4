"""Choosing or accumulating along an axis: TopK, NonZero, running sums and products, Compress,
ReverseSequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, ints, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState


def _other_axes(ctx: RowContext) -> Sequence[RowState]:
    """Items must not lie on the operator's axis."""
    rank = ctx.rank(0)
    if not rank:
        return ctx.mixed("its rank is unknown")
    axis = normalize_axis(int(ctx.attributes["axis"]), rank)
    return follow(ctx, lambda a: None if a == axis else a)


@operator("TopK", since=(1, 10, 11, 24))
class TopK:
    """The k largest or smallest values along an axis, and where they were."""

    attributes = {"axis": -1, "k": None, "largest": 1, "sorted": 1}
    rows = staticmethod(_other_axes)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """`k` replaces the axis."""
        x = ctx.type(0)
        if x.shape is None:
            return [x, x.with_dtype(DType.INT64)][: ctx.n_outputs]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        k: Dim = ctx.fresh_dim("k")
        if ctx.attributes["k"] is not None:
            k = int(ctx.attributes["k"])
        elif (known := ctx.value(1)) is not None:
            k = known[0]
        kind = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
        return [kind, kind.with_dtype(DType.INT64)][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, k: Array | None = None) -> Sequence[Array]:
        """Equal values keep their order: the lower index comes first; NaN is above all others."""
        xp = ctx.xp
        count = int(ctx.attributes["k"]) if k is None else ints(k)[0]
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        if not 0 <= count <= x.shape[axis]:
            raise ValueError(f"k={count} of {x.shape[axis]} values")
        lines = xp.moveaxis(x, axis, -1)
        keys = widen(xp, lines)  # sorting bfloat16 goes wrong where something is no number
        if ctx.attributes["largest"]:
            # Sorting the reversed line keeps equal values in order once it is reversed again.
            order = xp.argsort(keys[..., ::-1], axis=-1, kind="stable")[..., ::-1]
            order = x.shape[axis] - 1 - order
        else:
            order = xp.argsort(keys, axis=-1, kind="stable")
        order = order[..., :count]
        values = xp.take_along_axis(lines, order, axis=-1)
        back = (xp.moveaxis(values, -1, axis), xp.moveaxis(order, -1, axis).astype(xp.int64))
        return [xp.ascontiguousarray(each) for each in back][: ctx.n_outputs]


@operator("NonZero", since=(9, 13))
class NonZero:
    """Indices of the elements that are not zero, one column each."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """How many there are only running can tell."""
        rank = ctx.type(0).rank
        dims = (ctx.fresh_dim("rank") if rank is None else rank, ctx.fresh_dim("nonzero"))
        return [TensorType(DType.INT64, dims)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """In order of the elements."""
        if x.ndim == 0:
            return [ctx.xp.zeros((0, int(bool(x))), dtype=ctx.xp.int64)]
        return [ctx.xp.stack(ctx.xp.nonzero(x)).astype(ctx.xp.int64)]


def _running_type(ctx: InferContext) -> Sequence[TensorType]:
    """Like the input; the axis is a single number."""
    axis, shape = ctx.value(1), ctx.shape(0)
    if axis is not None and len(axis) != 1:
        ctx.fail(f"expected one axis, got {list(axis)}")
    if axis is not None and shape is not None and isinstance(axis[0], int):
        ctx.normal_axis(axis[0], len(shape))
    return [ctx.type(0)]


def _running(
    ctx: ComputeContext, x: Array, axis: Array, accumulate: Callable[..., Array], neutral: int
) -> Sequence[Array]:
    """Accumulate along an axis; narrow floats compute in float32 and round once."""
    xp, along = ctx.xp, normalize_axis(ints(axis)[0], x.ndim)
    lines = xp.moveaxis(widen(xp, x), along, -1)
    if ctx.attributes["reverse"]:
        lines = lines[..., ::-1]
    totals = accumulate(lines, axis=-1, dtype=lines.dtype)
    if ctx.attributes["exclusive"]:
        # Shift instead of taking the element out again: infinities and zeros have no way back.
        shifted = xp.full_like(totals, neutral)
        shifted[..., 1:] = totals[..., :-1]
        totals = shifted
    if ctx.attributes["reverse"]:
        totals = totals[..., ::-1]
    return [narrow(xp.ascontiguousarray(xp.moveaxis(totals, -1, along)), x.dtype)]


def _running_rows(ctx: RowContext) -> Sequence[RowState]:
    """Items must not lie on the accumulated axis, which must be fixed."""
    rank, fixed = ctx.rank(0), _constant(ctx, 1)
    if not rank or fixed is None:
        return ctx.mixed("its axis is not fixed")
    axis = normalize_axis(ints(fixed)[0], rank)
    return follow(ctx, lambda a: None if a == axis else a)


def _running_flops(ctx: InferContext) -> Dim:
    shape = ctx.shape(0)
    return 0 if shape is None else element_count(shape)


@operator("CumSum", since=(11, 14))
class CumSum:
    """Running sums along an axis, from either end, with or without the element itself."""

    attributes = {"exclusive": 0, "reverse": 0}
    infer, rows = staticmethod(_running_type), staticmethod(_running_rows)
    flops = staticmethod(_running_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, axis: Array) -> Sequence[Array]:
        """Integers wrap."""
        return _running(ctx, x, axis, ctx.xp.cumsum, 0)


@operator("CumProd", since=26)
class CumProd:
    """Running products along an axis, from either end, with or without the element itself."""

    attributes = {"exclusive": 0, "reverse": 0}
    infer, rows = staticmethod(_running_type), staticmethod(_running_rows)
    flops = staticmethod(_running_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, axis: Array) -> Sequence[Array]:
        """Integers wrap."""
        return _running(ctx, x, axis, ctx.xp.cumprod, 1)


def _constant(ctx: RowContext, i: int) -> Any:
    return ctx.constants[i] if i < len(ctx.constants) else None


@operator("Compress", since=(9, 11, 28))
class Compress:
    """The entries along an axis, or of the flattened tensor, for which a condition holds."""

    attributes = {"axis": None}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """How many there are only running can tell."""
        x, axis = ctx.type(0), ctx.attributes["axis"]
        if axis is None:
            return [x.with_shape((ctx.fresh_dim("kept"),))]
        if x.shape is None:
            return [x]
        position = ctx.normal_axis(axis, len(x.shape))
        kept = ctx.fresh_dim("kept")
        return [x.with_shape((*x.shape[:position], kept, *x.shape[position + 1 :]))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, condition: Array) -> Sequence[Array]:
        """A shorter condition drops what it does not reach."""
        axis = ctx.attributes["axis"]
        line = x.reshape(-1) if axis is None else x
        position = 0 if axis is None else normalize_axis(axis, x.ndim)
        picked = ctx.xp.nonzero(condition[: line.shape[position]])[0]
        return [ctx.xp.take(line, picked, axis=position)]


@operator("ReverseSequence", since=(10, 28))
class ReverseSequence:
    """Reverse the first entries of each sequence, as many as its length says."""

    attributes = {"batch_axis": 1, "time_axis": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, lengths: Array) -> Sequence[Array]:
        """Entries behind a sequence's length stay."""
        xp, attributes = ctx.xp, ctx.attributes
        time, batch = (normalize_axis(attributes[k], x.ndim) for k in ("time_axis", "batch_axis"))
        lines = xp.moveaxis(x, (batch, time), (0, 1))  # (B, T, ...)
        places = xp.arange(lines.shape[1])[None, :]  # (1, T)
        ends = lengths.astype(xp.int64)[:, None]
        source = xp.where(places < ends, ends - 1 - places, places)
        if source.size and (int(source.min()) < 0 or int(source.max()) >= lines.shape[1]):
            raise ValueError(f"sequence lengths must be 0 to {lines.shape[1]}")
        picked = lines[xp.arange(lines.shape[0])[:, None], source]
        return [xp.ascontiguousarray(xp.moveaxis(picked, (0, 1), (batch, time)))]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on the batch axis of the data and are the lengths' entries."""
        rank, data, lengths = ctx.rank(0), ctx.rows[0], ctx.rows[1]
        if rank is None or data is None or lengths is None:
            return ctx.mixed("its rank is unknown")
        batch = normalize_axis(ctx.attributes["batch_axis"], rank)
        agree = data.is_rows and lengths.is_rows and data.block == lengths.block
        if agree and data.axis == batch:
            return [data]
        if data.is_rows and data.axis == batch and not lengths.is_rows:
            return ctx.mixed("its lengths are not the items' own")
        time = normalize_axis(ctx.attributes["time_axis"], rank)
        return follow(ctx, lambda a: None if a in (batch, time) else a)
