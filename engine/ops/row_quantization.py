"""Rows of floats as bytes, each row by its own range: the left side of products that compute with
8-bit weights (`engine.passes.integer_weights`). No model file needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.quantize import saturate
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

STEPS: Final = 127.0  # on either side of zero
ZERO_POINT: Final = 128  # what zero becomes: bytes without a sign multiply faster
SMALLEST: Final = 1e-35  # rows below it count as zeros: their reciprocals would overflow


@operator("QuantizeRows", since=FUSED_VERSION, domain=FUSED_DOMAIN)
class QuantizeRows:
    """`round(x * (127 / m)) + 128` as uint8 and `m / 127`, m the largest magnitude of each row.

    Input: x (..., K), float32. Outputs: bytes (..., K) and scales (..., 1). Zero is exact. A row
    with a NaN or an infinity has such a scale, too, so that it stays visible behind a product.
    """

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Bytes like x, a scale per row."""
        shape = ctx.shape(0)
        if ctx.dtype(0) is not DType.FLOAT32:
            ctx.fail(f"rows of {ctx.dtype(0)}, expected float32")
        if shape is not None and not shape:
            ctx.fail("a single number is no row")
        scales: tuple[Dim, ...] | None = None if shape is None else (*shape[:-1], 1)
        return [ctx.type(0).with_dtype(DType.UINT8), TensorType(DType.FLOAT32, scales)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """The range of a row is symmetric around zero."""
        xp = ctx.xp
        if not x.shape[-1]:
            return [x.astype(xp.uint8), xp.zeros((*x.shape[:-1], 1), dtype=xp.float32)]
        largest = xp.abs(x).max(axis=-1, keepdims=True)
        factor = xp.float32(STEPS) / xp.maximum(largest, xp.float32(SMALLEST))
        factor = xp.where(largest < xp.float32(SMALLEST), xp.float32(0), factor)
        shift = xp.asarray(ZERO_POINT, dtype=xp.uint8)
        bytes_ = saturate(xp, xp.rint(x * factor), shift, 0, 255)
        return [bytes_, largest / xp.float32(STEPS)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Every row by itself."""
        last = (ctx.rank(0) or 0) - 1
        return follow(ctx, lambda axis: axis if axis < last else None)
