"""Quantized convolution, pooling and products of the domain com.microsoft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array, merged, normalize_axes, normalize_axis
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import (
    MICROSOFT,
    as_channels_first,
    channels_first,
    channels_last,
    check_fits,
    expect_quantized,
    first_shape,
    last_shape,
    to_float,
    to_integer,
)
from engine.ops.conv import CONV_ATTRIBUTES, conv_shape
from engine.ops.cores.pool import sum_pool, window_counts
from engine.ops.integer_products import QLinearConv, integer_matmul, requantize
from engine.ops.linalg import Gemm
from engine.ops.pooling import POOL_ATTRIBUTES, MaxPool, pool_flops, pool_shape, resolve_pool
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState


@operator("QLinearConv", since=1, domain=MICROSOFT)
class LayoutQLinearConv:
    """ONNX's QLinearConv, on request with the channels last."""

    attributes = {**CONV_ATTRIBUTES, "channels_last": 0}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv; the output zero point's type."""
        last = ctx.attributes["channels_last"]
        x = first_shape(ctx.shape(0)) if last else ctx.shape(0)
        shape = conv_shape(ctx, x, ctx.shape(3))
        return [TensorType(ctx.dtype(7), last_shape(shape) if last else shape)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, *rest: Array) -> Sequence[Array]:
        """Exact sums, one rounding."""
        if not ctx.attributes["channels_last"]:
            return QLinearConv.compute(ctx, x, *rest)
        (y,) = QLinearConv.compute(ctx, ctx.xp.ascontiguousarray(channels_first(x)), *rest)
        return [channels_last(ctx.xp, y)]


def _pooled(ctx: InferContext) -> InferContext:
    return as_channels_first(ctx) if ctx.attributes["channels_last"] else ctx


def _pool_flops(ctx: InferContext) -> Dim:
    return pool_flops(_pooled(ctx))


