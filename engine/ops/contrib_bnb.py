"""Weights of 4 bits out of a table of 16 values, as bitsandbytes quantizes language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

# A sign, two bits of exponent and one of mantissa, over their largest value 12.
FP4_HALF = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
# Quantiles of a normal distribution, from "QLoRA" (Dettmers et al., 2023), appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
TABLES = ((*FP4_HALF, *(-value for value in FP4_HALF)), NF4)


@operator("MatMulBnb4", since=1, domain=MICROSOFT)
class MatMulBnb4:
    """`A @ W'` with W (N, K) as codes of 4 bits; a block of them shares its largest magnitude."""

    attributes = {
        "K": REQUIRED,
        "N": REQUIRED,
        "block_size": REQUIRED,
        "quant_type": REQUIRED,
        "training_mode": 0,
        "transB": 1,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The last dim becomes N."""
        a, attributes = ctx.shape(0), ctx.attributes
        n, k, block, kind = (int(attributes[x]) for x in ("N", "K", "block_size", "quant_type"))
        if not attributes["transB"]:
            ctx.unsupported("transB=0 is not supported")
        if min(n, k) < 1 or block < 16 or block & (block - 1) or kind not in (0, 1):
            ctx.fail(f"N={n}, K={k}, block_size={block} and quant_type={kind} do not go together")
        if a is not None and (not a or int_value(a[-1]) not in (None, k)):
            ctx.fail(f"expected {k} entries on the last axis of A, got {list(a)}")
        for i, size in ((1, -(-n * k // 2)), (2, -(-n * k // block))):
            shape = ctx.shape(i)
            stored = None if shape is None else int_value(element_count(shape))
            if stored not in (None, size):
                ctx.fail(f"input {i} has {stored} entries, expected {size}")
        return [ctx.type(0).with_shape(None if a is None else (*a[:-1], n))]

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, packed: Array, largest: Array) -> Sequence[Array]:
        """Narrow floats multiply in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        n, k, block = (int(attributes[name]) for name in ("N", "K", "block_size"))
        check_size(ctx, (n, k), xp.float32)
        weights = _decoded(xp, packed, largest, TABLES[int(attributes["quant_type"])], n * k, block)
        y = xp.matmul(widen(xp, a), weights.reshape(n, k).T)
        return [narrow(y, a.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie anywhere but on the last axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        return follow(ctx, lambda axis: None if axis == rank - 1 else axis)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        a = ctx.shape(0)
        return 0 if a is None else 2 * element_count(a) * int(ctx.attributes["N"])


def _decoded(
    xp: Any, packed: Array, largest: Array, table: Sequence[float], count: int, block: int
) -> Array:  # (count,)
    """Codes, the high half of a byte first, as the values they stand for."""
    flat = packed.reshape(-1)
    if flat.size != -(-count // 2) or largest.size != -(-count // block):
        raise ValueError(f"{flat.size} bytes and {largest.size} scales for {count} weights")
    codes = xp.stack((flat >> 4, flat & 15), axis=1).reshape(-1)[:count]
    values = xp.asarray(table, dtype=xp.float32)[codes]
    return values * widen(xp, largest.reshape(-1))[xp.arange(count) // block]
