"""GroupQueryAttention: heads that share keys and values, a cache by length, rotary positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, dim_max
from engine.ops.common import Array, check_size, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_attention_core import (
    attention_flops,
    head_rows,
    merge_heads,
    per_head,
    scaled_scores,
    split_heads,
    weights_of,
)
from engine.ops.contrib_common import MICROSOFT, check_fits
from engine.ops.contrib_rotary import rotate
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import RowContext, RowState

BEFORE_SOFTMAX, AFTER_SOFTMAX = 1, 2  # what `qk_output` asks for


def _head_size(ctx: InferContext, q: Shape) -> Dim:
    attributes = ctx.attributes
    heads, shared = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    if len(q) != 3:
        ctx.fail(f"expected a query of rank 3, got {list(q)}")
    if heads < 1 or shared < 1 or heads % shared:
        ctx.fail(f"{heads} heads do not share {shared} heads of keys and values evenly")
    return per_head(ctx, q[2], heads if ctx.has(1) else heads + 2 * shared)


def _check_supported(ctx: InferContext) -> None:
    attributes = ctx.attributes
    for name in ("k_quant_type", "v_quant_type"):
        if attributes[name] != "NONE":
            ctx.unsupported(f"{name}={attributes[name]!r} (a quantized cache) is not supported")
    if attributes["sliding_window_cache"]:
        ctx.unsupported("sliding_window_cache=1 is not supported")
    if ctx.has(1) != ctx.has(2) or ctx.has(3) != ctx.has(4) or ctx.has(14) != ctx.has(15):
        ctx.fail("key and value, past_key and past_value, and both norm weights go in pairs")
    if attributes["do_rotary"] and not (ctx.has(7) and ctx.has(8)):
        ctx.fail("do_rotary=1 needs cos_cache and sin_cache")


@operator("GroupQueryAttention", since=1, domain=MICROSOFT)
class GroupQueryAttention:
    """Causal attention in which several query heads share one of keys and values.

    `seqlens_k` tells, less one, how many keys each item has with the new ones; in front of them its
    part of the cache is filled. A prompt (as many queries as `total_sequence_length`) starts anew.
    """

    attributes = {
        "causal": 1,
        "do_rotary": 0,
        "k_quant_type": "NONE",
        "kv_cache_bit_width": 0,
        "kv_num_heads": REQUIRED,
        "local_window_size": -1,
        "num_heads": REQUIRED,
        "qk_norm_epsilon": 1e-6,
        "qk_output": 0,
        "rotary_interleaved": 0,
        "scale": None,
        "sliding_window_cache": 0,
        "smooth_softmax": -1,
        "softcap": 0.0,
        "v_quant_type": "NONE",
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, caches as long as they were or as all keys are, scores of all keys."""
        _check_supported(ctx)
        kind, q = ctx.type(0), ctx.shape(0)
        if q is None:
            return [kind.with_shape(None)] * ctx.n_outputs
        size = _head_size(ctx, q)
        heads, shared = int(ctx.attributes["num_heads"]), int(ctx.attributes["kv_num_heads"])
        known = ctx.value(6)
        total: Dim = known[0] if known else ctx.fresh_dim("total")
        room: Dim = total
        if ctx.has(3):
            past = ctx.shape(3)
            if past is not None and len(past) != 4:
                ctx.fail(f"expected a past of rank 4, got {list(past)}")
            room = dim_max(past[2], total) if past and known else ctx.fresh_dim("present")
        cache = kind.with_shape((q[0], shared, room, size))
        scores = kind.with_shape((q[0], heads, q[1], total))
        width = q[2] if ctx.has(1) else heads * size
        return [kind.with_shape((q[0], q[1], width)), cache, cache, scores][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """Narrow floats compute in float32 and round at the end."""
        xp = ctx.xp
        given: list[Any] = [*inputs, *(None,) * (16 - len(inputs))]
        q, k, v = _read(ctx, given)
        batch, _, length, _ = q.shape
        lengths = [int(n) + 1 for n in given[5].reshape(-1).tolist()]
        total = int(given[6].reshape(-1)[0])
        if len(lengths) != batch or total < length:
            raise ValueError(f"{len(lengths)} lengths, {total} keys for {batch} x {length} queries")
        is_prompt = length == total
        past = [0 if is_prompt else n - length for n in lengths]
        if ctx.attributes["do_rotary"]:
            places = _positions(xp, given[9], past, length, is_prompt)
            inter = bool(ctx.attributes["rotary_interleaved"])
            q, k = (rotate(xp, x, places, given[7], given[8], inter) for x in (q, k))
        keys = _cache(ctx, given[3], k, past, total)
        values = _cache(ctx, given[4], v, past, total)
        y, scores = _attend(ctx, (q, keys, values), lengths, past, total, given[10], given[11])
        merged = merge_heads(xp, y)
        return [narrow(each, given[0].dtype) for each in (merged, keys, values, scores)][
            : ctx.n_outputs
        ]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0 of everything but the tables and the total length."""
        if len(ctx.types) > 9 and ctx.rows[9] is not None and ctx.rank(9) != 2:
            return ctx.mixed("its positions are not told per item")
        data = {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 9: 0}
        return head_rows(ctx, data, (10,), (0, 0, 0, 0))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of both products."""
        q, known = ctx.shape(0), ctx.value(6)
        if q is None or not known:
            return 0
        size, heads = _head_size(ctx, q), int(ctx.attributes["num_heads"])
        return attention_flops((q[0], heads, q[1], size), (q[0], heads, known[0], size), size)


def _read(ctx: ComputeContext, given: Sequence[Any]) -> tuple[Array, Array, Array]:
    """Queries (B, N, S, H), keys and values (B, K, S, H), wide; normalized where weights say so."""
    xp, attributes = ctx.xp, ctx.attributes
    heads, shared = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    q, k, v = given[:3]
    if k is None:
        size = q.shape[2] // (heads + 2 * shared)
        ends = heads * size, (heads + shared) * size
        q, k, v = q[..., : ends[0]], q[..., ends[0] : ends[1]], q[..., ends[1] :]
    parts = [
        split_heads(widen(xp, x), count) for x, count in ((q, heads), (k, shared), (v, shared))
    ]
    for i, weight in ((0, given[14]), (1, given[15])):
        if weight is not None:
            square = (parts[i] * parts[i]).mean(axis=-1, keepdims=True)
            root = xp.sqrt(square + square.dtype.type(attributes["qk_norm_epsilon"]))
            check_fits(parts[i].shape, weight)
            parts[i] = parts[i] / root * widen(xp, weight)
    return parts[0], parts[1], parts[2]


def _positions(
    xp: Any, stated: Array | None, past: Sequence[int], length: int, is_prompt: bool
) -> Array:
    """Positions of the new tokens (B or 1, S)."""
    steps = xp.arange(length, dtype=xp.int64)[None, :]
    if stated is None:
        return xp.asarray(past, dtype=xp.int64)[:, None] + steps
    # Of a prompt ONNX Runtime reads the first position only.
    return stated.reshape(-1)[:1, None] + steps if is_prompt else stated


def _cache(
    ctx: ComputeContext, past: Array | None, new: Array, filled: Sequence[int], total: int
) -> Array:
    """The cache with the new entries behind those that each item has."""
    xp = ctx.xp
    room = max(total, 0 if past is None else past.shape[2])
    shape = (new.shape[0], new.shape[1], room, new.shape[3])
    check_size(ctx, shape, new.dtype)
    cache = xp.zeros(shape, dtype=new.dtype)
    for item, count in enumerate(filled):
        end = count + new.shape[2]
        if count < 0 or end > room or (count and (past is None or count > past.shape[2])):
            raise ValueError(f"item {item}: a cache of {room} has no entries {count} to {end}")
        if past is not None and count:
            cache[item, :, :count] = widen(xp, past[item, :, :count])
        cache[item, :, count:end] = new[item]
    return cache


def _attend(
    ctx: ComputeContext,
    qkv: tuple[Array, Array, Array],
    lengths: Sequence[int],
    past: Sequence[int],
    total: int,
    extra: Array | None,
    sinks: Array | None,
) -> tuple[Array, Array]:
    """Output by heads, and the scores that `qk_output` names."""
    xp, attributes, q = ctx.xp, ctx.attributes, qkv[0]
    group = q.shape[1] // qkv[1].shape[1]
    k, v = (xp.repeat(x[:, :, :total], group, axis=1) for x in qkv[1:])
    scores = scaled_scores(ctx, q, k, attributes["scale"])
    cap = scores.dtype.type(attributes["softcap"])
    scores = cap * xp.tanh(scores / cap) if cap > 0 else scores
    if extra is not None:
        added = widen(xp, extra)[..., :total]
        check_fits(scores.shape, added)
        scores = scores + added
    hidden = _hidden(ctx, q.shape[2], lengths, past, total)[:, None]
    scores = xp.where(hidden, xp.float32(-math.inf), scores)
    sink = None if sinks is None else widen(xp, sinks).reshape(1, q.shape[1], 1, 1)
    if sink is None and attributes["smooth_softmax"] == 1:
        sink = xp.zeros((1, 1, 1, 1), dtype=scores.dtype)
    weights = weights_of(xp, scores, sink)
    shown = weights if attributes["qk_output"] == AFTER_SOFTMAX else scores
    return xp.matmul(weights, xp.ascontiguousarray(v)), shown


def _hidden(
    ctx: ComputeContext, queries: int, lengths: Sequence[int], past: Sequence[int], total: int
) -> Array:  # (B, S, T)
    """Which keys a query may not look at."""
    xp, attributes = ctx.xp, ctx.attributes
    key = xp.arange(total)[None, None, :]
    if not attributes["causal"]:
        return xp.broadcast_to(
            key >= xp.asarray(lengths)[:, None, None], (len(lengths), queries, total)
        )
    place = xp.asarray(past)[:, None, None] + xp.arange(queries)[None, :, None]
    hidden = key > place
    window = int(attributes["local_window_size"])
    return hidden | (key <= place - window) if window > 0 else hidden
