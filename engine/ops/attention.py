"""Scaled dot-product attention as one operator (opset 23 and newer)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import Array, check_size, merged, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState
from engine.ops.softmax import softmax

QK_STAGES = ("scores", "capped", "masked", "weights")


@operator("Attention", since=(23, 24, 25))
class Attention:
    """`softmax(Q K' * scale + mask) V` per head, with grouped heads, a cache and a causal mask."""

    attributes = {
        "is_causal": 0,
        "kv_num_heads": None,
        "left_window_size": -1,
        "q_num_heads": None,
        "right_window_size": -1,
        "qk_matmul_output_mode": 0,
        "scale": None,
        "softcap": 0.0,
        "softmax_precision": None,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, then the cache with the new keys and values, then the scores."""
        q, k, v = (heads_shape(ctx, i) for i in range(3))
        kind = ctx.type(0)
        if ctx.has(4) != ctx.has(5):
            ctx.fail("past_key and past_value go together, only one of them is given")
        if ctx.has(3) and (ctx.type(3).rank or 0) > 4:
            ctx.fail(f"the mask must have rank 4 or less, got {ctx.type(3)}")
        mode = ctx.attributes["qk_matmul_output_mode"]
        if not 0 <= mode < len(QK_STAGES):
            ctx.fail(f"qk_matmul_output_mode is {mode}, expected 0 to {len(QK_STAGES) - 1}")
        if q is None or k is None or v is None:
            unknown = [ctx.type(i).with_shape(None) for i in (0, 1, 2, 0)]
            return unknown[: ctx.n_outputs]
        past = ctx.shape(4) if ctx.has(4) else None
        past_length: Dim = past[2] if past else ctx.fresh_dim("past") if ctx.has(4) else 0
        total = k[2] + past_length
        out: Shape = (q[0], q[1], q[2], v[3])
        shape = ctx.shape(0)
        if shape is not None and len(shape) == 3:
            out = (q[0], q[2], q[1] * v[3])
        kinds = [
            kind.with_shape(out),
            ctx.type(1).with_shape((*k[:2], total, k[3])),
            ctx.type(2).with_shape((*v[:2], total, v[3])),
            kind.with_shape((q[0], q[1], q[2], total)),
        ]
        return kinds[: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        past_key: Array | None = None,
        past_value: Array | None = None,
        *lengths: Array | None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round at the end."""
        xp, attributes, flat = ctx.xp, ctx.attributes, q.ndim == 3
        queries = split_heads(q, attributes["q_num_heads"])
        keys, values = (split_heads(each, attributes["kv_num_heads"]) for each in (k, v))
        past = 0
        _check_fit(queries, keys, values)
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            keys = xp.concatenate((past_key, keys), axis=2)
            values = xp.concatenate((past_value, values), axis=2)
        check_size(ctx, (queries.shape[2], keys.shape[2]), xp.float32)  # masks, for no item too
        check_size(ctx, (*queries.shape[:3], keys.shape[2]), xp.float32)
        valid = lengths[0] if lengths else None
        bias = _bias(ctx, queries.shape[2], keys.shape[2], past, mask, valid)
        y, scores = attend(ctx, queries, keys, values, bias)
        if flat:
            y = merged(y.transpose(0, 2, 1, 3), 2)
        results = [narrow(y, q.dtype), keys, values, narrow(scores, q.dtype)]
        return results[: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Every tensor carries the items on axis 0; the mask may be the same for all."""
        states = [s for i, s in enumerate(ctx.rows) if s is not None and i != 3]
        first = states[0]
        if not first.is_rows or first.axis != 0 or any(s != first for s in states):
            return ctx.mixed("its inputs carry the items differently")
        mask = ctx.rows[3] if len(ctx.rows) > 3 else None
        if mask is None or (mask == first and ctx.rank(3) == 4):
            return ctx.all_outputs(first)
        kind = ctx.types[3]
        shared = kind is not None and kind.shape is not None
        lone = shared and (len(kind.shape) < 4 or kind.shape[0] == 1)  # type: ignore[union-attr,arg-type,index]
        problem = side_inputs_problem(ctx, tuple(i for i in range(len(ctx.rows)) if i != 3))
        if problem or not lone:
            return ctx.mixed(problem or "its mask has rows of its own")
        return ctx.all_outputs(first)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of both products."""
        q, k, v = (heads_shape(ctx, i) for i in range(3))
        if q is None or k is None or v is None:
            return 0
        past = ctx.shape(4) if ctx.has(4) else None
        keys = k[2] + past[2] if past else k[2]
        return 2 * element_count(q[:3]) * keys * (q[3] + v[3])


def _check_fit(q: Array, k: Array, v: Array) -> None:
    """Queries, keys and values with heads on axis 1 must go together."""
    shared = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
    if not shared or not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"queries {q.shape}, keys {k.shape} and values {v.shape} do not fit")


def heads_shape(ctx: InferContext, i: int) -> Shape | None:
    """The shape (batch, heads, length, size) of an input that may have its heads side by side."""
    shape = ctx.shape(i)
    if shape is None or len(shape) == 4:
        return shape
    heads = ctx.attributes["q_num_heads" if i == 0 else "kv_num_heads"]
    if len(shape) != 3 or not heads:
        ctx.fail(f"input {i} must have rank 4, or rank 3 and the number of heads stated")
    return (shape[0], heads, shape[1], shape[2] // heads)


def split_heads(x: Array, heads: int | None) -> Array:  # (B, H, S, D)
    """Give heads an axis of their own."""
    if x.ndim == 4:
        return x
    if x.ndim != 3 or not heads:
        raise ValueError(f"expected rank 4, or rank 3 and the number of heads; got {x.shape}")
    if x.shape[2] % heads:
        raise ValueError(f"{x.shape[2]} columns do not divide among {heads} heads")
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def _bias(
    ctx: ComputeContext, queries: int, keys: int, past: int, mask: Array | None, valid: Array | None
) -> Array | None:
    """What is added to the scores: minus infinity where a query may not look."""
    xp = ctx.xp
    bias = None
    if mask is not None:
        bias = mask if mask.dtype != bool else xp.where(mask, xp.float32(0), -xp.inf)
        bias = widen(xp, bias)
        missing = keys - mask.shape[-1]
        if missing > 0:  # a mask shorter than the keys hides the rest
            width = [(0, 0)] * (bias.ndim - 1) + [(0, missing)]
            bias = xp.pad(bias, width, constant_values=-xp.inf)
    hidden = _windowed(ctx, queries, keys, past, valid)
    if valid is not None:
        hidden.append(xp.arange(keys)[None, None, None, :] >= valid.reshape(-1, 1, 1, 1))
    for each in hidden:
        term = xp.where(each, xp.float32(-math.inf), xp.float32(0))
        bias = term if bias is None else bias + term
    return bias


def _windowed(
    ctx: ComputeContext, queries: int, keys: int, past: int, valid: Array | None
) -> list[Array]:
    """Which keys lie outside of the window that each query looks through."""
    xp, attributes = ctx.xp, ctx.attributes
    first: Any = past
    if (
        valid is not None and not past
    ):  # a cache kept by the caller: its valid part ends at the queries
        first = valid.reshape(-1, 1, 1, 1) - queries
    place = xp.arange(queries)[:, None] + first
    key = xp.arange(keys)[None, :]
    hidden = [key > place] if attributes["is_causal"] else []
    left, right = int(attributes["left_window_size"]), int(attributes["right_window_size"])
    if left >= 0:
        hidden.append(place - key > left)
    if right >= 0:
        hidden.append(key - place > right)
    return hidden


def attend(
    ctx: ComputeContext, q: Array, k: Array, v: Array, bias: Array | None
) -> tuple[Array, Array]:
    """Output, and the scores at the stage that `qk_matmul_output_mode` names."""
    xp, attributes = ctx.xp, ctx.attributes
    scale = attributes["scale"]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    root = math.sqrt(abs(scale))
    group = q.shape[1] // k.shape[1]
    keys, values = (xp.repeat(widen(xp, each), group, axis=1) for each in (k, v))
    # Scaling both sides by the root keeps large products inside the range of the type.
    signed = root if scale >= 0 else -root
    left, right = widen(xp, q), xp.ascontiguousarray(keys)
    scores = xp.matmul(
        left * left.dtype.type(signed), right.swapaxes(-1, -2) * left.dtype.type(root)
    )
    stages: dict[str, Any] = {"scores": scores}
    softcap = scores.dtype.type(attributes["softcap"])
    if softcap > 0:
        scores = softcap * xp.tanh(scores / softcap)
    stages["capped"] = scores
    if bias is not None:
        if np.broadcast_shapes(bias.shape, scores.shape) != scores.shape:
            raise ValueError(f"a mask of {bias.shape} does not fit scores of {scores.shape}")
        scores = scores + bias.astype(scores.dtype)
    stages["masked"] = scores
    # A query that may look nowhere gives zeros, not NaN.
    blind = xp.isneginf(scores).all(axis=-1, keepdims=True) if scores.size else scores
    weights = softmax(xp, xp.where(blind, 0, scores), -1) if scores.size else scores
    weights = xp.where(blind, 0, weights) if scores.size else weights
    stages["weights"] = weights
    y = xp.matmul(weights.astype(values.dtype), xp.ascontiguousarray(values))
    return y, stages[QK_STAGES[int(attributes["qk_matmul_output_mode"])]]
