"""Attention over static caches that rows of a running generation share: what the step graph of an
encoder-decoder is made of (`engine.passes.step_graph`).

A row is one sequence under construction; its token is the only one of a step. Rows may be at
different positions. Caches hold, per cache row and position, keys or values of all heads side by
side. A row finds the cache row of each earlier position in `history`, so that a beam search
reorders its rows by rewriting numbers and no cache is ever copied.

Sizes in the comments: N rows of this step, R cache rows, T positions, S sources, M positions of a
source, W = heads * D numbers per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import FLOATS, DType
from engine.ir.types import Dim, Shape, TensorType
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.ops.registry import REQUIRED, operator

INDICES = (DType.INT32, DType.INT64)


@operator("AppendCache", since=FUSED_VERSION, domain=FUSED_DOMAIN)
class AppendCache:
    """`cache[slot[n], position[n]] = new[n]` for every row n.

    Inputs: cache (R, T, W), new (N, 1, W), slot (N), position (N). No two rows may have one slot.
    Where output and cache share memory nothing else is touched.
    """

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the cache."""
        cache, new = _shape(ctx, 0, 3, "cache"), _shape(ctx, 1, 3, "new")
        if ctx.dtype(0) is not ctx.dtype(1):
            ctx.fail(f"a cache of {ctx.dtype(0)}, new entries of {ctx.dtype(1)}")
        if cache and new:
            _same(ctx, "width of cache and new entries", cache[2], new[2])
            _same(ctx, "new entries per row, and 1", new[1], 1)
        _check_indices(ctx, 2, 3)
        return [ctx.type(0)]

    @staticmethod
    def compute(
        ctx: ComputeContext, cache: Array, new: Array, slot: Array, position: Array
    ) -> Sequence[Array]:
        """A copy with the entries replaced."""
        _within(slot, cache.shape[0], "slot")
        _within(position, cache.shape[1], "position")
        result = ctx.xp.array(cache, copy=True)
        result[slot, position] = new[:, 0]  # (N, W)
        return [result]


