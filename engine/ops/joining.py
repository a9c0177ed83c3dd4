"""Putting tensors together and taking them apart: Concat, Split, Expand, Tile, Pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import (
    Dim,
    TensorType,
    broadcast_shapes,
    ceildiv,
    floordiv,
    symbols_of,
)
from engine.ops.common import (
    Array,
    axes_of,
    check_size,
    int_value,
    ints,
    normalize_axes,
    normalize_axis,
    one_of,
)
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.windows import pad_spatial
from engine.ops.registry import operator
from engine.ops.row_rules import follow, side_inputs_problem, spread
from engine.ops.rows import SIZES, RowContext, RowState, rows_on

# The array library knows more, one of which leaves memory as it found it.
PAD_MODES = ("constant", "edge", "reflect", "wrap")


@operator("Concat", since=(1, 4, 11, 13))
class Concat:
    """Tensors one after the other along an axis."""

    attributes = {"axis": None}  # version 1 had 1 as default
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Add the dims up along the axis; the others must agree."""
        kinds = [ctx.type(i) for i in range(len(ctx.types))]
        known = [k.shape for k in kinds if k.shape is not None]
        if not known:
            return [kinds[0]]
        rank = len(known[0])
        if any(len(shape) != rank for shape in known):
            ctx.fail(f"its inputs have different ranks: {[len(s) for s in known]}")
        axis = ctx.normal_axis(Concat.axis(ctx.attributes), rank)
        total: Dim = ctx.fresh_dim("joined")
        if len(known) == len(kinds):
            total = 0
            for shape in known:
                total = total + shape[axis]
        dims = (
            total if k == axis else Concat.common(ctx, [shape[k] for shape in known])
            for k in range(rank)
        )
        return [kinds[0].with_shape(dims)]

    @staticmethod
    def axis(attributes: Any) -> int:
        """The axis as stated."""
        return 1 if attributes["axis"] is None else int(attributes["axis"])

    @staticmethod
    def common(ctx: InferContext, dims: Sequence[Dim]) -> Dim:
        """The one size that dims of different inputs must have: a number if there is one."""
        numbers = {d for d in dims if isinstance(d, int)}
        if len(numbers) > 1:
            ctx.fail(f"its inputs have sizes {sorted(numbers)} on an axis that is not joined")
        return next(iter(numbers), dims[0])

    @staticmethod
    def compute(ctx: ComputeContext, *parts: Array) -> Sequence[Array]:
        """A copy."""
        axis = normalize_axis(Concat.axis(ctx.attributes), parts[0].ndim)
        return [ctx.xp.concatenate(parts, axis=axis)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """All inputs carry their items on the same other axis."""
        rank = ctx.outputs[0].rank
        if rank is None:
            return ctx.mixed("its rank is unknown")
        states = {s for s in ctx.rows if s is not None}
        if not any(s.is_rows for s in states):
            return ctx.all_outputs(SIZES)
        state = next(s for s in states if s.is_rows)
        if len(states) > 1:
            return ctx.mixed("its inputs carry the items differently")
        if state.axis == normalize_axis(Concat.axis(ctx.attributes), rank):
            return ctx.mixed("it joins along the axis of the items")
        return ctx.all_outputs(state)


@operator("Split", since=(1, 2, 11, 13, 18))
class Split:
    """Parts of a tensor along an axis: of stated sizes, or as equal as possible."""

    attributes = {"axis": 0, "split": None, "num_outputs": None}
    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One part per output."""
        x = ctx.type(0)
        if x.shape is None:
            return [x] * ctx.n_outputs
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        stated: Sequence[Dim] | None = ctx.attributes["split"]
        if stated is None and ctx.has(1):
            stated = ctx.value(1) or [ctx.fresh_dim("part") for _ in range(ctx.n_outputs)]
        size = x.shape[axis]
        if stated is None:
            stated = Split.even(size, Split.count(ctx))
        if len(stated) != ctx.n_outputs:
            ctx.fail(f"{len(stated)} parts for {ctx.n_outputs} outputs")
        if all(isinstance(d, int) for d in (*stated, size)) and sum(stated) != size:
            ctx.fail(f"parts {list(stated)} do not add up to {size}")
        return [x.with_shape((*x.shape[:axis], part, *x.shape[axis + 1 :])) for part in stated]

    @staticmethod
    def count(ctx: InferContext | ComputeContext) -> int:
        """How many parts there are, checked before anything is built from it."""
        stated = ctx.attributes["num_outputs"]
        if stated not in (None, ctx.n_outputs):
            raise ValueError(f"num_outputs={stated}, the node names {ctx.n_outputs}")
        return ctx.n_outputs

    @staticmethod
    def even(size: Dim, count: int) -> list[Dim]:
        """Parts of equal size; the last one may be smaller."""
        part = ceildiv(size, count)
        return [part] * (count - 1) + [size - part * (count - 1)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, split: Array | None = None) -> Sequence[Array]:
        """Views."""
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        stated = ctx.attributes["split"] if split is None else split
        if stated is None:
            stated = Split.even(x.shape[axis], Split.count(ctx))
        sizes = ints(stated)
        if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0 or len(sizes) != ctx.n_outputs:
            raise ValueError(f"parts {list(sizes)} do not make up {x.shape[axis]} for the outputs")
        parts, start, lead = [], 0, (slice(None),) * axis
        for size in sizes:
            parts.append(x[(*lead, slice(start, start + size))])
            start += size
        return parts

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on another axis."""
        rank = ctx.rank(0)
        if rank is None:
            return ctx.mixed("its rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank)
        return follow(ctx, lambda a: None if a == axis else a)


@operator("Expand", since=(8, 13))
class Expand:
    """Repeat axes of size 1 until the shape is broadcast."""

    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Broadcast with the shape given by value."""
        x, target = ctx.type(0), ctx.value(1)
        if target is not None:
            return [x.with_shape(broadcast_shapes(x.shape, target))]
        wanted = ctx.shape(1)
        if wanted is not None and len(wanted) != 1:
            ctx.fail(f"the target must be a vector, got shape {list(wanted)}")
        count = int_value(wanted[0]) if wanted else None
        if x.shape is None or count is None:
            return [x.with_shape(None)]
        rank = max(count, len(x.shape))
        return [x.with_shape(ctx.fresh_dims(rank))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, shape: Array) -> Sequence[Array]:
        """A copy, so that nobody writes through shared elements."""
        target = _broadcast(x.shape, ints(shape))
        check_size(ctx, target, x.dtype)
        return [ctx.xp.broadcast_to(x, target).copy()]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay on their axis; a tensor repeated per item carries them on the new one."""
        state, kind, out = ctx.rows[0], ctx.types[0], ctx.outputs[0].shape
        if state is None or not state.is_rows:
            found = spread(ctx)
            same = state is not None and state != SIZES
            return [found] if found is not None and same else [SIZES]
        problem = side_inputs_problem(ctx, (0,), sizes=(1,))
        if problem or kind is None or kind.shape is None or out is None or ctx.batch is None:
            return ctx.mixed(problem or "a shape is unknown")
        axis = state.axis + len(out) - len(kind.shape)
        names = symbols_of(ctx.batch)
        others = [d for k, d in enumerate(out) if k != axis]
        if out[axis] != kind.shape[state.axis] or any(names & symbols_of(d) for d in others):
            return ctx.mixed("its shape depends on the items")
        return [rows_on(axis, state.block)]


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    if (
        any(x != y and 1 not in (x, y) for x, y in zip(left, right, strict=True))
        or min(right, default=0) < 0
    ):
        raise ValueError(f"{list(a)} does not broadcast with {list(b)}")
    return tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))


