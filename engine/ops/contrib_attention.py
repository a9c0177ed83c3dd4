"""Attention with its input projection, as BERT and GPT-2 are fused: floats and quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, int_value, narrow, widen
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
from engine.ops.integer_products import integer_matmul
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import RowContext, RowState

ATTRIBUTES: dict[str, Any] = {
    "do_rotary": 0,
    "mask_filter_value": -10000.0,
    "num_heads": REQUIRED,
    "past_present_share_buffer": 0,
    "qkv_hidden_sizes": (),
    "rotary_embedding_dim": 0,
    "scale": None,
    "unidirectional": 0,
}


@dataclass(frozen=True)
class Sizes:
    """Hidden sizes of queries, keys and values, and the length of the past."""

    q: Dim
    k: Dim
    v: Dim
    past: Dim


def _sizes(ctx: InferContext, past: int) -> Sizes:
    attributes, weights = ctx.attributes, ctx.shape(1)
    stated = tuple(attributes["qkv_hidden_sizes"])
    if stated and (len(stated) != 3 or min(stated) < 1 or stated[0] != stated[1]):
        ctx.fail(f"qkv_hidden_sizes must be three sizes, the first two equal; got {list(stated)}")
    if weights is not None and len(weights) != 2:
        ctx.fail(f"expected weights of rank 2, got {list(weights)}")
    width: Dim = weights[1] if weights else ctx.fresh_dim("hidden")
    if isinstance(width, int) and width != (sum(stated) if stated else width // 3 * 3):
        ctx.fail(f"{width} columns of weights are not those of queries, keys and values")
    q, k, v = stated or (width // 3,) * 3
    length: Dim = 0
    if ctx.has(past):
        shape = ctx.shape(past)
        if shape is not None and len(shape) != 5:
            ctx.fail(f"expected a past of rank 5, got {list(shape)}")
        length = shape[3] if shape else ctx.fresh_dim("past")
    return Sizes(q, k, v, length)


def _infer(ctx: InferContext, past: int, kind: TensorType) -> Sequence[TensorType]:
    """Output (B, S, V), and the cache (2, B, N, T, H)."""
    attributes, x = ctx.attributes, ctx.shape(0)
    for name in ("do_rotary", "past_present_share_buffer"):
        if attributes[name]:
            ctx.unsupported(f"{name}=1 is not supported")
    if x is not None and len(x) != 3:
        ctx.fail(f"expected an input of rank 3, got {list(x)}")
    sizes = _sizes(ctx, past)
    heads = int(attributes["num_heads"])
    head, v_head = per_head(ctx, sizes.k, heads), per_head(ctx, sizes.v, heads)
    weights = ctx.shape(1)
    inner = (int_value(x[2]), int_value(weights[0])) if x and weights else (None, None)
    if None not in inner and inner[0] != inner[1]:
        ctx.fail(f"inner dims differ: {inner[0]} of the input, {inner[1]} of the weights")
    if ctx.n_outputs > 1 and head != v_head:
        ctx.fail("a cache needs heads of one size for keys and values")
    if x is None:
        return [kind.with_shape(None)] * ctx.n_outputs
    cache = (2, x[0], heads, sizes.past + x[1], head)
    return [kind.with_shape((x[0], x[1], sizes.v)), kind.with_shape(cache)][: ctx.n_outputs]


def _flops(ctx: InferContext, past: int) -> Dim:
    x, weights = ctx.shape(0), ctx.shape(1)
    if x is None or weights is None:
        return 0
    sizes, heads = _sizes(ctx, past), int(ctx.attributes["num_heads"])
    q = (x[0], heads, x[1], per_head(ctx, sizes.q, heads))
    k = (x[0], heads, sizes.past + x[1], q[3])
    projection = 2 * element_count(x) * weights[1]
    return projection + attention_flops(q, k, per_head(ctx, sizes.v, heads))


def attend_projected(
    ctx: ComputeContext,
    projected: Array,  # (B, S, Q + K + V), float32 or wider
    mask: Array | None,
    past: Array | None,  # (2, B, N, P, H)
    extra: Array | None,  # broadcasts over (B, N, S, T)
) -> list[Array]:
    """Attention of an input with its projection to queries, keys and values done; and the cache."""
    xp, attributes = ctx.xp, ctx.attributes
    stated = tuple(attributes.get("qkv_hidden_sizes", ())) or (projected.shape[2] // 3,) * 3
    ends = (stated[0], stated[0] + stated[1])
    parts = projected[..., : ends[0]], projected[..., ends[0] : ends[1]], projected[..., ends[1] :]
    q, k, v = (split_heads(part, int(attributes["num_heads"])) for part in parts)
    if past is not None:
        k = xp.concatenate((widen(xp, past[0]), k), axis=2)
        v = xp.concatenate((widen(xp, past[1]), v), axis=2)
    queries, keys = q.shape[2], k.shape[2]
    bias = None if extra is None else widen(xp, extra)
    if mask is not None:
        fill = float(attributes["mask_filter_value"])
        seen = mask_bias(xp, mask, q.shape[0], queries, keys, keys - queries, fill)
        bias = add_bias(bias, seen)
    if attributes["unidirectional"]:
        bias = add_bias(bias, causal_bias(xp, queries, keys))
    scores = scaled_scores(ctx, q, k, attributes["scale"])
    check_fits(scores.shape, bias)
    scores = scores if bias is None else scores + bias.astype(scores.dtype)
    y = merge_heads(xp, xp.matmul(weights_of(xp, scores), v))
    return [y, xp.stack((k, v))] if ctx.n_outputs > 1 else [y]


@operator("Attention", since=1, domain=MICROSOFT)
class Attention:
    """Self-attention of a projected input, with a mask, a cache and a bias on the scores."""

    attributes = ATTRIBUTES

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, and the cache with the new keys and values."""
        if ctx.has(6):
            ctx.unsupported("past_sequence_length (a shared cache) is not supported")
        return _infer(ctx, 4, ctx.type(0))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        weights: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        past: Array | None = None,
        extra: Array | None = None,
        *_: Array | None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round at the end."""
        xp = ctx.xp
        projected = xp.matmul(widen(xp, x), widen(xp, weights))
        if bias is not None:
            check_fits(projected.shape, bias)
            projected = projected + widen(xp, bias)
        return [narrow(y, x.dtype) for y in attend_projected(ctx, projected, mask, past, extra)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0, in the cache on axis 1."""
        return head_rows(ctx, {0: 0, 4: 1}, (3, 5), (0, 1))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of the three products."""
        return _flops(ctx, 4)


@operator("QAttention", since=1, domain=MICROSOFT)
class QAttention:
    """Attention whose input and weights are quantized; everything after their product is float."""

    attributes = {k: v for k, v in ATTRIBUTES.items() if k != "rotary_embedding_dim"}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output and cache in the bias's type."""
        x = ctx.type(0).with_dtype(ctx.dtype(2))
        return _infer(ctx, 8, x)

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        weights: Array,
        bias: Array,
        x_scale: Array,
        w_scale: Array,
        mask: Array | None = None,
        x_zero: Array | None = None,
        w_zero: Array | None = None,
        past: Array | None = None,
    ) -> Sequence[Array]:
        """The product is exact."""
        xp = ctx.xp
        x_zero = None if x_zero is None else x_zero.reshape(())
        product = integer_matmul(xp, x, weights, x_zero, w_zero).astype(xp.float32)
        check_fits(product.shape, w_scale, bias)
        projected = product * (x_scale.reshape(()) * w_scale).astype(xp.float32)
        projected = projected + widen(xp, bias)
        return [narrow(y, bias.dtype) for y in attend_projected(ctx, projected, mask, past, None)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0, in the cache on axis 1."""
        return head_rows(ctx, {0: 0, 8: 1}, (5,), (0, 1))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of the three products."""
        return _flops(ctx, 8)
