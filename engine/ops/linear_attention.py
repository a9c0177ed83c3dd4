"""Attention without softmax, as a state that every token updates: LinearAttention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count, floordiv
from engine.ops.common import Array, check_size, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState

GATED = ("gated", "gated_delta")  # rules under which the state fades
CORRECTED = ("delta", "gated_delta")  # rules that write only what the state does not say yet
RULES = ("linear", "gated", "delta", "gated_delta")
PAST, DECAY, BETA = 3, 4, 5  # optional inputs


@operator("LinearAttention", since=27)
class LinearAttention:
    """A state (keys x values) per head that tokens write to and queries read from, in order.

    The rules are those of linear attention (Katharopoulos et al., "Transformers are RNNs", 2020),
    gated linear attention (Yang et al., 2023), DeltaNet (Schlag et al., "Linear Transformers Are
    Secretly Fast Weight Programmers", 2021) and Gated DeltaNet (Yang et al., 2024). Computed token
    by token; `chunk_size` is a hint and changes nothing.
    """

    attributes = {
        "chunk_size": 64,
        "kv_num_heads": REQUIRED,
        "q_num_heads": REQUIRED,
        "scale": 0.0,
        "update_rule": "gated_delta",
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output (B, T, heads * values) and the state (B, heads, keys, values) after it."""
        heads, shared = LinearAttention.heads(ctx)
        rule = ctx.attributes["update_rule"]
        if rule not in RULES:
            ctx.fail(f"update_rule must be one of {', '.join(RULES)}, got {rule!r}")
        for name, i, rules in (("decay", DECAY, GATED), ("beta", BETA, CORRECTED)):
            if ctx.has(i) != (rule in rules):
                ctx.fail(f"{name} goes with update_rule {' and '.join(rules)}, it is {rule}")
        q, k, v = (ctx.shape(i) for i in range(3))
        for i, (shape, count) in enumerate(((q, heads), (k, shared), (v, shared))):
            if shape is not None and len(shape) != 3:
                ctx.fail(f"input {i} must have rank 3, got shape {list(shape)}")
            if shape is not None and isinstance(shape[2], int) and shape[2] % count:
                ctx.fail(f"input {i}: {shape[2]} entries do not divide into {count} heads")
        state = ctx.type(PAST) if ctx.has(PAST) else ctx.type(0)
        if q is None or v is None:
            return [ctx.type(0).with_shape(None), state.with_shape(None)][: ctx.n_outputs]
        values = floordiv(v[2], shared)
        output = ctx.type(0).with_shape((q[0], q[1], heads * values))
        state = state.with_shape((q[0], shared, floordiv(q[2], heads), values))
        return [output, state][: ctx.n_outputs]

    @staticmethod
    def heads(ctx: InferContext | ComputeContext) -> tuple[int, int]:
        """Heads of queries, and of keys and values."""
        heads, shared = (int(ctx.attributes[k]) for k in ("q_num_heads", "kv_num_heads"))
        if heads < 1 or shared < 1 or heads % shared:
            why = f"q_num_heads={heads} must be a positive multiple of kv_num_heads={shared}"
            if isinstance(ctx, InferContext):
                ctx.fail(why)
            raise ValueError(why)
        return heads, shared

    @staticmethod
    def compute(
        ctx: ComputeContext,
        query: Array,
        key: Array,
        value: Array,
        past: Array | None = None,
        decay: Array | None = None,
        beta: Array | None = None,
    ) -> Sequence[Array]:
        """The state is kept in float32 and rounded once."""
        xp = ctx.xp
        heads, shared = LinearAttention.heads(ctx)
        q, k, v = _by_head(xp, query, heads), _by_head(xp, key, shared), _by_head(xp, value, shared)
        length, batch, _, size = q.shape
        if k.shape != (length, batch, shared, size) or v.shape[:3] != k.shape[:3]:
            raise ValueError(f"{query.shape}, {key.shape} and {value.shape} do not fit together")
        shape = (batch, shared, size, v.shape[3])
        if past is not None and past.shape != shape:
            raise ValueError(f"a past state of shape {past.shape}, expected {shape}")
        check_size(ctx, shape, xp.float32)
        check_size(ctx, (*query.shape[:2], heads * v.shape[3]), xp.float32)
        state = xp.zeros(shape, xp.float32) if past is None else xp.array(widen(xp, past))
        fade = None if decay is None else xp.exp(_gate(xp, decay, shared, (shared, shared * size)))
        rate = None if beta is None else _gate(xp, beta, shared, (shared, 1))
        y = xp.zeros((length, batch, shared, heads // shared, v.shape[3]), dtype=xp.float32)
        grouped = q.reshape(length, batch, shared, heads // shared, size)
        for t in range(length if y.size else 0):
            if fade is not None:
                state *= fade[t][..., None]
            write = v[t][:, :, None]  # (B, H, 1, values)
            if rate is not None:
                write = rate[t][..., None] * (write - xp.matmul(k[t][:, :, None], state))
            state += k[t][..., None] * write
            y[t] = xp.matmul(grouped[t], state)
        y *= xp.float32(ctx.attributes["scale"] or 1 / math.sqrt(max(size, 1)))
        output = y.transpose(1, 0, 2, 3, 4).reshape(batch, length, heads * v.shape[3])
        kept = narrow(state, (query if past is None else past).dtype)
        return [narrow(output, query.dtype), kept][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Every tensor carries the items on axis 0."""
        first = ctx.rows[0]
        problem = side_inputs_problem(ctx, range(6))
        if problem or first is None or not first.is_rows or first.axis != 0:
            return ctx.mixed(problem or "its queries do not carry the items on axis 0")
        if any(state is not None and state != first for state in ctx.rows):
            return ctx.mixed("its inputs carry the items differently")
        return ctx.all_outputs(first)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per entry of the state, token and head, for writing and again for reading."""
        k, v = ctx.shape(1), ctx.shape(2)
        if k is None or v is None:
            return 0
        heads, shared = LinearAttention.heads(ctx)
        passes = 1 + (ctx.attributes["update_rule"] in CORRECTED)
        entries = element_count(k) * floordiv(v[2], shared)
        return 2 * entries * passes + 2 * entries * (heads // shared)


def _by_head(xp: Any, x: Array, heads: int) -> Array:  # (T, B, H, D)
    """Heads that lie side by side get an axis of their own, time goes first."""
    if x.ndim != 3 or x.shape[2] % heads:
        raise ValueError(f"expected (batch, time, {heads} heads * size), got {x.shape}")
    wide = widen(xp, x)
    return wide.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 0, 2, 3)


def _gate(xp: Any, x: Array, heads: int, sizes: Sequence[int]) -> Array:  # (T, B, H or 1, D or 1)
    """A number per head, for all heads, or per key entry."""
    if x.ndim != 3 or x.shape[2] not in sizes:
        raise ValueError(f"a gate of shape {x.shape}, expected a last axis of {sizes}")
    return _by_head(xp, x, heads if x.shape[2] % heads == 0 else 1)
