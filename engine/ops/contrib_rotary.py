"""Rotary position embedding as com.microsoft has it: angles by position from two tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_attention_core import merge_heads, split_heads
from engine.ops.contrib_common import MICROSOFT
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState


def rotate(
    xp: Any,
    x: Array,  # (B, N, S, H)
    positions: Array,  # (B or 1, S)
    cos_table: Array,  # (longest, R / 2)
    sin_table: Array,
    interleaved: bool,
) -> Array:
    """Turn pairs of the first R entries of each head by the angle of its position.

    A pair is two neighbours, or entries half of R apart. From "RoFormer" (Su et al., 2021).
    """
    half = cos_table.shape[1]
    if 2 * half > x.shape[-1] or cos_table.shape != sin_table.shape:
        raise ValueError(f"tables of shape {cos_table.shape} do not fit heads of {x.shape[-1]}")
    if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < len(cos_table):
        raise ValueError(f"a position lies outside of the tables' {len(cos_table)} entries")
    cos, sin = (widen(xp, table)[positions][:, None] for table in (cos_table, sin_table))
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        left, right = turned[..., 0::2], turned[..., 1::2]
    else:
        left, right = turned[..., :half], turned[..., half:]
    pair = left * cos - right * sin, right * cos + left * sin  # (B, N, S, R / 2) each
    whole = (
        xp.stack(pair, axis=-1).reshape(turned.shape) if interleaved else xp.concatenate(pair, -1)
    )
    return xp.concatenate((whole, rest), axis=-1) if rest.shape[-1] else whole


@operator("RotaryEmbedding", since=1, domain=MICROSOFT)
class RotaryEmbedding:
    """Rotary position embedding of heads side by side (rank 3) or on axis 1 (rank 4)."""

    attributes = {
        "interleaved": 0,
        "is_packed_batching": 0,
        "num_heads": 0,
        "rotary_embedding_dim": 0,
        "scale": 1.0,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        x, attributes = ctx.type(0), ctx.attributes
        if x.shape is not None and len(x.shape) not in (3, 4):
            ctx.fail(f"expected an input of rank 3 or 4, got {list(x.shape)}")
        if attributes["rotary_embedding_dim"] > 0 and attributes["num_heads"] < 1:
            ctx.fail("rotary_embedding_dim needs num_heads")
        if attributes["scale"] != 1.0:
            ctx.unsupported("a scale other than 1 is not supported")
        return [x]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, positions: Array, cos_table: Array, sin_table: Array
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        heads = x
        if x.ndim == 3:
            size = 2 * cos_table.shape[1]
            partial = attributes["rotary_embedding_dim"] > 0
            count = int(attributes["num_heads"]) if partial else x.shape[2] // max(size, 1)
            heads = split_heads(x, count)
        length = heads.shape[2]
        if positions.size == 1:  # where the first one is
            positions = positions.reshape(1, 1) + xp.arange(length, dtype=positions.dtype)
        if positions.shape not in ((heads.shape[0], length), (1, length)):
            raise ValueError(f"positions of shape {positions.shape} do not fit {heads.shape}")
        interleaved = bool(attributes["interleaved"])
        y = rotate(xp, widen(xp, heads), positions, cos_table, sin_table, interleaved)
        return [narrow(merge_heads(xp, y) if x.ndim == 3 else y, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0, of the positions too unless they are one for all."""
        data, places = ctx.rows[0], ctx.rows[1]
        kind = ctx.types[1]
        if data is not None and data == places and data.axis == 0 and ctx.rank(1) == 2:
            return ctx.all_outputs(data) if ctx.only(0, 1) else ctx.mixed("its tables vary")
        if kind is not None and kind.shape is not None and kind.shape[:1] == (1,):
            return follow(ctx, lambda axis: 0 if axis == 0 else None)
        return ctx.mixed("its positions do not carry the items like the input")

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Three per element."""
        shape = ctx.shape(0)
        return 0 if shape is None else 3 * element_count(shape)
