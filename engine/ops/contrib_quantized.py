"""Quantized forms of common operators, in the domain com.microsoft: in float32, one rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.ir.types import TensorType, broadcast_shapes
from engine.ops.common import Array, merged, normalize_axis
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import (
    MICROSOFT,
    broadcast_part,
    expect_quantized,
    to_float,
    to_integer,
)
from engine.ops.quantization import DequantizeLinear, QuantizeLinear
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow
from engine.ops.rows import SIZES, RowContext, RowState, rows_on
from engine.ops.softmax import softmax


@operator("QuantizeLinear", since=1, domain=MICROSOFT)
class OldQuantizeLinear(QuantizeLinear):
    """ONNX's QuantizeLinear by axis, of types that older opsets of ONNX lack (16 and 4 bits)."""

    attributes = {"axis": 1}


@operator("DequantizeLinear", since=1, domain=MICROSOFT)
class OldDequantizeLinear(DequantizeLinear):
    """ONNX's DequantizeLinear by axis, of types that older opsets of ONNX lack (16 and 4 bits)."""

    attributes = {"axis": 1}


def _binary_infer(ctx: InferContext) -> Sequence[TensorType]:
    expect_quantized(ctx, (0, 3), 6)
    return [TensorType(ctx.dtype(0), broadcast_shapes(ctx.shape(0), ctx.shape(3)))]


def _binary(ctx: ComputeContext, combine: Callable[..., Array], inputs: Sequence[Any]) -> Array:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, *rest = inputs
    y_zero = rest[0] if rest else None
    left, right = to_float(ctx.xp, a, a_scale, a_zero), to_float(ctx.xp, b, b_scale, b_zero)
    return to_integer(ctx.xp, combine(left, right), y_scale, y_zero, a.dtype)


def _binary_rows(ctx: RowContext) -> Sequence[RowState]:
    """Both sides carry the items on axis 0 of the same rank, or one side has size 1 there."""
    rank = ctx.outputs[0].rank
    places = set()
    for i in (0, 3):
        state, kind = ctx.rows[i], ctx.types[i]
        if state is None or kind is None or kind.shape is None or rank is None:
            return ctx.mixed("a rank is unknown")
        if state.is_rows:
            places.add((rank - len(kind.shape) + state.axis, state.block))
        elif state == SIZES or (len(kind.shape) == rank and kind.shape[0] != 1):
            return ctx.mixed(f"input {i} has a size of its own on the axis of the items")
    if len(places) != 1 or (place := next(iter(places)))[0] != 0:
        return ctx.mixed("its inputs carry the items differently")
    return ctx.all_outputs(rows_on(*place))


@operator("QLinearAdd", since=1, domain=MICROSOFT)
class QLinearAdd:
    """Sum of quantized tensors, quantized again."""

    infer, rows = staticmethod(_binary_infer), staticmethod(_binary_rows)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """In float32, one rounding."""
        return [_binary(ctx, ctx.xp.add, inputs)]


@operator("QLinearMul", since=1, domain=MICROSOFT)
class QLinearMul:
    """Product of quantized tensors, quantized again."""

    infer, rows = staticmethod(_binary_infer), staticmethod(_binary_rows)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """In float32, one rounding."""
        return [_binary(ctx, ctx.xp.multiply, inputs)]


