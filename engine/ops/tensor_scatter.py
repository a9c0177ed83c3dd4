"""TensorScatter: new keys or values written into a cache that does not grow."""

from __future__ import annotations

from collections.abc import Sequence

from engine.ir.types import TensorType
from engine.ops.common import Array, int_value, normalize_axis
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.rows import SIZES, RowContext, RowState

MODES = ("linear", "circular")


@operator("TensorScatter", since=24)
class TensorScatter:
    """A copy of a cache with a run of entries replaced, from a place of each sample's own on."""

    attributes = {"axis": -2, "mode": "linear"}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the cache; the update has its shape but along the axis."""
        cache, update = ctx.type(0), ctx.shape(1)
        if ctx.attributes["mode"] not in MODES:
            ctx.fail(f"mode must be one of {', '.join(MODES)}, got {ctx.attributes['mode']!r}")
        if cache.shape is None:
            return [cache]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(cache.shape))
        if axis == 0:
            ctx.fail("axis 0 is the samples' own, entries are written along another")
        if update is not None:
            pairs = enumerate(zip(cache.shape, update, strict=False))
            numbers = [(a, b) for k, (a, b) in pairs if k != axis and int_value(a - b) is not None]
            if len(update) != len(cache.shape) or any(a != b for a, b in numbers):
                ctx.fail(f"an update of {list(update)} does not fit a cache of {list(cache.shape)}")
        return [cache]

    @staticmethod
    def compute(
        ctx: ComputeContext, cache: Array, update: Array, starts: Array | None = None
    ) -> Sequence[Array]:
        """A copy, whose entries move with the samples."""
        xp = ctx.xp
        axis = normalize_axis(int(ctx.attributes["axis"]), cache.ndim)
        size, count = cache.shape[axis], update.shape[axis]
        if (*cache.shape[:axis], count, *cache.shape[axis + 1 :]) != update.shape:
            raise ValueError(f"an update of {update.shape} does not fit a cache of {cache.shape}")
        if starts is None:
            starts = xp.zeros(cache.shape[0], dtype=xp.int64)
        if starts.shape != cache.shape[:1]:
            raise ValueError(f"{starts.shape} places to start for {cache.shape[0]} samples")
        result = xp.array(cache, copy=True)
        if not update.size:
            return [result]
        circular = ctx.attributes["mode"] == "circular"
        low, high = int(starts.min()), int(starts.max())
        if count > size or low < 0 or (high + count > size and not circular):
            raise IndexError(f"{count} entries from {low}..{high} on do not fit {size} places")
        places = (starts[:, None] + xp.arange(count)[None]) % size
        samples = xp.arange(cache.shape[0])[:, None]
        xp.moveaxis(result, axis, 1)[samples, places] = xp.moveaxis(update, axis, 1)
        return [result]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Cache, update and starts carry the items on axis 0."""
        states = {s for s in ctx.rows if s is not None}
        if not any(s.is_rows for s in states):
            return ctx.all_outputs(SIZES)
        first = next(s for s in states if s.is_rows)
        if len(states) > 1 or first.axis != 0:
            return ctx.mixed("its inputs carry the items differently")
        return [first]
