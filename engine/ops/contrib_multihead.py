"""Attention of queries, keys and values that are projected already, in com.microsoft's forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType
from engine.ops.common import Array, merged, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_attention_core import (
    add_bias,
    attention_flops,
    causal_bias,
    head_rows,
    mask_bias,
    merge_heads,
    per_head,
    scaled_scores,
    split_heads,
    weights_of,
)
from engine.ops.contrib_common import MICROSOFT, check_fits
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import RowContext, RowState

Shapes = tuple[Shape, Shape, Shape]  # of q (B, N, S, H), k (B, N, L, H) and v (B, N, L, V)


def qkv_shapes(ctx: InferContext) -> Shapes | None:
    """Shapes of queries, keys and values by heads, from any way in which they may be packed."""
    heads, q = int(ctx.attributes["num_heads"]), ctx.shape(0)
    k = ctx.shape(1) if ctx.has(1) else ()
    v = ctx.shape(2) if ctx.has(2) else ()
    if q is None or k is None or v is None:
        return None
    if len(q) == 5 and not k and not v:
        _expect_packed(ctx, "query", q, heads, 3)
        shape: Shape = (q[0], heads, q[1], q[4])
        return shape, shape, shape
    if len(q) != 3 or (not k and v) or len(k) not in (0, 3, 4, 5) or len(v) not in (0, 3, 4):
        ctx.fail(f"query {list(q)}, key {list(k)} and value {list(v)} do not go together")
    if not k:
        size = per_head(ctx, per_head(ctx, q[2], 3), heads)
        shape = (q[0], heads, q[1], size)
        return shape, shape, shape
    query: Shape = (q[0], heads, q[1], per_head(ctx, q[2], heads))
    if len(k) == 5:
        _expect_packed(ctx, "key", k, heads, 2)
        shape = (k[0], heads, k[1], k[4])
        return query, shape, shape
    return query, _by_heads(ctx, k, heads), _by_heads(ctx, v or k, heads)


def _by_heads(ctx: InferContext, shape: Shape, heads: int) -> Shape:
    if len(shape) == 4:
        return shape
    return (shape[0], heads, shape[1], per_head(ctx, shape[2], heads))


def _expect_packed(ctx: InferContext, name: str, shape: Shape, heads: int, count: int) -> None:
    for dim, wanted in ((shape[2], heads), (shape[3], count)):
        if isinstance(dim, int) and dim != wanted:
            ctx.fail(f"expected a packed {name} of (B, L, {heads}, {count}, H), got {list(shape)}")


def read_qkv(
    xp: Any, heads: int, q: Array, k: Array | None, v: Array | None, bias: Array | None
) -> tuple[Array, Array, Array]:
    """Queries, keys and values by heads (B, N, L, H), unpacked and with the bias added, wide.

    Keys and values that come by heads are a cache of cross-attention: their bias is in them.
    """
    if k is None and q.ndim == 5:
        q, k, v = (merged(q[:, :, :, i], 2) for i in range(3))
    elif k is None:
        q, k, v = xp.split(q, 3, axis=2)
    elif k.ndim == 5:
        k, v = (merged(k[:, :, :, i], 2) for i in range(2))
    if v is None:
        raise ValueError("there are keys but no values")
    widths = [x.shape[-1] for x in (q, k)] if k.ndim == 3 else [q.shape[-1]]
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    parts = []
    for i, x in enumerate((q, k, v)):
        x = widen(xp, x)
        if bias is not None and x.ndim == 3:
            x = x + widen(xp, bias)[starts[i] : starts[i] + x.shape[-1]]
        parts.append(x if x.ndim == 4 else split_heads(x, heads))
    return parts[0], parts[1], parts[2]


def _kinds(ctx: InferContext, past: int, names: int) -> Sequence[TensorType]:
    """Output (B, S, N*V), keys and values (B, N, T, .), scores (B, N, S, T)."""
    kind, shapes = ctx.type(0), qkv_shapes(ctx)
    if shapes is None:
        return [kind.with_shape(None)] * names
    q, k, v = shapes
    length: Dim = 0
    if ctx.has(past):
        cache = ctx.shape(past)
        if cache is not None and len(cache) != 4:
            ctx.fail(f"expected a past of rank 4, got {list(cache)}")
        length = cache[2] if cache else ctx.fresh_dim("past")
    total = length + k[2]
    stated = ctx.shape(2) if ctx.has(2) else None
    width = stated[2] if stated and len(stated) == 3 else q[1] * v[3]
    return [
        kind.with_shape((q[0], q[2], width)),
        kind.with_shape((q[0], q[1], total, k[3])),
        kind.with_shape((q[0], q[1], total, v[3])),
        kind.with_shape((q[0], q[1], q[2], total)),
    ][:names]


def _attend(
    ctx: ComputeContext, qkv: tuple[Array, Array, Array], bias: Array | None, dtype: Any
) -> list[Array]:
    xp, (q, k, v) = ctx.xp, qkv
    scores = scaled_scores(ctx, q, k, ctx.attributes["scale"])
    check_fits(scores.shape, bias)
    scores = scores if bias is None else scores + bias.astype(scores.dtype)
    y = merge_heads(xp, xp.matmul(weights_of(xp, scores), xp.ascontiguousarray(v)))
    return [narrow(each, dtype) for each in (y, k, v, scores)]


@operator("MultiHeadAttention", since=1, domain=MICROSOFT)
class MultiHeadAttention:
    """Self- or cross-attention, with a mask, a cache, biases of projection and scores."""

    attributes = {
        "mask_filter_value": -10000.0,
        "num_heads": REQUIRED,
        "scale": None,
        "unidirectional": 0,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, the cache with the new keys and values, the scores."""
        if ctx.has(8) or ctx.has(9):
            ctx.unsupported("a shared cache (past_sequence_length, cache_indirection)")
        if ctx.has(6) != ctx.has(7):
            ctx.fail("past_key and past_value go together")
        return _kinds(ctx, 6, ctx.n_outputs)

    @staticmethod
    def compute(
        ctx: ComputeContext,
        q: Array,
        k: Array | None = None,
        v: Array | None = None,
        bias: Array | None = None,
        mask: Array | None = None,
        extra: Array | None = None,
        past_k: Array | None = None,
        past_v: Array | None = None,
        *_: Array | None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round at the end."""
        xp, attributes = ctx.xp, ctx.attributes
        queries, keys, values = read_qkv(xp, int(attributes["num_heads"]), q, k, v, bias)
        if past_k is not None and past_v is not None:
            keys = xp.concatenate((widen(xp, past_k), keys), axis=2)
            values = xp.concatenate((widen(xp, past_v), values), axis=2)
        rows, length, total = queries.shape[0], queries.shape[2], keys.shape[2]
        added = None if extra is None else widen(xp, extra)
        if mask is not None:
            fill = float(attributes["mask_filter_value"])
            past = total - length
            added = add_bias(added, mask_bias(xp, mask, rows, length, total, past, fill))
        if attributes["unidirectional"]:
            added = add_bias(added, causal_bias(xp, length, total))
        return _attend(ctx, (queries, keys, values), added, q.dtype)[: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0 of everything."""
        return head_rows(ctx, {0: 0, 1: 0, 2: 0, 6: 0, 7: 0}, (4, 5), (0, 0, 0, 0))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of both products."""
        shapes = qkv_shapes(ctx)
        if shapes is None:
            return 0
        q, _, v = shapes
        kinds = _kinds(ctx, 6, 2)
        assert kinds[1].shape is not None
        return attention_flops(q, kinds[1].shape, v[3])


@operator("DecoderMaskedMultiHeadAttention", since=1, domain=MICROSOFT)
class DecoderMaskedMultiHeadAttention:
    """Attention of one new query to a cache that grows by one, or to one that stays (4D keys).

    With `past_present_share_buffer` the cache has room for the longest sequence already, and
    `past_sequence_length` says how much of it is filled.
    """

    attributes = {
        "mask_filter_value": -10000.0,
        "num_heads": REQUIRED,
        "output_qk": 0,
        "past_present_share_buffer": 0,
        "scale": None,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, the cache with the new keys and values, the scores."""
        if ctx.has(9):
            ctx.unsupported("cache_indirection (a cache of several beams) is not supported")
        if not ctx.attributes["past_present_share_buffer"]:
            return _kinds(ctx, 5, ctx.n_outputs)
        output, *_ = _kinds(ctx, 5, 1)
        kinds = [output, ctx.type(5), ctx.type(6)] if ctx.has(5) else [output, output, output]
        shape, total = ctx.shape(5) if ctx.has(5) else None, ctx.fresh_dim("total")
        scores = None if shape is None else (shape[0], shape[1], 1, total)
        return [*kinds, output.with_shape(scores)][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        q: Array,
        k: Array | None = None,
        v: Array | None = None,
        mask: Array | None = None,
        extra: Array | None = None,
        past_k: Array | None = None,
        past_v: Array | None = None,
        filled: Array | None = None,
        *rest: Array | None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round at the end."""
        xp, attributes = ctx.xp, ctx.attributes
        bias = rest[2] if len(rest) > 2 else None
        queries, keys, values = read_qkv(xp, int(attributes["num_heads"]), q, k, v, bias)
        caches: list[Array] = []
        if past_k is not None and past_v is not None:
            shares = bool(attributes["past_present_share_buffer"])
            count = int(filled.reshape(-1)[0]) if filled is not None and shares else None
            keys, full_k = _grown(xp, past_k, keys, count)
            values, full_v = _grown(xp, past_v, values, count)
            caches = [narrow(full_k, q.dtype), narrow(full_v, q.dtype)]
        total = keys.shape[2]
        added = None if extra is None else widen(xp, extra)[..., :total]
        if mask is not None:
            fill, length = float(attributes["mask_filter_value"]), queries.shape[2]
            shown = mask_bias(xp, mask[:, :total], q.shape[0], length, total, total - length, fill)
            added = add_bias(added, shown)
        y, *kept, scores = _attend(ctx, (queries, keys, values), added, q.dtype)
        return [y, *(caches or kept), scores][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0 of everything."""
        return head_rows(ctx, {0: 0, 1: 0, 2: 0, 5: 0, 6: 0}, (3, 4), (0, 0, 0, 0))


def _grown(xp: Any, past: Array, new: Array, filled: int | None) -> tuple[Array, Array]:
    """What there is to attend to, and the cache to hand on."""
    if filled is None:
        both = xp.concatenate((widen(xp, past), new), axis=2)
        return both, both
    end = filled + new.shape[2]
    if not 0 <= filled <= end <= past.shape[2]:
        raise ValueError(f"a cache of {past.shape[2]} has no room for entries {filled} to {end}")
    cache = xp.array(widen(xp, past), copy=True)
    cache[:, :, filled:end] = new
    return cache[:, :, :end], cache