@operator("QLinearSoftmax", since=1, domain=MICROSOFT)
class QLinearSoftmax:
    """Softmax of a quantized tensor, quantized again."""

    attributes = {"axis": -1, "opset": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        x = ctx.type(0)
        expect_quantized(ctx, (0,), 3)
        if x.shape:
            ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        return [x]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y_scale: Array,
        y_zero: Array | None = None,
    ) -> Sequence[Array]:
        """In float32, one rounding; before opset 13 over all axes from `axis` on."""
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        real = to_float(ctx.xp, x, x_scale, x_zero)
        if ctx.attributes["opset"] < 13:
            flat = merged(real, axis)
            y = softmax(ctx.xp, flat, -1).reshape(x.shape)
        else:
            y = softmax(ctx.xp, real, axis)
        return [to_integer(ctx.xp, y, y_scale, y_zero, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie in front of the axis, or from opset 13 on anywhere beside it."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank)
        beside = ctx.attributes["opset"] >= 13
        return follow(ctx, lambda a: a if a < axis or (beside and a != axis) else None)


def _parts(inputs: Sequence[Array | None]) -> list[tuple[Array | None, ...]]:
    return [tuple(inputs[i : i + 3]) for i in range(0, len(inputs), 3)]


@operator("QLinearConcat", since=1, domain=MICROSOFT)
class QLinearConcat:
    """Quantized tensors one after the other along an axis, brought to one scale."""

    attributes = {"axis": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Add the dims up along the axis."""
        starts = range(2, len(ctx.types), 3)
        expect_quantized(ctx, starts, 0)
        kinds = [ctx.type(i) for i in starts]
        first = kinds[0]
        if any(k.shape is None for k in kinds) or first.shape is None:
            return [first.with_shape(None)]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(first.shape))
        total = sum((k.shape[axis] for k in kinds if k.shape is not None), start=0)
        return [first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))]

    @staticmethod
    def compute(
        ctx: ComputeContext, y_scale: Array, y_zero: Array, *inputs: Array | None
    ) -> Sequence[Array]:
        """In float32, one rounding."""
        parts = [to_float(ctx.xp, *part) for part in _parts(inputs)]
        axis = normalize_axis(ctx.attributes["axis"], parts[0].ndim)
        joined = ctx.xp.concatenate(parts, axis=axis)
        return [to_integer(ctx.xp, joined, y_scale, y_zero, y_zero.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """All parts carry the items on the same other axis."""
        rank = ctx.outputs[0].rank
        states = {s for i, s in enumerate(ctx.rows) if s is not None and i > 1 and i % 3 == 2}
        state = next(iter(states))
        if rank is None or len(states) > 1 or not state.is_rows:
            return ctx.mixed("its inputs carry the items differently")
        if state.axis == normalize_axis(ctx.attributes["axis"], rank):
            return ctx.mixed("it joins along the axis of the items")
        return ctx.all_outputs(state)


def _unary_infer(ctx: InferContext) -> Sequence[TensorType]:
    expect_quantized(ctx, (0,), 3)
    return [ctx.type(0)]


def _unary_rows(ctx: RowContext) -> Sequence[RowState]:
    return follow(ctx, lambda axis: axis)


@operator("QLinearSigmoid", since=1, domain=MICROSOFT)
class QLinearSigmoid:
    """The logistic function of a quantized tensor, quantized again."""

    infer, rows = staticmethod(_unary_infer), staticmethod(_unary_rows)

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
        real = to_float(ctx.xp, x, x_scale, x_zero)
        one = real.dtype.type(1)
        return [to_integer(ctx.xp, one / (one + ctx.xp.exp(-real)), y_scale, y_zero, x.dtype)]


@operator("QLinearLeakyRelu", since=1, domain=MICROSOFT)
class QLinearLeakyRelu:
    """The leaky rectifier of a quantized tensor, quantized again."""

    attributes = {"alpha": 0.01}
    infer, rows = staticmethod(_unary_infer), staticmethod(_unary_rows)

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
        real = to_float(ctx.xp, x, x_scale, x_zero)
        y = ctx.xp.where(real >= 0, real, real * real.dtype.type(ctx.attributes["alpha"]))
        return [to_integer(ctx.xp, y, y_scale, y_zero, x.dtype)]


@operator("QLinearWhere", since=1, domain=MICROSOFT)
class QLinearWhere:
    """One of two quantized tensors by a condition, brought to one scale."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The three inputs broadcast."""
        expect_quantized(ctx, (1, 4), 7)
        shape = broadcast_shapes(ctx.shape(0), ctx.shape(1), ctx.shape(4))
        return [TensorType(ctx.dtype(1), shape)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        condition: Array,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y: Array,
        y_scale: Array,
        y_zero: Array | None,
        z_scale: Array,
        z_zero: Array | None = None,
    ) -> Sequence[Array]:
        """Each side is requantized before the choice."""
        xp = ctx.xp
        left = to_integer(xp, to_float(xp, x, x_scale, x_zero), z_scale, z_zero, x.dtype)
        right = to_integer(xp, to_float(xp, y, y_scale, y_zero), z_scale, z_zero, x.dtype)
        return [xp.where(condition.astype(bool), left, right)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like Where."""
        return broadcast_part(ctx, (0, 1, 4), lambda axis: axis)