@operator("IndexedAttention", since=FUSED_VERSION, domain=FUSED_DOMAIN)
class IndexedAttention:
    """Each row's query over its own history: the keys of positions up to its own.

    Inputs: q (N, 1, W), keys and values (R, T, W), history (R, T) of cache rows, slot (N),
    position (N), and optionally a bias (N or 1, heads or 1, 1, T or more) that is added to the
    scaled scores. Row n sees `keys[history[slot[n], t], t]` for every t from 0 to `position[n]`.
    """

    attributes = {"heads": REQUIRED, "scale": 1.0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the queries, in the width of the values."""
        q, keys = _shape(ctx, 0, 3, "q"), _shape(ctx, 1, 3, "keys")
        values, history = _shape(ctx, 2, 3, "values"), _shape(ctx, 3, 2, "history")
        _check_attention(ctx, q, keys, values)
        if keys and history:
            _same(ctx, "positions of keys and history", keys[1], history[1])
        _check_indices(ctx, 3, 4, 5)
        if ctx.has(6):
            bias = _shape(ctx, 6, 4, "bias")
            if bias and keys:
                most, there = int_value(keys[1]), int_value(bias[3])
                if most is not None and there is not None and there < most:
                    ctx.fail(f"a bias for {there} positions, there are {most}")
        return [_result(ctx, q, values)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        q: Array,
        keys: Array,
        values: Array,
        history: Array,
        slot: Array,
        position: Array,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Gathers positions up to the latest of all rows; later ones than a row's own are out."""
        xp = ctx.xp
        _within(slot, history.shape[0], "slot")
        _within(position, history.shape[1], "position")
        count = int(position.max()) + 1 if position.size else 0
        places = xp.arange(count)
        seen = places[None] <= position[:, None]  # (N, L)
        # Beyond a row's position the history may hold anything.
        past = xp.where(seen, history[slot, :count], 0)  # (N, L)
        _within(past, keys.shape[0], "history")
        check_size(ctx, (*past.shape, max(keys.shape[2], values.shape[2])), xp.float32)
        if bias is not None and bias.shape[3] < history.shape[1]:
            raise ValueError(f"a bias of {bias.shape} for {history.shape[1]} positions")
        extra = None if bias is None else widen(xp, bias)[..., :count]
        y = _attend(ctx, q, keys[past, places[None]], values[past, places[None]], seen, extra)
        return [y]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two products and a softmax over as many positions as there may be."""
        return _flops(ctx)


@operator("SourceAttention", since=FUSED_VERSION, domain=FUSED_DOMAIN)
class SourceAttention:
    """Each row's query over the keys of one source, of which the first `source_length` exist.

    Inputs: q (N, 1, W), keys and values (S, M, W), source (N), source_length (S). A source of no
    tokens gives zeros.
    """

    attributes = {"heads": REQUIRED, "scale": 1.0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the queries, in the width of the values."""
        q, keys = _shape(ctx, 0, 3, "q"), _shape(ctx, 1, 3, "keys")
        values, lengths = _shape(ctx, 2, 3, "values"), _shape(ctx, 4, 1, "source_length")
        _check_attention(ctx, q, keys, values)
        if keys and lengths:
            _same(ctx, "sources of keys and lengths", keys[0], lengths[0])
        _check_indices(ctx, 3, 4)
        return [_result(ctx, q, values)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        q: Array,
        keys: Array,
        values: Array,
        source: Array,
        source_length: Array,
    ) -> Sequence[Array]:
        """Gathers as many positions as the longest of these sources has."""
        xp = ctx.xp
        _within(source, keys.shape[0], "source")
        _within(source_length, keys.shape[1] + 1, "source_length")
        lengths = source_length[source]  # (N,)
        count = int(lengths.max()) if lengths.size else 0
        check_size(ctx, (q.shape[0], count, max(keys.shape[2], values.shape[2])), xp.float32)
        seen = xp.arange(count)[None] < lengths[:, None]  # (N, L)
        return [_attend(ctx, q, keys[source, :count], values[source, :count], seen, None)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two products and a softmax over as many positions as a source may have."""
        return _flops(ctx)


def _attend(
    ctx: ComputeContext, q: Array, keys: Array, values: Array, seen: Array, bias: Array | None
) -> Array:
    """Return (N, 1, W) from q (N, 1, W), keys and values (N, L, W) and which are seen (N, L)."""
    xp, heads = ctx.xp, int(ctx.attributes["heads"])
    n, count = seen.shape
    if q.shape[2] != keys.shape[2] or q.shape[2] % heads or values.shape[2] % heads:
        raise ValueError(
            f"queries {q.shape}, keys {keys.shape} and values {values.shape} do not fit together "
            f"in {heads} heads"
        )
    # (N, H, 1, D), (N, H, D, L), (N, H, L, D)
    query = widen(xp, q).reshape(n, heads, 1, q.shape[2] // heads)
    split = widen(xp, keys).reshape(n, count, heads, q.shape[2] // heads).transpose(0, 2, 3, 1)
    taken = widen(xp, values).reshape(n, count, heads, values.shape[2] // heads)
    scores = xp.matmul(query, split) * xp.float32(ctx.attributes["scale"])  # (N, H, 1, L)
    if bias is not None:
        scores = scores + bias
    scores = xp.where(seen[:, None, None], scores, xp.float32(-xp.inf))
    top = scores.max(axis=-1, keepdims=True, initial=-xp.inf)
    weights = xp.exp(scores - xp.where(xp.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / xp.where(total == 0, 1, total)
    y = xp.matmul(weights, taken.transpose(0, 2, 1, 3))  # (N, H, 1, D)
    return narrow(y.reshape(n, 1, values.shape[2]), q.dtype)


def _check_attention(
    ctx: InferContext, q: Shape | None, keys: Shape | None, values: Shape | None
) -> None:
    heads = ctx.attributes["heads"]
    if not isinstance(heads, int) or heads < 1:
        ctx.fail(f"heads must be 1 or more, got {heads!r}")
    kinds = {ctx.dtype(i) for i in range(3)}
    if len(kinds) > 1 or not kinds <= FLOATS:
        ctx.fail(f"queries, keys and values are {sorted(map(str, kinds))}, expected one float type")
    if q and keys:
        _same(ctx, "width of queries and keys", q[2], keys[2])
        _same(ctx, "tokens per row, and 1", q[1], 1)
    if keys and values:
        _same(ctx, "rows of keys and values", keys[0], values[0])
        _same(ctx, "positions of keys and values", keys[1], values[1])
    for shape in (keys, values):
        width = int_value(shape[2]) if shape else None
        if width is not None and width % heads:
            ctx.fail(f"a width of {width} cannot be split into {heads} heads")


def _result(ctx: InferContext, q: Shape | None, values: Shape | None) -> TensorType:
    return ctx.type(0).with_shape(None if q is None or values is None else (*q[:2], values[2]))


def _flops(ctx: InferContext) -> Dim:
    q, keys, values = (ctx.shape(i) for i in range(3))
    if q is None or keys is None or values is None:
        return 0
    return q[0] * keys[1] * (2 * keys[2] + 2 * values[2] + 6 * int(ctx.attributes["heads"]))


def _shape(ctx: InferContext, i: int, rank: int, name: str) -> Shape | None:
    shape = ctx.shape(i)
    if shape is not None and len(shape) != rank:
        ctx.fail(f"{name} must have rank {rank}, got shape {list(shape)}")
    return shape


def _same(ctx: InferContext, what: str, a: Dim, b: Dim) -> None:
    left, right = int_value(a), int_value(b)
    if left is not None and right is not None and left != right:
        ctx.fail(f"{what} must agree, got {left} and {right}")


def _check_indices(ctx: InferContext, *inputs: int) -> None:
    for i in inputs:
        if ctx.dtype(i) not in INDICES:
            ctx.fail(f"input {i} is {ctx.type(i)}, expected int32 or int64")


def _within(indices: Any, size: int, name: str) -> None:
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise IndexError(
            f"{name} holds {int(indices.min())}..{int(indices.max())}, expected 0..{size - 1}"
        )
