"""Layer normalizations of ONNX Runtime, with the residual that goes before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, broadcast_part, check_fits, expect_fits
from engine.ops.normalization import LayerNormalization
from engine.ops.registry import operator
from engine.ops.rows import RowContext, RowState


@operator("LayerNormalization", since=1, until=17)
class OldLayerNormalization(LayerNormalization):
    """LayerNormalization as ONNX Runtime's fusion writes it into ONNX's domain below opset 17.

    Scale and bias may have a type of their own, which the result has too.
    """

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like LayerNormalization, in the scale's type."""
        y, *statistics = LayerNormalization.infer(ctx)
        return [y.with_dtype(ctx.dtype(1)), *statistics]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        shift = None if bias is None else widen(xp, bias)
        y, *statistics = LayerNormalization.compute(ctx, widen(xp, x), widen(xp, scale), shift)
        return [narrow(y, scale.dtype), *statistics]


def pass_flops(ctx: InferContext) -> Dim:
    """A handful of operations per element of the first input."""
    shape = ctx.shape(0)
    return 0 if shape is None else 8 * element_count(shape)


@operator("SimplifiedLayerNormalization", since=1)
class SimplifiedLayerNormalization:
    """Divide by the root mean square over the axes from `axis` on, then scale.

    RMSNormalization as ONNX Runtime had it before ONNX; it stands in ONNX's own domain. The result
    has the scale's type.
    """

    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    rows, flops = staticmethod(LayerNormalization.rows), staticmethod(pass_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input; the inverse root has 1 on the normalized axes."""
        x = ctx.type(0)
        y = x.with_dtype(ctx.dtype(1))
        if x.shape is None:
            return [y, x.with_dtype(x.dtype.compute)][: ctx.n_outputs]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        statistics = (*x.shape[:axis], *(1,) * (len(x.shape) - axis))
        return [y, TensorType(x.dtype.compute, statistics)][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, scale: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        axes = tuple(range(normalize_axis(ctx.attributes["axis"], x.ndim), x.ndim))
        check_fits(x.shape, scale)
        wide = widen(xp, x)
        inverse = _inverse_root(xp, wide, axes, ctx.attributes["epsilon"])
        return [narrow(wide * inverse * widen(xp, scale), scale.dtype), inverse][: ctx.n_outputs]


def _inverse_root(xp: Any, x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    square = (x * x).mean(axis=axes, keepdims=True)
    return 1 / xp.sqrt(square + square.dtype.type(epsilon))


def _skip_infer(ctx: InferContext) -> Sequence[TensorType]:
    """The result, statistics of each vector, and the sum that was normalized."""
    x = ctx.type(0)
    ctx.type(1)
    expect_fits(ctx, x.shape, *range(1, len(ctx.types)))
    statistics = TensorType(DType.FLOAT32, x.shape and (*x.shape[:-1], 1))
    return [x, statistics, statistics, x][: ctx.n_outputs]


def _skip_rows(ctx: RowContext) -> Sequence[RowState]:
    """Items lie on an axis of input and skip that is not normalized."""
    rank = ctx.outputs[0].rank
    if not rank:
        return ctx.mixed("its rank is unknown")
    return broadcast_part(ctx, (0, 1), lambda axis: None if axis == rank - 1 else axis)


def _summed(xp: Any, x: Array, skip: Array, bias: Array | None) -> Array:
    check_fits(x.shape, skip, bias)
    total = widen(xp, x) + widen(xp, skip)
    return total if bias is None else total + widen(xp, bias)


@operator("SkipLayerNormalization", since=1, domain=MICROSOFT)
class SkipLayerNormalization:
    """LayerNormalization over the last axis of `input + skip + bias`."""

    attributes = {"epsilon": 1e-12}
    infer, rows, flops = (
        staticmethod(_skip_infer),
        staticmethod(_skip_rows),
        staticmethod(pass_flops),
    )

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        skip: Array,
        gamma: Array,
        beta: Array | None = None,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        check_fits(x.shape, gamma, beta)
        total = _summed(xp, x, skip, bias)
        mean = total.mean(axis=-1, keepdims=True)
        y = total - mean
        inverse = _inverse_root(xp, y, (-1,), ctx.attributes["epsilon"])
        y = y * inverse * widen(xp, gamma)
        y = y if beta is None else y + widen(xp, beta)
        statistics = [narrow(each, xp.float32) for each in (mean, inverse)]
        return [narrow(y, x.dtype), *statistics, narrow(total, x.dtype)][: ctx.n_outputs]


@operator("SkipSimplifiedLayerNormalization", since=1, domain=MICROSOFT)
class SkipSimplifiedLayerNormalization:
    """`input + skip + bias` over its root mean square along the last axis, then scaled."""

    attributes = {"epsilon": 1e-12}
    infer, rows, flops = (
        staticmethod(_skip_infer),
        staticmethod(_skip_rows),
        staticmethod(pass_flops),
    )

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, skip: Array, gamma: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        check_fits(x.shape, gamma)
        total = _summed(xp, x, skip, bias)
        inverse = _inverse_root(xp, total, (-1,), ctx.attributes["epsilon"])
        y = narrow(total * inverse * widen(xp, gamma), x.dtype)
        statistics = narrow(inverse, xp.float32)
        # There is no mean to tell of; the schema keeps its place.
        mean = xp.zeros_like(statistics)
        return [y, mean, statistics, narrow(total, x.dtype)][: ctx.n_outputs]
