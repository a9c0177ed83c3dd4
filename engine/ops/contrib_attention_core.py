"""What the attention operators of com.microsoft share: heads, masks, the product itself, rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.ir.types import Dim, Shape, element_count
from engine.ops.common import Array, check_size, int_value
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import SIZES, RowContext, RowState, rows_on


def split_heads(x: Array, heads: int) -> Array:  # (B, S, N*H) -> (B, N, S, H)
    """Give heads an axis of their own."""
    if x.ndim != 3 or heads < 1 or x.shape[2] % heads:
        raise ValueError(f"{x.shape} does not divide into {heads} heads on its last axis")
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def merge_heads(xp: Any, x: Array) -> Array:  # (B, N, S, H) -> (B, S, N*H)
    """Put heads side by side."""
    return xp.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(
        x.shape[0], x.shape[2], x.shape[1] * x.shape[3]
    )


def per_head(ctx: InferContext, hidden: Dim, heads: int) -> Dim:
    """The size of one head, refusing what does not divide."""
    number = int_value(hidden)
    if heads < 1 or (number is not None and number % heads):
        ctx.fail(f"a hidden size of {hidden} does not divide into {heads} heads")
    return hidden // heads


def mask_bias(
    xp: Any, mask: Array, batch: int, queries: int, keys: int, past: int, fill: float
) -> Array:  # broadcasts over (B, N, S, T)
    """A mask in any of ONNX Runtime's forms as what is added to the scores: 0, or `fill`.

    One number per item is where its keys end, two (all ends, then all starts) also where they
    begin; of three and two more only the ends count. A matrix says which keys there are, rank 3
    also for which query, rank 4 holds a triangle of the longest sequence.
    """
    if mask.ndim == 1:
        if mask.size not in (batch, 2 * batch, 3 * batch + 2):
            raise ValueError(f"a mask of {mask.size} numbers does not fit {batch} items")
        place = xp.arange(keys)
        seen = place < mask[:batch, None]
        if mask.size == 2 * batch:
            seen &= place >= mask[batch:, None]
        seen = seen[:, None, None]
    elif mask.ndim == 2:
        # Where the mask tells of new keys only, all of the past is there.
        old = xp.ones((mask.shape[0], keys - mask.shape[1] if mask.shape[1] < keys else 0))
        seen = xp.concatenate((old, mask), axis=1)[:, None, None, :] > 0
    elif mask.ndim == 3:
        seen = mask[:, None] > 0
    else:
        seen = mask[:, :, past : past + queries, :keys] > 0
    if seen.shape[-1] != keys or seen.shape[0] not in (1, batch):
        raise ValueError(f"a mask of shape {mask.shape} does not fit {batch} items of {keys} keys")
    return xp.where(seen, xp.float32(0), xp.float32(fill))


def causal_bias(xp: Any, queries: int, keys: int) -> Array:  # (S, T)
    """Minus infinity where a key is later than the query; the last query sees all keys."""
    later = xp.arange(keys)[None, :] > xp.arange(queries)[:, None] + (keys - queries)
    return xp.where(later, xp.float32(-math.inf), xp.float32(0))


def add_bias(first: Array | None, second: Array | None) -> Array | None:
    """The sum of two biases that may be absent."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def scaled_scores(
    ctx: ComputeContext, q: Array, k: Array, scale: float | None
) -> Array:  # (B, N, S, T)
    """`q @ k' * scale`; the scale is 1 / sqrt(head size) where the node states none, or 0."""
    xp = ctx.xp
    check_size(ctx, (*q.shape[:3], k.shape[2]), xp.float32)
    factor = q.dtype.type(scale or 1 / math.sqrt(max(q.shape[-1], 1)))
    return xp.matmul(q * factor, xp.ascontiguousarray(k).swapaxes(-1, -2))


def weights_of(xp: Any, scores: Array, sink: Array | None = None) -> Array:
    """Softmax over the last axis; `sink` is one more score per row that takes part of the sum."""
    if not scores.size:
        return scores
    top = scores.max(axis=-1, keepdims=True)
    top = top if sink is None else xp.maximum(top, sink)
    top = xp.where(xp.isneginf(top), xp.float32(0), top)  # a row without any key gives zeros
    weights = xp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    total = total if sink is None else total + xp.exp(sink - top)
    return weights / xp.where(total == 0, xp.float32(1), total)


def attention_flops(q: Shape, k: Shape, v_size: Dim) -> Dim:
    """Two per multiply-add of both products; shapes (B, N, S, H) and (B, N, T, H)."""
    return 2 * element_count(q[:3]) * k[2] * (q[3] + v_size)


def head_rows(
    ctx: RowContext, data: Mapping[int, int], loose: Collection[int], outputs: Sequence[int]
) -> Sequence[RowState]:
    """Inputs carry the items on the axes that `data` states, the outputs on `outputs`.

    Inputs in `loose` (masks, biases) carry them on axis 0, or are one for all items.
    """
    problem = side_inputs_problem(ctx, {*data, *loose})
    first = ctx.rows[0]
    if problem or first is None:
        return ctx.mixed(problem or "input 0 is absent")
    if not any(state is not None and state.is_rows for state in ctx.rows):
        return ctx.all_outputs(SIZES)
    for i, state in enumerate(ctx.rows):
        if state is None or (i not in data and i not in loose):
            continue
        if state == rows_on(data.get(i, 0), first.block) and _one_each(ctx, i, i in loose):
            continue
        if i in loose and not state.is_rows and state != SIZES and _is_one_for_all(ctx, i):
            continue
        return ctx.mixed(f"input {i} does not carry the items like the others")
    return [rows_on(axis, first.block) for axis in outputs][: len(ctx.node.outputs)]


def _one_each(ctx: RowContext, i: int, is_loose: bool) -> bool:
    """Whether a vector has one entry per item: ends and starts one behind the other mix."""
    kind, data = ctx.types[i], ctx.types[0]
    if not is_loose or kind is None or kind.shape is None or len(kind.shape) > 1:
        return True
    return data is not None and data.shape is not None and kind.shape[0] == data.shape[0]


def _is_one_for_all(ctx: RowContext, i: int) -> bool:
    kind = ctx.types[i]
    return (
        kind is not None and kind.shape is not None and len(kind.shape) > 1 and kind.shape[0] == 1
    )