@operator("Tile", since=(1, 6, 13))
class Tile:
    """Copies of a tensor side by side along each axis."""

    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Multiply the dims by the repeats."""
        x = ctx.type(0)
        if x.shape is None:
            return [x]
        if ctx.version < 6:
            return [x.with_shape(ctx.fresh_dim("d") for _ in x.shape)]
        repeats = ctx.value(1) or (None,) * len(x.shape)
        if len(repeats) != len(x.shape):
            ctx.fail(f"{len(repeats)} repeats for {len(x.shape)} axes")
        return [
            x.with_shape(
                ctx.fresh_dim("d") if count is None else dim * count
                for dim, count in zip(x.shape, repeats, strict=True)
            )
        ]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, repeats: Array, axis: Array | None = None
    ) -> Sequence[Array]:
        """A copy. Version 1 repeats along one axis."""
        counts = ints(repeats)
        if axis is not None:
            along = normalize_axis(ints(axis)[0], x.ndim)
            counts = tuple(counts[0] if k == along else 1 for k in range(x.ndim))
        if len(counts) != x.ndim or min(counts, default=0) < 0:
            raise ValueError(f"repeats {list(counts)} do not fit an input of shape {x.shape}")
        check_size(ctx, [d * c for d, c in zip(x.shape, counts, strict=True)], x.dtype)
        return [ctx.xp.tile(x, counts)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' axis must not be repeated; a tensor repeated once per item carries items."""
        state = ctx.rows[0]
        if state is None or not state.is_rows:
            return [_tiled_state(ctx)]
        kind, out = ctx.types[0], ctx.outputs[0].shape
        if kind is None or kind.shape is None or out is None:
            return ctx.mixed("a shape is unknown")
        repeated = {k for k, (a, b) in enumerate(zip(kind.shape, out, strict=True)) if a != b}
        return follow(ctx, lambda a: None if a in repeated else a)


