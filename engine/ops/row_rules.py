"""Rules for how rows travel that several structured operators share (see `engine.ops.rows`)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from engine.ir.types import Dim, Shape, element_count, floordiv, symbols_of
from engine.ops.rows import SIZES, RowContext, RowKind, RowState, rows_on

AxisMap = Callable[[int], int | None]


def follow(
    ctx: RowContext, axis_map: AxisMap, data: int = 0, sizes: Collection[int] = ()
) -> tuple[RowState, ...]:
    """Items of input `data` move to axis `axis_map(axis)` of every output; None: they meet.

    Other inputs must be the same for any batch; those in `sizes` may depend on the item count.
    """
    problem = side_inputs_problem(ctx, (data,), sizes)
    if problem:
        return ctx.mixed(problem)
    state = ctx.rows[data]
    if state is None or not state.is_rows:
        return ctx.all_outputs(SIZES)
    axis = axis_map(state.axis)
    if axis is None:
        return ctx.mixed(f"it works across axis {state.axis}, on which the items lie")
    return ctx.all_outputs(rows_on(axis, state.block, state.outer))


def side_inputs_problem(
    ctx: RowContext, data: Collection[int], sizes: Collection[int] = ()
) -> str | None:
    """Say which input beside `data` depends on the items where it must not, if any does."""
    for i, state in enumerate(ctx.rows):
        if state is None or i in data or state.kind is RowKind.SHARED:
            continue
        if state.kind is RowKind.SIZES and (i in sizes or is_same_for_any_batch(ctx, i)):
            continue
        if state.kind is RowKind.SIZES and not _any_rows(ctx):
            continue
        return f"input {i} depends on the items"
    return None


def is_same_for_any_batch(ctx: RowContext, i: int) -> bool:
    """Whether the values of input `i` are known and free of the item count."""
    values = ctx.values[i] if i < len(ctx.values) else None
    if values is None or ctx.batch is None:
        return False
    return not any(symbols_of(ctx.batch) & symbols_of(value) for value in values)


def _any_rows(ctx: RowContext) -> bool:
    return any(state is not None and state.is_rows for state in ctx.rows)


def leading(ctx: RowContext) -> tuple[RowState, ...]:
    """Items on axis 0 of input 0 are computed one by one: convolution, pooling, image operators."""
    return follow(ctx, lambda axis: 0 if axis == 0 else None)


def reshaped(ctx: RowContext, sizes: Collection[int] = ()) -> tuple[RowState, ...]:
    """Elements keep their order and only the shape changes: find where the items' axis went."""
    problem = side_inputs_problem(ctx, (0,), sizes)
    if problem:
        return ctx.mixed(problem)
    state = ctx.rows[0]
    if state is None or not state.is_rows:
        return ctx.all_outputs(SIZES)
    kind = ctx.types[0]
    before = None if kind is None else kind.shape
    after = ctx.outputs[0].shape
    if before is None or after is None:
        return ctx.mixed("a shape is unknown")
    found = reshaped_state(before, after, state, ctx.batch)
    if found is None:
        return ctx.mixed(
            f"{list(before)} -> {list(after)} does not keep the items apart on one axis"
        )
    return ctx.all_outputs(found)


def reshaped_state(
    before: Shape, after: Shape, state: RowState, batch: Dim | None = None
) -> RowState | None:
    """Where items on an axis of `before` lie in `after`, when that can be proved.

    An axis of `after` carries them if its size is the item count times whole numbers of entries
    before and behind, and what lies in front of it and behind it makes up for the rest.
    """
    axis = state.axis
    per_axis = state.block * state.outer
    count = floordiv(before[axis], per_axis) if batch is None else batch
    if count * per_axis != before[axis] or count in (0, 1):
        return None
    front = element_count(before[:axis]) * state.outer
    entries = state.block * element_count(before[axis + 1 :])
    places = [_placed(after, k, count, front, entries) for k in range(len(after))]
    found = [place for place in places if place is not None]
    return next((p for p in found if p.outer == 1), found[0] if found else None)


def _placed(after: Shape, k: int, count: Dim, front: Dim, entries: Dim) -> RowState | None:
    """The state if axis `k` can carry items with `front` elements before and `entries` in each."""
    before, behind = element_count(after[:k]), element_count(after[k + 1 :])
    outer = 0 if before == 0 else floordiv(front, before)
    block = 0 if behind == 0 else floordiv(entries, behind)
    exact = outer * before == front and block * behind == entries
    return rows_on(k, block, outer) if exact and outer * count * block == after[k] else None


def spread(ctx: RowContext) -> RowState | None:
    """The state of an output filled by repeating values that are the same for all items.

    Items lie on the one axis whose size is the item count times a number; all entries are equal.
    """
    shape = ctx.outputs[0].shape
    if shape is None or ctx.batch is None:
        return None
    names = symbols_of(ctx.batch)
    axes = [k for k, dim in enumerate(shape) if names & symbols_of(dim)]
    if len(axes) != 1:
        return None
    block = floordiv(shape[axes[0]], ctx.batch)
    if block * ctx.batch != shape[axes[0]] or names & symbols_of(block):
        return None
    return rows_on(axes[0], block)
