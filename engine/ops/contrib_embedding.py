"""EmbedLayerNormalization: what BERT does before its first layer, in floats or quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_attention_core import head_rows
from engine.ops.contrib_common import MICROSOFT, check_fits, to_float
from engine.ops.normalization import standardize
from engine.ops.registry import operator
from engine.ops.rows import RowContext, RowState


def _infer(ctx: InferContext, kind: TensorType) -> Sequence[TensorType]:
    """Output (B, S, H), number of valid tokens (B), the sum before normalization (B, S, H)."""
    ids, table = ctx.type(0), ctx.shape(2)
    if ctx.has(1) != ctx.has(4):
        ctx.fail("segment ids and their embedding go together")
    for i in (2, 3):
        shape = ctx.shape(i)
        if shape is not None and len(shape) != 2:
            ctx.fail(f"expected an embedding of rank 2, got {list(shape)}")
    if ids.shape is not None and len(ids.shape) != 2:
        ctx.fail(f"expected ids of rank 2, got {list(ids.shape)}")
    hidden: Dim = table[1] if table else ctx.fresh_dim("hidden")
    whole = kind.with_shape(ids.shape and (*ids.shape, hidden))
    return [whole, ids.with_shape(ids.shape and ids.shape[:1]), whole][: ctx.n_outputs]


def _flops(ctx: InferContext) -> Dim:
    ids, table = ctx.shape(0), ctx.shape(2)
    return 0 if ids is None or table is None else 10 * element_count(ids) * table[1]


def _picked(xp: Any, table: Array, ids: Array) -> Array:
    """Rows of a table; an id outside of it is an error."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise ValueError(f"an id lies outside of the table's {len(table)} rows")
    return widen(xp, table[ids])


def _valid(xp: Any, ids: Array, mask: Array | None) -> Array:
    """How many tokens of each text the mask lets through; 0 without a mask, like ONNX Runtime."""
    if mask is None:
        return xp.zeros(ids.shape[0], dtype=ids.dtype)
    return (mask != 0).sum(axis=1).astype(ids.dtype)


@operator("EmbedLayerNormalization", since=1, domain=MICROSOFT)
class EmbedLayerNormalization:
    """LayerNormalization of the sum of word, position and segment embeddings."""

    attributes = {"epsilon": 1e-12, "mask_index_type": 0}
    flops = staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output, number of valid tokens, the sum before normalization."""
        return _infer(ctx, ctx.type(2))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        ids: Array,
        segments: Array | None,
        words: Array,
        places: Array,
        kinds: Array | None,
        gamma: Array,
        beta: Array,
        mask: Array | None = None,
        positions: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        positions = xp.arange(ids.shape[1])[None, :] if positions is None else positions
        check_fits(ids.shape, positions, segments)
        total = _picked(xp, words, ids) + _picked(xp, places, positions)
        if segments is not None and kinds is not None:
            total = total + _picked(xp, kinds, segments)
        check_fits(total.shape, gamma, beta)
        y = standardize(xp, total, (-1,), ctx.attributes["epsilon"])
        y = y * widen(xp, gamma) + widen(xp, beta)
        results = [narrow(y, words.dtype), _valid(xp, ids, mask), narrow(total, words.dtype)]
        return results[: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Texts lie on axis 0; positions may be the same for all."""
        return head_rows(ctx, {0: 0, 1: 0, 7: 0}, (8,), (0, 0, 0))


@operator("QEmbedLayerNormalization", since=1, domain=MICROSOFT)
class QEmbedLayerNormalization:
    """EmbedLayerNormalization of tables that are quantized with one scale each."""

    attributes = {"epsilon": 1e-12}
    flops = staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Output in the scales' type, and the number of valid tokens."""
        return _infer(ctx, TensorType(ctx.dtype(8), None))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        ids: Array,
        segments: Array | None,
        *rest: Array | None,
    ) -> Sequence[Array]:
        """Dequantize the tables, then as with floats."""
        given: list[Any] = [*rest, *(None,) * (16 - len(rest))]
        tables, mask, scales, zeros = given[:5], given[5], given[6:11], given[11:16]
        words, places, kinds, gamma, beta = (
            None if table is None else to_float(ctx.xp, table, scale, zero)
            for table, scale, zero in zip(tables, scales, zeros, strict=True)
        )
        return EmbedLayerNormalization.compute(
            ctx, ids, segments, words, places, kinds, gamma, beta, mask
        )

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Texts lie on axis 0."""
        return head_rows(ctx, {0: 0, 1: 0, 7: 0}, (), (0, 0))