def _tiled_state(ctx: RowContext) -> RowState:
    """A tensor repeated as often per item as any other item carries items along that axis."""
    kind, found = ctx.types[0], spread(ctx)
    if kind is None or kind.shape is None or found is None or ctx.rows[0] == SIZES:
        return SIZES
    entries = kind.shape[found.axis]
    return found if floordiv(found.block, entries) * entries == found.block else SIZES


@operator("Pad", since=(1, 2, 11, 13, 18, 19, 21, 23, 24, 25))
class Pad:
    """Add a constant, the edge, the reflection or the other end around; negative pads crop."""

    attributes = {"mode": "constant", "pads": None, "paddings": None, "value": 0.0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Add begin and end to each padded dim."""
        one_of(ctx, "mode", PAD_MODES)
        x = ctx.type(0)
        if x.shape is None:
            return [x]
        stated = Pad.stated(ctx.attributes)
        pads: Sequence[Dim] | None = ctx.value(1) if stated is None else stated
        axes = range(len(x.shape)) if not ctx.has(3) else ctx.value(3)
        if axes is None or pads is None:
            return [x.with_shape(ctx.fresh_dim("padded") for _ in x.shape)]
        positions = axes_of(ctx, axes, len(x.shape))
        if len(pads) != 2 * len(positions):
            ctx.fail(f"{len(pads)} pads for {len(positions)} axes")
        dims = list(x.shape)
        for k, axis in enumerate(positions):
            dims[axis] = dims[axis] + pads[k] + pads[k + len(positions)]
        return [x.with_shape(dims)]

    @staticmethod
    def stated(attributes: Any) -> tuple[int, ...] | None:
        """Pads stated as an attribute, by either of its names."""
        pads: tuple[int, ...] | None = attributes["pads"]
        return attributes["paddings"] if pads is None else pads

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        pads: Array | None = None,
        value: Array | None = None,
        axes: Array | None = None,
    ) -> Sequence[Array]:
        """Crop first, then grow."""
        begins, ends = Pad.widths(ctx, x, pads, axes)
        shape = [d + b + e for d, b, e in zip(x.shape, begins, ends, strict=True)]
        if min(shape, default=0) < 0:
            raise ValueError(f"pads {begins} and {ends} take more than there is in {x.shape}")
        check_size(ctx, shape, x.dtype)
        fill = ctx.attributes["value"] if value is None else value.reshape(()).item()
        if value is None and x.dtype == object:
            fill = ""
        mode = ctx.attributes["mode"]
        if mode == "constant":
            return [pad_spatial(ctx.xp, x, begins, ends, fill)]
        cropped = pad_spatial(ctx.xp, x, [min(b, 0) for b in begins], [min(e, 0) for e in ends])
        width = [(max(b, 0), max(e, 0)) for b, e in zip(begins, ends, strict=True)]
        return [ctx.xp.pad(cropped, width, mode=mode)]

    @staticmethod
    def widths(
        ctx: ComputeContext, x: Array, pads: Array | None, axes: Array | None
    ) -> tuple[list[int], list[int]]:
        """Begin and end per axis."""
        flat = ints(Pad.stated(ctx.attributes) if pads is None else pads)
        positions = range(x.ndim) if axes is None else normalize_axes(ints(axes), x.ndim)
        if len(flat) != 2 * len(positions):
            raise ValueError(f"{len(flat)} pads for {len(positions)} axes")
        begins, ends = [0] * x.ndim, [0] * x.ndim
        for k, axis in enumerate(positions):
            begins[axis], ends[axis] = flat[k], flat[k + len(positions)]
        return begins, ends

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' axis must stay as it is."""
        kind, out = ctx.types[0], ctx.outputs[0].shape
        stated = Pad.stated(ctx.attributes)
        known = ctx.values[1] if len(ctx.values) > 1 else None
        pads: Sequence[Dim] | None = known if stated is None else stated
        if kind is None or kind.shape is None or out is None or pads is None:
            return ctx.mixed("its pads are unknown")
        rank = len(kind.shape)
        axes: Sequence[Any] | None = range(rank)
        if len(ctx.types) > 3 and ctx.types[3] is not None:
            axes = ctx.values[3] if len(ctx.values) > 3 else None
        if axes is None or len(pads) != 2 * len(axes):
            return ctx.mixed("the axes that it pads are unknown")
        positions = normalize_axes(axes, rank)
        count = len(positions)
        padded = {p for k, p in enumerate(positions) if pads[k] != 0 or pads[k + count] != 0}
        return follow(ctx, lambda a: None if a in padded else a)
