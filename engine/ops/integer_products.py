"""Products and convolutions of small integers: summed exactly, as int32 or quantized again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.conv import (
    CONV_ATTRIBUTES,
    check_convolution,
    conv_shape,
    conv_window,
    with_bias,
)
from engine.ops.cores.convolution import convolve
from engine.ops.cores.quantize import centred, exact_type, integer_range, saturate
from engine.ops.linalg import matmul_flops, matmul_rows, matmul_shape
from engine.ops.quantization import to_small_float
from engine.ops.registry import operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState


def integer_matmul(
    xp: Any, a: Array, b: Array, a_zero: Array | None, b_zero: Array | None
) -> Array:
    """The exact product of integer matrices without their zero points, as whole floats.

    Floats of 8 bits multiply in float32.
    """
    is_float = DType.from_numpy(a.dtype).is_float
    kind = xp.float32 if is_float else exact_type(xp, a.shape[-1], a, b)
    # A vector of zero points holds one per row of `a`, or one per column of `b`.
    if a_zero is not None and a_zero.ndim == 1 and a_zero.size > 1:
        a_zero = a_zero.reshape(-1, 1)
    return xp.matmul(centred(a, a_zero, kind), centred(b, b_zero, kind))


def to_int32(xp: Any, value: Array) -> Array:
    """Whole floats to int32; what does not fit wraps around."""
    return value.astype(xp.int64).astype(xp.int32)


def requantize(
    xp: Any, value: Array, scales: tuple[Array, Array, Array], zero_point: Array
) -> Array:
    """Whole float sums, times the input scales over the output's, rounded and saturated."""
    left, right, out = scales
    ratio = left.astype(xp.float32) * right.astype(xp.float32) / out.astype(xp.float32)
    real = xp.asarray(value.astype(xp.float32) * ratio)
    if DType.from_numpy(zero_point.dtype).is_float:
        return to_small_float(xp, real + zero_point.astype(xp.float32), zero_point.dtype)
    scaled = xp.rint(real)
    return saturate(xp, scaled, zero_point, *integer_range(zero_point.dtype))


@operator("MatMulInteger", since=10)
class MatMulInteger:
    """Product of 8-bit matrices, summed in int32."""

    flops = staticmethod(matmul_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules."""
        return [TensorType(DType.INT32, matmul_shape(ctx, ctx.shape(0), ctx.shape(1)))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        b: Array,
        a_zero: Array | None = None,
        b_zero: Array | None = None,
    ) -> Sequence[Array]:
        """Exact."""
        return [to_int32(ctx.xp, integer_matmul(ctx.xp, a, b, a_zero, b_zero))]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like MatMul, with one zero point for all rows."""
        zero = ctx.types[2] if len(ctx.types) > 2 else None
        if zero is not None and zero.shape not in ((), (1,)):
            return ctx.mixed("each row has a zero point of its own")
        return matmul_rows(ctx)


@operator("QLinearMatMul", since=(10, 21))
class QLinearMatMul:
    """Product of quantized matrices, quantized again."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules; the output zero point's type."""
        return [TensorType(ctx.dtype(7), matmul_shape(ctx, ctx.shape(0), ctx.shape(3)))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        a_scale: Array,
        a_zero: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array,
        y_scale: Array,
        y_zero: Array,
    ) -> Sequence[Array]:
        """Exact sums, one rounding."""
        xp = ctx.xp
        value = integer_matmul(xp, a, b, a_zero, b_zero)
        left = a_scale.reshape(-1, 1) if a_scale.ndim == 1 and a_scale.size > 1 else a_scale
        return [requantize(xp, value, (left, b_scale, y_scale), y_zero)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like MatMul, with the same parameters for all rows."""
        for i in (1, 2, 6, 7):
            kind = ctx.types[i]
            if kind is None or kind.shape not in ((), (1,)):
                return ctx.mixed("each row has parameters of its own")
        return matmul_rows(ctx, 0, 3)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return matmul_flops(ctx, 0, 3)


def integer_conv(
    ctx: ComputeContext, x: Array, w: Array, x_zero: Array | None, w_zero: Array | None
) -> Array:
    """The exact convolution of integers without their zero points, as whole floats."""
    xp = ctx.xp
    window = conv_window(ctx, x, w)
    kind = exact_type(xp, math.prod(w.shape[1:]), x, w)
    check_convolution(ctx, x, w, window, kind)
    if w_zero is not None and w_zero.size > 1:
        w_zero = w_zero.reshape(-1, *(1,) * (w.ndim - 1))
    weights = centred(w, w_zero, kind)
    # Padding adds quantized zeros, that is true zeros once the zero point is gone.
    return convolve(xp, centred(x, x_zero, kind), weights, window, ctx.attributes["group"])


@operator("ConvInteger", since=10)
class ConvInteger:
    """Convolution of 8-bit integers, summed in int32."""

    attributes = CONV_ATTRIBUTES
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv."""
        return [TensorType(DType.INT32, conv_shape(ctx, ctx.shape(0), ctx.shape(1)))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        x_zero: Array | None = None,
        w_zero: Array | None = None,
    ) -> Sequence[Array]:
        """Exact."""
        return [to_int32(ctx.xp, integer_conv(ctx, x, w, x_zero, w_zero))]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return _conv_flops(ctx, 1)


@operator("QLinearConv", since=10)
class QLinearConv:
    """Convolution of quantized tensors, quantized again."""

    attributes = CONV_ATTRIBUTES
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv; the output zero point's type."""
        return [TensorType(ctx.dtype(7), conv_shape(ctx, ctx.shape(0), ctx.shape(3)))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        x_scale: Array,
        x_zero: Array,
        w: Array,
        w_scale: Array,
        w_zero: Array,
        y_scale: Array,
        y_zero: Array,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Exact sums, one rounding; the bias counts in units of the input scales' product."""
        value = with_bias(integer_conv(ctx, x, w, x_zero, w_zero), bias)
        per_filter = w_scale.reshape(-1, *(1,) * (w.ndim - 2)) if w_scale.size > 1 else w_scale
        return [requantize(ctx.xp, value, (x_scale, per_filter, y_scale), y_zero)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return _conv_flops(ctx, 3)


def _conv_flops(ctx: InferContext, weights: int) -> Dim:
    out, w = conv_shape(ctx, ctx.shape(0), ctx.shape(weights)), ctx.shape(weights)
    return 0 if out is None or w is None else 2 * element_count(out) * element_count(w[1:])
