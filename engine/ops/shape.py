"""Operators about shapes: asking for one, and the same elements in another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, Shape, TensorType, element_count, floordiv
from engine.ir.value_types import ValueType
from engine.ops.common import Array, axes_of, int_value, ints, normalize_axes
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow, reshaped
from engine.ops.rows import SHARED, SIZES, RowContext, RowState


def _int64(values: Sequence[object]) -> np.ndarray:
    return np.array(values, dtype=object)


@operator("Shape", since=(1, 13, 15, 19, 21, 23, 24, 25))
class ShapeOf:
    """The dims of a tensor, from `start` to `end`."""

    attributes = {"start": 0, "end": None}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """A vector as long as the rank, or a part of it."""
        dims = ShapeOf.dims(ctx)
        return [TensorType(DType.INT64, (ctx.fresh_dim("rank") if dims is None else len(dims),))]

    @staticmethod
    def dims(ctx: InferContext) -> Shape | None:
        """The dims asked for."""
        shape = ctx.shape(0)
        return None if shape is None else shape[_part(ctx.attributes, len(shape))]

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Dims are known by value, as far as the shape is."""
        dims = ShapeOf.dims(ctx)
        return [None if dims is None else _int64(dims)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A small tensor on the device."""
        return [ctx.xp.asarray(x.shape[_part(ctx.attributes, x.ndim)], dtype=ctx.xp.int64)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """It tells how many items there are, if it tells the dim that carries them."""
        state, rank = ctx.rows[0], ctx.rank(0)
        if state is None or not state.is_rows or rank is None:
            return [SIZES]
        return [SIZES if state.axis in range(rank)[_part(ctx.attributes, rank)] else SHARED]


def _part(attributes: Mapping[str, Any], rank: int) -> slice:
    start, end = attributes["start"], attributes["end"]
    low = min(max(start + rank if start < 0 else start, 0), rank)
    high = rank if end is None else min(max(end + rank if end < 0 else end, 0), rank)
    return slice(low, max(low, high))


@operator("Size", since=(1, 13, 19, 21, 23, 24, 25))
class Size:
    """The number of elements, as a scalar."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """An int64 scalar."""
        return [TensorType(DType.INT64, ())]

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """The product of the dims."""
        shape = ctx.shape(0)
        return [None if shape is None else np.array(element_count(shape), dtype=object)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A small tensor on the device."""
        return [ctx.xp.asarray(x.size, dtype=ctx.xp.int64)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """It depends on how many items there are."""
        return [SIZES]


@operator("Reshape", since=(1, 5, 13, 14, 19, 21, 23, 24, 25))
class Reshape:
    """The same elements in another shape; 0 copies a dim, -1 takes what is left."""

    attributes = {"allowzero": 0, "shape": None, "consumed_inputs": ()}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Solve 0 and -1 symbolically."""
        x = ctx.type(0)
        target: Sequence[Dim] | None = ctx.attributes["shape"]
        if target is None:
            target = ctx.value(1)
        if target is not None:
            return [x.with_shape(reshape_shape(ctx, x.shape, tuple(target)))]
        wanted = ctx.shape(1)
        if wanted is not None and len(wanted) != 1:
            ctx.fail(f"the target must be a vector, got shape {list(wanted)}")
        rank = int_value(wanted[0]) if wanted else None
        if rank is None:
            return [x.with_shape(None)]
        return [x.with_shape(ctx.fresh_dims(rank))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, shape: Array | None = None) -> Sequence[Array]:
        """A view where the layout allows."""
        target = list(ints(ctx.attributes["shape"] if shape is None else shape))
        copied = set()
        if not ctx.attributes["allowzero"]:
            copied = {k for k, dim in enumerate(target) if dim == 0}
            target = [x.shape[k] if k in copied else dim for k, dim in enumerate(target)]
        if -1 in target and x.size == 0:
            # No element tells how large the rest is; the dims that are not copied do.
            left = math.prod(d for k, d in enumerate(x.shape) if k not in copied)
            rest = math.prod(d for k, d in enumerate(target) if k not in copied and d != -1)
            target[target.index(-1)] = left // rest if rest else 0
        return [x.reshape(target)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Find the axis that keeps the items apart."""
        return reshaped(ctx, sizes=(1,))


def reshape_shape(ctx: InferContext, shape: Shape | None, target: Shape) -> Shape:
    """The shape that Reshape's target comes to."""
    result: list[Dim] = []
    hole: int | None = None
    for k, dim in enumerate(target):
        if isinstance(dim, int) and dim == -1:
            if hole is not None:
                ctx.fail(f"the target {list(target)} has more than one -1")
            hole = k
            result.append(1)
        elif isinstance(dim, int) and dim == 0 and not ctx.attributes.get("allowzero", 0):
            if shape is not None and k >= len(shape):
                ctx.fail(f"the target {list(target)} copies dim {k}, the input has {len(shape)}")
            result.append(ctx.fresh_dim("d") if shape is None else shape[k])
        else:
            result.append(dim)
    if shape is None:
        if hole is not None:
            result[hole] = ctx.fresh_dim("d")
        return tuple(result)
    total, rest = element_count(shape), element_count(tuple(result))
    if hole is not None:
        result[hole] = _quotient(ctx, shape, result)
        rest = element_count(tuple(result))
    if isinstance(total, int) and isinstance(rest, int) and total != rest:
        ctx.fail(f"{list(shape)} has {total} elements, the target {list(target)} does not")
    return tuple(result)


def _quotient(ctx: InferContext, shape: Shape, divisors: Sequence[Dim]) -> Dim:
    """What is left for the -1; dims on both sides go first, so that symbols and zeros cancel."""
    left, rest = list(shape), []
    for dim in divisors:
        if dim in left:
            left.remove(dim)
        else:
            rest.append(dim)
    divisor = element_count(tuple(rest))
    return ctx.fresh_dim("d") if divisor == 0 else floordiv(element_count(tuple(left)), divisor)


@operator("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25))
class Flatten:
    """A matrix: the axes in front of `axis`, and the rest."""

    attributes = {"axis": 1}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Multiply the dims on either side."""
        x = ctx.type(0)
        if x.shape is None:
            return [x.with_shape((ctx.fresh_dim("rows"), ctx.fresh_dim("columns")))]
        axis = Flatten.position(ctx.attributes["axis"], len(x.shape))
        return [x.with_shape((element_count(x.shape[:axis]), element_count(x.shape[axis:])))]

    @staticmethod
    def position(axis: int, rank: int) -> int:
        """`axis` from the front; the rank itself is allowed."""
        if not -rank <= axis <= rank:
            raise ValueError(f"axis {axis} is outside of the {rank} axes there are")
        return axis + rank if axis < 0 else axis

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A view where the layout allows."""
        axis = Flatten.position(ctx.attributes["axis"], x.ndim)
        rows = int(np.prod(x.shape[:axis], dtype=np.int64))
        columns = int(np.prod(x.shape[axis:], dtype=np.int64))
        return [x.reshape(rows, columns)]

    rows = staticmethod(reshaped)


@operator("Squeeze", since=(1, 11, 13, 21, 23, 24, 25))
class Squeeze:
    """Drop axes of size 1: those named, or all of them."""

    attributes = {"axes": None}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Which dims go must be known; without axes every dim must be."""
        x = ctx.type(0)
        axes = _named_axes(ctx)
        if x.shape is None or (ctx.has(1) and axes is None):
            return [x.with_shape(None)]
        rank = len(x.shape)
        if axes is not None:
            drop = set(axes_of(ctx, axes, rank))
        elif x.is_static:
            drop = {k for k, dim in enumerate(x.shape) if dim == 1}
        else:
            return [x.with_shape(None)]
        wrong = [d for k, d in enumerate(x.shape) if k in drop and isinstance(d, int) and d != 1]
        if wrong:
            ctx.fail(f"cannot drop a dim of size {wrong[0]} of {list(x.shape)}")
        return [x.with_shape(d for k, d in enumerate(x.shape) if k not in drop)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, axes: Array | None = None) -> Sequence[Array]:
        """A view."""
        named = ctx.attributes["axes"] if axes is None else axes
        return [x.squeeze(None if named is None else normalize_axes(ints(named), x.ndim))]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' axis stays; whatever is dropped is 1 when it runs, even if that is not proved
        (`x[:, -1:]` of an open length).
        """
        rank, named = ctx.rank(0), ctx.attributes["axes"]
        if named is None and len(ctx.values) > 1:
            named = ctx.values[1]
        if rank is None or named is None or not all(isinstance(a, int) for a in named):
            return reshaped(ctx)
        dropped = {axis % rank for axis in named}
        return follow(ctx, lambda a: None if a in dropped else a - sum(d < a for d in dropped))


@operator("Unsqueeze", since=(1, 11, 13, 21, 23, 24, 25))
class Unsqueeze:
    """Insert axes of size 1 where `axes` says, counted in the result."""

    attributes = {"axes": None}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Put a 1 at each position."""
        x = ctx.type(0)
        axes = _named_axes(ctx)
        if x.shape is None or axes is None:
            return [x.with_shape(None)]
        positions = set(axes_of(ctx, axes, len(x.shape) + len(axes)))
        dims = iter(x.shape)
        rank = len(x.shape) + len(axes)
        return [x.with_shape(1 if k in positions else next(dims) for k in range(rank))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, axes: Array | None = None) -> Sequence[Array]:
        """A view."""
        named = ints(ctx.attributes["axes"] if axes is None else axes)
        positions = set(normalize_axes(named, x.ndim + len(named)))
        dims = iter(x.shape)
        rank = x.ndim + len(named)
        return [x.reshape([1 if k in positions else next(dims) for k in range(rank)])]

    rows = staticmethod(reshaped)


def _named_axes(ctx: InferContext) -> tuple[int, ...] | None:
    """Axes from the attribute or from the input, when fixed."""
    if ctx.attributes["axes"] is not None:
        return tuple(ctx.attributes["axes"])
    fixed = ctx.constant(1)
    return None if fixed is None else ints(fixed)


@operator("Transpose", since=(1, 13, 21, 23, 24, 25))
class Transpose:
    """Axes in another order; reversed when `perm` is not given."""

    attributes = {"perm": None}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Reorder the dims."""
        x = ctx.type(0)
        if x.shape is None:
            perm = ctx.attributes["perm"]
            return [x if perm is None else x.with_shape(ctx.fresh_dims(len(perm)))]
        order = permutation(ctx.attributes["perm"], len(x.shape))
        return [x.with_shape(x.shape[k] for k in order)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A view."""
        return [x.transpose(permutation(ctx.attributes["perm"], x.ndim))]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items move with their axis."""
        rank = ctx.rank(0)
        if rank is None:
            return ctx.mixed("its rank is unknown")
        order = permutation(ctx.attributes["perm"], rank)
        return follow(ctx, order.index)


def permutation(perm: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The order of axes, checked."""
    order = tuple(reversed(range(rank))) if perm is None else tuple(int(p) for p in perm)
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm {list(order)} is no order of {rank} axes")
    return order


@operator("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))
class Identity:
    """The input itself."""

    moves = True
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """Like the input, of whatever kind."""
        return [ctx.value_type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """No copy."""
        return [x]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are."""
        return follow(ctx, lambda axis: axis)
