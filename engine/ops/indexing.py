"""Reading and writing elements by index: Gather, Scatter and their variants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import TensorType
from engine.ops.common import Array, int_value, narrow, normalize_axis, one_of, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.portable import UFUNCS, combine_at
from engine.ops.registry import operator
from engine.ops.row_rules import follow, side_inputs_problem
from engine.ops.rows import SIZES, RowContext, RowState


def checked_index(xp: Any, indices: Array, size: int) -> Array:
    """Indices counted from the front; outside of `[-size, size)` is an error."""
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise IndexError(f"an index is outside of [{-size}, {size})")
    return xp.where(indices < 0, indices + size, indices)


@operator("Gather", since=(1, 11, 13))
class Gather:
    """Slices of a tensor along an axis, picked by index."""

    attributes = {"axis": 0}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The indices' shape takes the place of the axis."""
        x, indices = ctx.type(0), ctx.shape(1)
        if x.shape is None or indices is None:
            return [x.with_shape(None)]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        return [x.with_shape((*x.shape[:axis], *indices, *x.shape[axis + 1 :]))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array) -> Sequence[Array]:
        """A copy."""
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        picked = checked_index(ctx.xp, indices, x.shape[axis])
        return [ctx.xp.asarray(ctx.xp.take(x, picked, axis=axis), dtype=x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on another axis of the data, or on an axis of the indices into shared data."""
        rank, index_rank = ctx.rank(0), ctx.rank(1)
        if rank is None or index_rank is None:
            return ctx.mixed("a rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank)
        state = ctx.rows[1]
        if state is not None and state.is_rows:
            return follow(ctx, lambda a: axis + a, data=1)

        def moved(a: int) -> int | None:
            if a == axis:
                return None
            return a if a < axis else a + index_rank - 1

        return follow(ctx, moved)


@operator("GatherElements", since=(11, 13))
class GatherElements:
    """Element by element: each index picks along the axis at its own place."""

    attributes = {"axis": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The indices' shape."""
        ranks = {ctx.type(i).rank for i in (0, 1)} - {None}
        if len(ranks) > 1:
            ctx.fail(f"data and indices have different ranks: {ctx.shape(0)} and {ctx.shape(1)}")
        return [ctx.type(0).with_shape(ctx.shape(1))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array) -> Sequence[Array]:
        """A copy."""
        if indices.ndim != x.ndim:
            raise ValueError(f"indices of shape {indices.shape} for data of {x.shape}")
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        picked = checked_index(ctx.xp, indices, x.shape[axis])
        index = _grid(ctx.xp, indices.shape)
        index[axis] = picked
        return [x[tuple(index)]]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Data and indices carry the items on the same axis, not the one that is indexed."""
        return _elementwise_rows(ctx, inputs=2)


def _elementwise_rows(ctx: RowContext, inputs: int) -> Sequence[RowState]:
    rank = ctx.rank(0)
    states = {s for s in ctx.rows[:inputs] if s is not None}
    if not any(s.is_rows for s in states):
        return ctx.all_outputs(SIZES)
    state = next(s for s in states if s.is_rows)
    if rank is None or len(states) > 1:
        return ctx.mixed("its inputs carry the items differently")
    if state.axis == normalize_axis(ctx.attributes["axis"], rank):
        return ctx.mixed("it indexes along the axis of the items")
    return ctx.all_outputs(state)


def _grid(xp: Any, shape: Sequence[int]) -> list[Array]:
    """Index arrays that name every place of `shape` by itself."""
    result = []
    for axis, size in enumerate(shape):
        view = [1] * len(shape)
        view[axis] = -1
        result.append(xp.arange(size).reshape(view))
    return result


def _tuples(xp: Any, x_shape: Sequence[int], indices: Array) -> tuple[Array, ...]:
    """Split index tuples (the last axis of `indices`) into one checked array per axis."""
    depth = indices.shape[-1]
    if depth > len(x_shape):
        raise ValueError(f"index tuples of {depth} for {len(x_shape)} axes")
    return tuple(checked_index(xp, indices[..., k], x_shape[k]) for k in range(depth))


@operator("GatherND", since=(11, 12, 13))
class GatherND:
    """Slices named by index tuples."""

    attributes = {"batch_dims": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The indices' leading dims, then what the tuples leave of the data."""
        x, indices, batch = ctx.type(0), ctx.shape(1), ctx.attributes["batch_dims"]
        depth = int_value(indices[-1]) if indices else None
        if x.shape is None or indices is None or depth is None:
            return [x.with_shape(None)]
        if not 0 <= batch < len(indices) or batch + depth > len(x.shape):
            ctx.fail(
                f"{batch} batch dims and index tuples of {depth} do not fit data of shape "
                f"{list(x.shape)} and indices of {list(indices)}"
            )
        return [x.with_shape((*indices[:-1], *x.shape[batch + depth :]))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array) -> Sequence[Array]:
        """A copy."""
        xp, batch = ctx.xp, int(ctx.attributes["batch_dims"])
        if not batch:
            return [x[_tuples(xp, x.shape, indices)]]
        lead = x.shape[:batch]
        if indices.shape[:batch] != lead:
            raise ValueError(f"batch dims differ: {x.shape} and {indices.shape}")
        flat = x.reshape(math.prod(lead), *x.shape[batch:])
        tuples = indices.reshape(math.prod(lead), *indices.shape[batch:])
        places = _tuples(xp, x.shape[batch:], tuples)
        first = xp.arange(math.prod(lead)).reshape(-1, *(1,) * (tuples.ndim - 2))
        picked = flat[(first, *places)]
        return [picked.reshape(*lead, *picked.shape[1:])]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on a batch axis of both, on an axis of indices into shared data, or on an axis
        of the data that is taken whole.
        """
        batch, rank = int(ctx.attributes["batch_dims"]), ctx.rank(1)
        data, picks = ctx.rows[0], ctx.rows[1]
        if rank is None or ctx.types[1] is None or ctx.types[1].shape is None:
            return ctx.mixed("a rank is unknown")
        if data is not None and data.is_rows:
            if data == picks and data.axis < batch:
                return ctx.all_outputs(data)
            depth = ctx.types[1].shape[-1]
            if isinstance(depth, int) and data.axis >= batch + depth:
                return follow(ctx, lambda a: a - depth + rank - 1 - batch)
            return ctx.mixed("its data carries items that the indices do not follow")
        return follow(ctx, lambda a: a if a < rank - 1 and batch == 0 else None, data=1)


def _reduced(
    xp: Any, target: Array, index: tuple[Array, ...], updates: Array, how: str | None
) -> None:
    """Write `updates` into `target`, combining with what is there if `how` says so."""
    if how in (None, "none"):
        target[index] = updates
        return
    if how not in UFUNCS:
        raise ValueError(f"reduction must be none, add, mul, max or min, got {how!r}")
    combine_at(xp, how, target, index, updates)


def like_data(ctx: InferContext) -> Sequence[TensorType]:
    """A scatter's result is like the data."""
    if "reduction" in ctx.attributes:
        one_of(ctx, "reduction", ("none", *UFUNCS))
    return [ctx.type(0)]


def scatter_elements(ctx: ComputeContext, x: Array, indices: Array, updates: Array) -> Array:
    """Write each update at its own place, the axis replaced by its index."""
    xp = ctx.xp
    axis = normalize_axis(ctx.attributes["axis"], x.ndim)
    if indices.shape != updates.shape or indices.ndim != x.ndim:
        raise ValueError(f"indices {indices.shape} and updates {updates.shape} for {x.shape}")
    result = xp.array(widen(xp, x), copy=True)
    index = _grid(xp, indices.shape)
    index[axis] = checked_index(xp, indices, x.shape[axis])
    places = tuple(xp.broadcast_to(i, indices.shape) for i in index)
    _reduced(xp, result, places, widen(xp, updates), ctx.attributes.get("reduction"))
    return narrow(result, x.dtype)


@operator("ScatterElements", since=(11, 13, 16, 18))
class ScatterElements:
    """A copy of the data with elements replaced, or combined, by index along an axis."""

    attributes = {"axis": 0, "reduction": "none"}
    infer = staticmethod(like_data)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array, updates: Array) -> Sequence[Array]:
        """A copy."""
        return [scatter_elements(ctx, x, indices, updates)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """All inputs carry the items on the same axis, not the one that is indexed."""
        return _elementwise_rows(ctx, inputs=3)


@operator("Scatter", since=9, until=11)
class Scatter:
    """ScatterElements by its first name."""

    attributes = {"axis": 0}
    infer, rows = staticmethod(like_data), staticmethod(ScatterElements.rows)
    compute = staticmethod(ScatterElements.compute)


@operator("ScatterND", since=(11, 13, 16, 18))
class ScatterND:
    """A copy of the data with slices named by index tuples replaced or combined."""

    attributes = {"reduction": "none"}
    infer = staticmethod(like_data)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array, updates: Array) -> Sequence[Array]:
        """A copy."""
        xp = ctx.xp
        places = _tuples(xp, x.shape, indices)
        expected = indices.shape[:-1] + x.shape[indices.shape[-1] :]
        if updates.shape != expected:
            raise ValueError(f"expected updates of shape {expected}, got {updates.shape}")
        result = xp.array(widen(xp, x), copy=True)
        _reduced(xp, result, places, widen(xp, updates), ctx.attributes["reduction"])
        return [narrow(result, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Fixed places behind a whole leading axis are not told apart yet."""
        problem = side_inputs_problem(ctx, ())
        return ctx.mixed(problem or "it writes by index") if problem else ctx.all_outputs(SIZES)
