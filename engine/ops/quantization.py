"""Quantization: between floats and small integers or floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.render import compile_numpy
from engine.ir.types import Shape, TensorType, ceildiv, element_count
from engine.ops.casting import cast_expression
from engine.ops.common import Array, int_value, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.quantize import dequantize, quantize
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState


def spread_parameter(xp: Any, value: Array, x: Array, attributes: Any) -> Array:
    """Shape a scale or zero point to broadcast over `x`: one, one per axis entry or per block."""
    if value.size == 1:
        return value.reshape(())
    axis = normalize_axis(int(attributes.get("axis", 1)), x.ndim)
    block = int(attributes.get("block_size", 0))
    if block:
        expected = [-(-d // block) if k == axis else d for k, d in enumerate(x.shape)]
        if list(value.shape) != expected:
            raise ValueError(f"blocks of {block} need parameters {expected}, got {value.shape}")
        return xp.take(value, xp.arange(x.shape[axis]) // block, axis=axis)
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


def _check_parameters(ctx: InferContext) -> None:
    """Refuse scales and zero points that fit neither each other nor the tensor."""
    x, scale = ctx.shape(0), ctx.shape(1)
    block = int(ctx.attributes.get("block_size", 0))
    if not ctx.dtype(1).is_float and ctx.dtype(1) is not DType.INT32:
        ctx.fail(f"scales are {ctx.dtype(1)}, expected a floating-point type")
    if block < 0:
        ctx.fail(f"block_size must not be negative, got {block}")
    if ctx.has(2) and scale is not None and ctx.shape(2) is not None:
        zero = ctx.shape(2)
        sizes = [int_value(element_count(shape)) for shape in (scale, zero or ())]
        if None not in sizes and sizes[0] != sizes[1]:
            ctx.fail(f"scales {list(scale)} and zero points {list(zero or ())} differ in shape")
    if x is None or not scale or int_value(element_count(scale)) == 1:
        return
    axis = ctx.normal_axis(int(ctx.attributes["axis"]), len(x))
    if len(scale) > 1 and not block:
        ctx.fail(f"scales of shape {list(scale)} need a block_size")
    wanted: Shape = (x[axis],)
    if block:
        wanted = tuple(ceildiv(d, block) if k == axis else d for k, d in enumerate(x))
    differ = [
        (a, b)
        for a, b in zip(wanted, scale, strict=False)
        if None not in (int_value(a), int_value(b)) and a != b
    ]
    if len(wanted) != len(scale) or differ:
        ctx.fail(f"scales of shape {list(scale)} do not fit {list(x)}, expected {list(wanted)}")


def _quantized_dtype(ctx: InferContext) -> DType:
    stated = _stated_dtype(ctx)
    kind = ctx.dtype(2) if ctx.has(2) else stated or DType.UINT8
    if stated is not None and stated is not kind:
        ctx.fail(f"output_dtype is {stated}, the zero point is {kind}")
    small = kind.bits <= 8 and kind not in (DType.BOOL, DType.FLOAT8E8M0)
    if not small and kind not in (DType.INT16, DType.UINT16):
        ctx.fail(f"cannot quantize to {kind}")
    return kind


@operator("QuantizeLinear", since=(10, 13, 19, 21, 23, 24, 25, 28))
class QuantizeLinear:
    """Floats to small integers or floats: divide, round to even, shift, saturate."""

    attributes = {"axis": 1, "block_size": 0, "output_dtype": 0, "precision": 0, "saturate": 1}
    rows = staticmethod(_parameter_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The zero point's type, or the stated one, or uint8."""
        _check_parameters(ctx)
        return [ctx.type(0).with_dtype(_quantized_dtype(ctx))]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, zero_point: Array | None = None
    ) -> Sequence[Array]:
        """Divide in float32, rounded to `precision` where the node states one."""
        xp, attributes = ctx.xp, ctx.attributes
        if zero_point is None:
            kind = (_stated_dtype(ctx) or DType.UINT8).numpy
            zero_point = xp.zeros(scale.shape, dtype=kind)
        scale = spread_parameter(xp, scale, x, attributes).astype(xp.float32)
        zero_point = spread_parameter(xp, zero_point, x, attributes)
        x = x.astype(xp.float32, copy=False)
        if attributes.get("precision", 0):
            kind = DType.from_onnx(attributes["precision"]).numpy
            x = (x / scale.astype(kind).astype(xp.float32)).astype(kind).astype(xp.float32)
            scale = xp.ones((), dtype=xp.float32)
        if DType.from_numpy(zero_point.dtype).is_float:
            value = x / scale + zero_point.astype(xp.float32)
            return [to_small_float(xp, value, zero_point.dtype, attributes.get("saturate", 1))]
        return [quantize(xp, x, scale, zero_point)]


def to_small_float(xp: Any, value: Array, dtype: Any, saturated: int = 1) -> Array:
    """Round to a float of 8 bits or fewer; `saturated` holds large values at the largest."""
    kind = DType.from_numpy(dtype)
    # Types of fewer than 8 bits have nothing beyond their largest value.
    return compile_numpy(
        cast_expression(DType.FLOAT32, kind, bool(saturated) or kind.bits < 8), xp
    )(value)


@operator("DequantizeLinear", since=(10, 13, 19, 21, 23, 24, 25, 28))
class DequantizeLinear:
    """Small integers or floats to floats: shift and scale."""

    attributes = {"axis": 1, "block_size": 0, "output_dtype": 0}
    rows = staticmethod(_parameter_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The scale's type, or the stated one."""
        _check_parameters(ctx)
        kind = _stated_dtype(ctx) or ctx.dtype(1)
        if not kind.is_float or kind.bits < 16:
            ctx.fail(f"cannot dequantize to {kind}; output_dtype may state a wider type")
        return [ctx.type(0).with_dtype(kind)]

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
