"""RotaryEmbedding of ONNX itself: positions as angles of rotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState


@operator("RotaryEmbedding", since=23)
class RotaryEmbedding:
    """Turn pairs of entries of each head by the angle that belongs to their token's position.

    Su et al., "RoFormer" (2021), section 3.2. A pair is two entries half of the rotated part apart,
    or two neighbours. Tables hold a line per position, or, without positions, a line per token.
    """

    attributes = {"interleaved": 0, "num_heads": None, "rotary_embedding_dim": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        x, heads = ctx.type(0), ctx.attributes["num_heads"]
        if x.shape is not None and len(x.shape) not in (3, 4):
            ctx.fail(f"expected an input of rank 3 or 4, got shape {list(x.shape)}")
        if x.shape is not None and len(x.shape) == 3:
            if not heads or heads < 1:
                ctx.fail("an input of rank 3 needs num_heads")
            if isinstance(x.shape[2], int) and x.shape[2] % heads:
                ctx.fail(f"{x.shape[2]} entries do not divide into {heads} heads")
        rank = 2 if ctx.has(3) else 3
        for i in (1, 2):
            table = ctx.shape(i)
            if table is not None and len(table) != rank:
                ctx.fail(f"input {i} must have rank {rank}, got shape {list(table)}")
        if ctx.attributes["rotary_embedding_dim"] % 2 or ctx.attributes["rotary_embedding_dim"] < 0:
            ctx.fail("rotary_embedding_dim must be even and not negative")
        return [x]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        cosines: Array,
        sines: Array,
        positions: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        flat = x.ndim == 3
        tokens = x if not flat else x.reshape(*x.shape[:2], attributes["num_heads"], -1)
        wide = widen(xp, tokens if flat else tokens.transpose(0, 2, 1, 3))  # (B, S, N, H)
        size = attributes["rotary_embedding_dim"] or wide.shape[3]
        cos, sin = (_lines(xp, each, positions) for each in (cosines, sines))
        if cos.shape != (*wide.shape[:2], size // 2) or sin.shape != cos.shape or size % 2:
            raise ValueError(
                f"tables give {cos.shape} and {sin.shape}, {wide.shape[:2]} tokens with "
                f"{size} entries to rotate need {(*wide.shape[:2], size // 2)}"
            )
        y = turn(xp, wide, cos[:, :, None], sin[:, :, None], bool(attributes["interleaved"]))
        y = y.reshape(x.shape) if flat else xp.ascontiguousarray(y.transpose(0, 2, 1, 3))
        return [narrow(y, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on axis 0, of the positions too, or of the tables where there are none."""
        per_item = (0, 3) if len(ctx.rows) > 3 and ctx.rows[3] is not None else (0, 1, 2)
        problem = side_inputs_problem(ctx, per_item)
        first = ctx.rows[0]
        if problem or first is None or not first.is_rows or first.axis != 0:
            return ctx.mixed(problem or "its input does not carry the items on axis 0")
        if any(ctx.rows[i] != first for i in per_item):
            return ctx.mixed("its positions do not carry the items like the input")
        return [first]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Three per element."""
        shape = ctx.shape(0)
        return 0 if shape is None else 3 * element_count(shape)


def _lines(xp: Any, table: Array, positions: Array | None) -> Array:  # (B, S, half)
    """The table's lines for each token."""
    if positions is None:
        return widen(xp, table)
    if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < table.shape[0]:
        raise IndexError(f"a position is outside of the table's {table.shape[0]} lines")
    return widen(xp, table[positions])


def turn(xp: Any, x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:  # like x
    """Rotate the first pairs of the last axis by angles that broadcast with them."""
    half = cos.shape[-1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        left, right = turned[..., 0::2], turned[..., 1::2]
    else:
        left, right = turned[..., :half], turned[..., half:]
    pair = (left * cos - right * sin, left * sin + right * cos)
    if interleaved:
        whole = xp.stack(pair, axis=-1).reshape(turned.shape)
    else:
        whole = xp.concatenate(pair, axis=-1)
    return xp.concatenate((whole, rest), axis=-1) if rest.shape[-1] else whole