@operator("QLinearAveragePool", since=1, domain=MICROSOFT)
class QLinearAveragePool:
    """Mean of each window of a quantized tensor, quantized again."""

    attributes = {**POOL_ATTRIBUTES, "ceil_mode": 0, "channels_last": 0, "count_include_pad": 0}
    rows, flops = staticmethod(leading), staticmethod(_pool_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One position per place of the window."""
        expect_quantized(ctx, (0,), 3)
        shape = pool_shape(_pooled(ctx))
        return [TensorType(ctx.dtype(0), last_shape(shape) if _is_last(ctx) else shape)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y_scale: Array,
        y_zero: Array | None = None,
    ) -> Sequence[Array]:
        """In float32, one rounding."""
        xp = ctx.xp
        x = xp.ascontiguousarray(channels_first(x)) if _is_last(ctx) else x
        window, outputs = resolve_pool(ctx, x)
        total = sum_pool(xp, to_float(xp, x, x_scale, x_zero), window, outputs)
        include = bool(ctx.attributes["count_include_pad"])
        total /= window_counts(xp, x.shape[2:], window, outputs, include, total.dtype)
        y = to_integer(xp, total, y_scale, y_zero, x.dtype)
        return [channels_last(xp, y) if _is_last(ctx) else y]


def _is_last(ctx: InferContext | ComputeContext) -> bool:
    return bool(ctx.attributes["channels_last"])


@operator("QLinearGlobalAveragePool", since=1, domain=MICROSOFT)
class QLinearGlobalAveragePool:
    """Mean over all spatial axes of a quantized tensor, quantized again."""

    attributes = {"channels_last": 0}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Spatial axes of size 1."""
        x = _pooled(ctx).type(0)
        expect_quantized(ctx, (0,), 3)
        if x.shape is not None and len(x.shape) < 3:
            ctx.fail(f"expected an input of rank 3 or more, got shape {list(x.shape)}")
        shape = x.shape and (*x.shape[:2], *(1,) * (len(x.shape) - 2))
        return [x.with_shape(last_shape(shape) if _is_last(ctx) else shape)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y_scale: Array,
        y_zero: Array | None = None,
    ) -> Sequence[Array]:
        """In float32, one rounding."""
        x = ctx.xp.ascontiguousarray(channels_first(x)) if _is_last(ctx) else x
        lines = merged(to_float(ctx.xp, x, x_scale, x_zero), 2)
        mean = lines.mean(axis=2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        y = to_integer(ctx.xp, mean, y_scale, y_zero, x.dtype)
        return [channels_last(ctx.xp, y) if _is_last(ctx) else y]


@operator("NhwcMaxPool", since=1, domain=MICROSOFT)
class NhwcMaxPool:
    """MaxPool of small integers with the channels last."""

    attributes = {**POOL_ATTRIBUTES, "ceil_mode": 0, "dilations": (), "storage_order": 0}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One position per place of the window."""
        return [TensorType(ctx.dtype(0), last_shape(pool_shape(as_channels_first(ctx))))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """No rounding happens."""
        (y,) = MaxPool.compute(ctx, ctx.xp.ascontiguousarray(channels_first(x)))
        return [channels_last(ctx.xp, y)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """One per window element."""
        return pool_flops(as_channels_first(ctx))


@operator("QLinearReduceMean", since=1, domain=MICROSOFT)
class QLinearReduceMean:
    """Mean of a quantized tensor over some axes, quantized again."""

    attributes = {"axes": REQUIRED, "keepdims": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The axes dropped, or of size 1."""
        x = ctx.type(0)
        expect_quantized(ctx, (0,), 3)
        if x.shape is None:
            return [x]
        rank = len(x.shape)
        axes = {ctx.normal_axis(a, rank) for a in ctx.attributes["axes"]} or set(range(rank))
        kept = [1 if k in axes else d for k, d in enumerate(x.shape)]
        if not ctx.attributes["keepdims"]:
            kept = [d for k, d in enumerate(kept) if k not in axes]
        return [x.with_shape(kept)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y_scale: Array,
        y_zero: Array | None = None,
    ) -> Sequence[Array]:
        """In float32, one rounding."""
        axes = normalize_axes(ctx.attributes["axes"], x.ndim) or None
        real = to_float(ctx.xp, x, x_scale, x_zero)
        mean = ctx.xp.asarray(real.mean(axis=axes, keepdims=bool(ctx.attributes["keepdims"])))
        return [to_integer(ctx.xp, mean, y_scale, y_zero, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items must not lie on an axis that the mean is taken over."""
        rank = ctx.rank(0)
        if not rank or not ctx.attributes["axes"]:
            return ctx.mixed("its rank is unknown, or the mean is taken over everything")
        axes = {normalize_axis(a, rank) for a in ctx.attributes["axes"]}
        gone = axes if not ctx.attributes["keepdims"] else set()
        return follow(ctx, lambda a: None if a in axes else a - sum(g < a for g in gone))


@operator("QGemm", since=1, domain=MICROSOFT)
class QGemm:
    """`alpha * A' @ B' + C` of quantized matrices, as floats or quantized again.

    C counts in units of the product of both scales and `alpha`.
    """

    attributes = {"alpha": 1.0, "transA": 0, "transB": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Gemm; floats where no output scale is given."""
        if ctx.has(7) != ctx.has(8):
            ctx.fail("an output scale and its zero point go together")
        kind = ctx.dtype(8) if ctx.has(8) else DType.FLOAT32
        if ctx.has(8) and kind is not ctx.dtype(0):
            ctx.fail(f"the output's zero point is {kind}, expected {ctx.dtype(0)}")
        return [TensorType(kind, Gemm.shape(_gemm_context(ctx)))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        a_scale: Array,
        a_zero: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array,
        c: Array | None = None,
        y_scale: Array | None = None,
        y_zero: Array | None = None,
    ) -> Sequence[Array]:
        """Exact sums, one rounding."""
        xp, attributes = ctx.xp, ctx.attributes
        left = a.T if attributes["transA"] else a
        right = b.T if attributes["transB"] else b
        value = integer_matmul(xp, left, right, a_zero, b_zero)
        check_fits(value.shape, b_scale, c)
        if c is not None:
            value = value + c.astype(value.dtype)
        factor = a_scale.reshape(()) * xp.float32(attributes["alpha"])
        if y_scale is None or y_zero is None:
            return [(value.astype(xp.float32) * (factor * b_scale)).astype(xp.float32)]
        return [requantize(xp, value, (xp.asarray(factor), b_scale, y_scale), y_zero)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Rows of A' are independent if C has none of its own."""
        c = ctx.types[6] if len(ctx.types) > 6 else None
        if c is not None and (c.shape is None or (len(c.shape) == 2 and c.shape[0] != 1)):
            return ctx.mixed("C has rows of its own")
        rows_axis = 1 if ctx.attributes["transA"] else 0
        return follow(ctx, lambda axis: 0 if axis == rows_axis else None)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return Gemm.flops(_gemm_context(ctx))


def _gemm_context(ctx: InferContext) -> InferContext:
    """The context in which the matrices are inputs 0 and 1."""
    return replace(ctx, types=(ctx.type(0), ctx.type(3)))
