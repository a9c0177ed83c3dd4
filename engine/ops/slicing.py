"""Slice: ranges along axes, with bounds that may be symbolic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.ir.dim_bounds import is_not_negative
from engine.ir.types import Dim, TensorType, ceildiv, dim_max, dim_min
from engine.ops.common import Array, axes_of, ints, normalize_axes
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

BOUNDS_AS_INPUT = 10
FAR = (1 << 31) - 1  # exporters write bounds from here on for "to the end"


@operator("Slice", since=(1, 10, 11, 13))
class Slice:
    """The elements from `starts` to `ends` in `steps` along `axes`."""

    attributes = {"axes": None, "ends": None, "starts": None}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Clamp the bounds to each dim, symbolically."""
        x = ctx.type(0)
        if x.shape is None:
            return [x]
        bounds = Slice.bounds(ctx, len(x.shape))
        if bounds is None:
            sliced = Slice.axes(ctx, len(x.shape))
            return [
                x.with_shape(
                    ctx.fresh_dim("sliced") if sliced is None or k in sliced else dim
                    for k, dim in enumerate(x.shape)
                )
            ]
        return [
            x.with_shape(
                sliced_dim(ctx, dim, *bounds[k]) if k in bounds else dim
                for k, dim in enumerate(x.shape)
            )
        ]

    @staticmethod
    def axes(ctx: InferContext, rank: int) -> tuple[int, ...] | None:
        """The sliced axes, or None when only running can tell."""
        if ctx.version < BOUNDS_AS_INPUT:
            axes: Sequence[Any] | None = ctx.attributes["axes"]
            count = len(ctx.attributes["starts"] or ())
        else:
            shape = ctx.shape(1)
            count = shape[0] if shape and isinstance(shape[0], int) else rank
            if count > rank:  # a file may claim any number: nothing is laid out for it
                ctx.fail(f"{count} starts for {rank} axes")
            axes = ctx.value(3) if ctx.has(3) else None
            if ctx.has(3) and axes is None:
                return None
        return axes_of(ctx, range(count) if axes is None else axes, rank)

    @staticmethod
    def bounds(
        ctx: InferContext, rank: int
    ) -> Mapping[int, tuple[Dim | None, Dim | None, Dim | None]] | None:
        """Start, end and step per sliced axis, each None when unknown."""
        axes = Slice.axes(ctx, rank)
        if axes is None:
            return None
        unknown: Sequence[Dim | None] = (None,) * len(axes)
        ones: Sequence[Dim | None] = (1,) * len(axes)
        if ctx.version < BOUNDS_AS_INPUT:
            starts, ends, steps = ctx.attributes["starts"], ctx.attributes["ends"], ones
        else:
            starts, ends = ctx.value(1) or unknown, ctx.value(2) or unknown
            steps = (ctx.value(4) or unknown) if ctx.has(4) else ones
        if not len(starts) == len(ends) == len(steps) == len(axes):
            ctx.fail("starts, ends, axes and steps have different lengths")
        return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        starts: Array | None = None,
        ends: Array | None = None,
        axes: Array | None = None,
        steps: Array | None = None,
    ) -> Sequence[Array]:
        """A view."""
        first = ints(ctx.attributes["starts"] if starts is None else starts)
        last = ints(ctx.attributes["ends"] if ends is None else ends)
        named = ctx.attributes["axes"] if axes is None else axes
        positions = normalize_axes(range(len(first)) if named is None else ints(named), x.ndim)
        strides = (1,) * len(first) if steps is None else ints(steps)
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(positions, first, last, strides, strict=True):
            index[axis] = python_slice(start, end, step, x.shape[axis])
        return [x[tuple(index)]]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' axis must be kept whole."""
        kind, out = ctx.types[0], ctx.outputs[0].shape
        if kind is None or kind.shape is None or out is None:
            return ctx.mixed("a shape is unknown")
        sliced = _possibly_changed(ctx, len(kind.shape))
        return follow(ctx, lambda a: None if a in sliced else a)


def _possibly_changed(ctx: RowContext, rank: int) -> set[int]:
    """Axes that are named and not provably taken whole and in order."""
    attributes: Mapping[str, Any] = ctx.attributes
    values = [*ctx.values, None, None, None, None, None]
    starts: Sequence[Any] | None
    ends: Sequence[Any] | None
    axes: Sequence[Any] | None
    steps: Sequence[Any] | None
    if ctx.version < BOUNDS_AS_INPUT:
        starts, axes = attributes["starts"], attributes["axes"]
        ends, steps = attributes["ends"], (1,) * len(attributes["starts"])
    else:
        starts, ends, axes, steps = values[1], values[2], values[3], values[4]
        has_steps = len(ctx.types) > 4 and ctx.types[4] is not None
        has_axes = len(ctx.types) > 3 and ctx.types[3] is not None
        if starts is None or ends is None or (has_axes and axes is None):
            return set(range(rank))
        steps = steps if has_steps else (1,) * len(starts)
    if starts is None or ends is None or steps is None:
        return set(range(rank))
    positions = (
        range(len(starts)) if axes is None else [a % rank for a in axes if isinstance(a, int)]
    )
    return {
        axis
        for axis, start, end, step in zip(positions, starts, ends, steps, strict=True)
        if not (start == 0 and step == 1 and isinstance(end, int) and end >= FAR)
    }


def python_slice(start: int, end: int, step: int, size: int) -> slice:
    """The same range as a Python slice, for any bounds ONNX allows."""
    if step == 0:
        raise ValueError("a step of 0 never ends")
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start = min(max(start + size if start < 0 else start, max(low, 0)), high)
    end = min(max(end + size if end < 0 else end, low), high if step > 0 else size)
    if step < 0 and start < 0:  # an empty axis
        return slice(0, 0)
    # Python reads -1 as the last element; running down past the first one is written as None.
    return slice(start, None if end < 0 else end, step)


def sliced_dim(
    ctx: InferContext, dim: Dim, start: Dim | None, end: Dim | None, step: Dim | None
) -> Dim:
    """How many elements a range takes of a dim."""
    if start is None or end is None or not isinstance(step, int):
        return ctx.fresh_dim("sliced")
    if all(isinstance(v, int) for v in (dim, start, end)):
        return len(range(*_clamped(start, end, step, dim)))  # type: ignore[arg-type]  # all are int
    if step < 0:
        whole = start in (-1,) and isinstance(end, int) and end <= -FAR
        return ceildiv(dim, -step) if whole else ctx.fresh_dim("sliced")
    low, high = _clamp(start, dim), _clamp(end, dim)
    if low is None or high is None:
        return ctx.fresh_dim("sliced")
    if low == 0:
        return ceildiv(high, step)
    if high == dim and isinstance(start, int) and start < 0:
        return ceildiv(dim_min(dim, -start), step)  # the last few, or all that there are
    return ceildiv(dim_max(high - low, 0), step)


def _clamped(start: int, end: int, step: int, size: int) -> tuple[int, int, int]:
    return python_slice(start, end, step, size).indices(size)


def _clamp(bound: Dim, dim: Dim) -> Dim | None:
    """A bound counted from the front and held inside the dim; None when its sign is not known."""
    if bound == dim:
        return dim
    if isinstance(bound, int):
        if bound >= FAR:
            return dim
        return dim_max(dim + bound, 0) if bound < 0 else dim_min(bound, dim) if bound else 0
    return dim_min(bound, dim) if is_not_negative(bound) else None
