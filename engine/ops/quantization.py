"""Quantization: between floats and small integers, and products of integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.conv import CONV_ATTRIBUTES, conv_shape, conv_window, with_bias
from engine.ops.cores.convolution import convolve
from engine.ops.cores.quantize import (
    centred,
    dequantize,
    exact_type,
    integer_range,
    quantize,
    saturate,
)
from engine.ops.linalg import matmul_flops, matmul_rows, matmul_shape
from engine.ops.registry import operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState

AXIS_SINCE = 13  # before, there was one scale for the whole tensor


def spread_parameter(xp: Any, value: Array, x: Array, attributes: Any) -> Array:
    """Shape a scale or zero point to broadcast over `x`: one, one per axis entry or per block."""
    if value.size == 1:
        return value.reshape(())
    axis = normalize_axis(int(attributes.get("axis", 1)), x.ndim)
    block = int(attributes.get("block_size", 0))
    if block:
        if value.ndim != x.ndim:
            raise ValueError(f"blocks need parameters of rank {x.ndim}, got shape {value.shape}")
        repeated = xp.repeat(value, block, axis=axis)
        return repeated[(slice(None),) * axis + (slice(x.shape[axis]),)]
    if value.size != x.shape[axis]:
        raise ValueError(f"{value.size} parameters for axis {axis} of shape {x.shape}")
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


def _parameter_rows(ctx: RowContext) -> Sequence[RowState]:
    """Elementwise; parameters must not run along the items' axis."""
    rank = ctx.rank(0)
    scale = ctx.types[1]
    if not rank or scale is None or scale.shape is None:
        return ctx.mixed("its rank is unknown")
    if len(scale.shape) == 0 or scale.shape == (1,):
        return follow(ctx, lambda axis: axis)
    if len(scale.shape) > 1:
        return ctx.mixed("its parameters are blocked")
    along = normalize_axis(int(ctx.attributes["axis"]), rank)
    return follow(ctx, lambda axis: None if axis == along else axis)


def _stated_dtype(ctx: Any) -> DType | None:
    number = ctx.attributes.get("output_dtype", 0)
    return DType.from_onnx(int(number)) if number else None


@operator("QuantizeLinear", since=(10, 13, 19, 21, 23, 24, 25))
class QuantizeLinear:
    """Floats to small integers or 8-bit floats: divide, round to even, shift, saturate."""

    attributes = {"axis": 1, "block_size": 0, "output_dtype": 0, "precision": 0, "saturate": 1}
    rows = staticmethod(_parameter_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The zero point's type, or the stated one, or uint8."""
        kind = ctx.dtype(2) if ctx.has(2) else _stated_dtype(ctx) or DType.UINT8
        return [ctx.type(0).with_dtype(kind)]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, zero_point: Array | None = None
    ) -> Sequence[Array]:
        """Divide in float32."""
        xp = ctx.xp
        if zero_point is None:
            kind = (_stated_dtype(ctx) or DType.UINT8).numpy
            zero_point = xp.zeros(scale.shape, dtype=kind)
        scale = spread_parameter(xp, scale, x, ctx.attributes).astype(xp.float32)
        zero_point = spread_parameter(xp, zero_point, x, ctx.attributes)
        x = x.astype(xp.float32, copy=False)
        if DType.from_numpy(zero_point.dtype).is_float:
            return [_to_small_float(xp, x / scale, zero_point.dtype, ctx.attributes["saturate"])]
        return [quantize(xp, x, scale, zero_point)]


def _to_small_float(xp: Any, value: Array, dtype: Any, saturated: int) -> Array:
    """Round to an 8-bit or 4-bit float; `saturated` holds large values at the largest."""
    largest = _largest(dtype)
    if saturated:
        value = xp.clip(value, -largest, largest)
    return value.astype(dtype)


def _largest(dtype: Any) -> float:
    """The largest finite value of a small float type."""
    bits = DType.from_numpy(dtype)
    return {
        DType.FLOAT8E4M3FN: 448.0,
        DType.FLOAT8E4M3FNUZ: 240.0,
        DType.FLOAT8E5M2: 57344.0,
        DType.FLOAT8E5M2FNUZ: 57344.0,
        DType.FLOAT4E2M1: 6.0,
    }.get(bits, math.inf)


@operator("DequantizeLinear", since=(10, 13, 19, 21, 23, 24, 25))
class DequantizeLinear:
    """Small integers or 8-bit floats to floats: shift and scale."""

    attributes = {"axis": 1, "block_size": 0, "output_dtype": 0}
    rows = staticmethod(_parameter_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The scale's type, or the stated one."""
        return [ctx.type(0).with_dtype(_stated_dtype(ctx) or ctx.dtype(1))]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, zero_point: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        kind = (_stated_dtype(ctx) or DType.from_numpy(scale.dtype)).numpy
        factor = widen(xp, spread_parameter(xp, scale, x, ctx.attributes)).astype(xp.float32)
        shift = None
        if zero_point is not None:
            shift = spread_parameter(xp, zero_point, x, ctx.attributes)
        return [narrow(dequantize(xp, x, factor, shift), kind)]


def dynamic_quantize(xp: Any, x: Array) -> list[Array]:
    """Values as uint8, their scale and zero point; the range includes zero."""
    zero = xp.float32(0)
    low = xp.minimum(x.min(), zero) if x.size else zero
    high = xp.maximum(x.max(), zero) if x.size else zero
    scale = xp.asarray((high - low) / xp.float32(255), dtype=xp.float32)
    divisor = xp.where(scale == 0, xp.float32(1), scale)
    shift = xp.asarray(xp.rint(xp.clip(-low / divisor, 0, 255)).astype(xp.uint8))
    return [quantize(xp, x, divisor, shift), scale, shift]


@operator("DynamicQuantizeLinear", since=11)
class DynamicQuantizeLinear:
    """Quantize to uint8 with a scale and zero point taken from the values' own range."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Values, scale and zero point."""
        kinds = [
            ctx.type(0).with_dtype(DType.UINT8),
            TensorType(DType.FLOAT32, ()),
            TensorType(DType.UINT8, ()),
        ]
        return kinds[: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """The range always includes zero, so that zero is exact."""
        return dynamic_quantize(ctx.xp, x)[: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The range is taken over all items."""
        return ctx.mixed("its scale comes from the values of all items")


def integer_matmul(
    xp: Any, a: Array, b: Array, a_zero: Array | None, b_zero: Array | None
) -> Array:
    """The exact product of integer matrices without their zero points, as whole floats."""
    kind = exact_type(xp, a.shape[-1], a, b)
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
    scaled = xp.asarray(xp.rint(value.astype(xp.float32) * ratio))
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
