"""Convolutions of the domain com.microsoft: with what follows fused, or with the channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.ir.types import Dim, TensorType
from engine.ops.common import Array, int_value, ints, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import (
    MICROSOFT,
    as_channels_first,
    channels_first,
    channels_last,
    check_activation,
    check_fits,
    expect_fits,
    fused_activation,
    last_shape,
    together,
)
from engine.ops.conv import CONV_ATTRIBUTES, Conv
from engine.ops.conv_transpose import ConvTranspose
from engine.ops.registry import operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState

FUSED_ATTRIBUTES = {**CONV_ATTRIBUTES, "activation": None, "activation_params": ()}


def _finish(ctx: ComputeContext, y: Array, residual: Array | None) -> Array:
    """Add the residual, then the activation."""
    check_fits(y.shape, residual)
    wide = widen(ctx.xp, y)
    if residual is not None:
        wide = wide + widen(ctx.xp, residual)
    numbers = tuple(ctx.attributes["activation_params"])
    return narrow(fused_activation(ctx.xp, ctx.attributes["activation"], numbers)(wide), y.dtype)


def _rows(ctx: RowContext) -> Sequence[RowState]:
    """Items on axis 0 of the input and of the residual are computed one by one."""
    return together(ctx, (0, 3), lambda axis: 0 if axis == 0 else None)


@operator("FusedConv", since=1, domain=MICROSOFT)
class FusedConv:
    """Conv, then a residual is added, then an activation."""

    attributes = FUSED_ATTRIBUTES
    rows, flops = staticmethod(_rows), staticmethod(Conv.flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv."""
        check_activation(ctx)
        (kind,) = Conv.infer(ctx)
        expect_fits(ctx, kind.shape, 3)
        return [kind]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32."""
        (y,) = Conv.compute(ctx, x, w, bias)
        return [_finish(ctx, y, residual)]


@operator("NhwcFusedConv", since=1, domain=MICROSOFT)
class NhwcFusedConv:
    """FusedConv with the channels last; the filters keep ONNX's layout."""

    attributes = FUSED_ATTRIBUTES
    rows = staticmethod(_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv."""
        check_activation(ctx)
        (kind,) = Conv.infer(as_channels_first(ctx))
        return [kind.with_shape(last_shape(kind.shape))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32."""
        xp = ctx.xp
        (y,) = Conv.compute(ctx, xp.ascontiguousarray(channels_first(x)), w, bias)
        return [_finish(ctx, channels_last(xp, y), residual)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return Conv.flops(as_channels_first(ctx))


@operator("NhwcConv", since=1, domain=MICROSOFT)
class NhwcConv:
    """Conv with the channels last; the filters keep ONNX's layout."""

    attributes = CONV_ATTRIBUTES
    rows, flops = staticmethod(leading), staticmethod(NhwcFusedConv.flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Conv."""
        (kind,) = Conv.infer(as_channels_first(ctx))
        return [kind.with_shape(last_shape(kind.shape))]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, w: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        (y,) = Conv.compute(ctx, ctx.xp.ascontiguousarray(channels_first(x)), w, bias)
        return [channels_last(ctx.xp, y)]


@operator("ConvTransposeWithDynamicPads", since=1, domain=MICROSOFT)
class ConvTransposeWithDynamicPads:
    """ConvTranspose whose padding is an input."""

    attributes = {
        **{name: value for name, value in CONV_ATTRIBUTES.items() if name != "pads"},
        "output_padding": (),
    }
    rows, flops = staticmethod(leading), staticmethod(ConvTranspose.flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like ConvTranspose where the padding is fixed."""
        pads: Sequence[Dim] | None = ctx.value(2) if ctx.has(2) else ()
        x, w = ctx.shape(0), ctx.shape(1)
        if x is None or w is None:
            return [ctx.type(0).with_shape(None)]
        if len(x) < 3 or len(x) != len(w):
            ctx.fail(f"input and filter must have the same rank, 3 or more; got {x} and {w}")
        if pads is None or any(int_value(p) is None for p in pads):
            sizes = (ctx.fresh_dim("out") for _ in x[2:])
            return [ctx.type(0).with_shape((x[0], w[1] * ctx.attributes["group"], *sizes))]
        if pads and len(pads) != 2 * (len(x) - 2):
            ctx.fail(f"expected {2 * (len(x) - 2)} pads, got {len(pads)}")
        known = {**ctx.attributes, "pads": ints(pads), "output_shape": ()}
        return ConvTranspose.infer(replace(ctx, attributes=known))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        pads: Array | None = None,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        stated = () if pads is None else ints(pads)
        if stated and len(stated) != 2 * (x.ndim - 2):
            raise ValueError(f"expected {2 * (x.ndim - 2)} pads, got {len(stated)}")
        known = {**ctx.attributes, "pads": stated, "output_shape": ()}
        return ConvTranspose.compute(replace(ctx, attributes=known), x, w, bias)
