"""Operators of the domain com.microsoft that add a bias on the way."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ops.common import Array, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, broadcast_part, check_fits, expect_fits
from engine.ops.contrib_normalization import pass_flops
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import RowContext, RowState


@operator("BiasSoftmax", since=1, domain=MICROSOFT)
class BiasSoftmax:
    """Softmax of `data + bias` over all axes from `axis` on."""

    attributes = {"axis": 1, "is_inner_broadcast": REQUIRED}
    flops = staticmethod(pass_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the data."""
        x = ctx.type(0)
        expect_fits(ctx, x.shape, 1)
        if x.shape:
            ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        return [x]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, bias: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once; the bias broadcasts like numpy's."""
        xp = ctx.xp
        if not x.size:
            return [x]
        check_fits(x.shape, bias)
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        total = widen(xp, x) + widen(xp, bias)
        flat = total.reshape(*x.shape[:axis], -1)
        y = xp.exp(flat - flat.max(axis=-1, keepdims=True))
        y /= y.sum(axis=-1, keepdims=True)
        return [narrow(y.reshape(x.shape), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie in front of the axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank)
        return broadcast_part(ctx, (0, 1), lambda a: a if a < axis else None)


@operator("BiasAdd", since=1, domain=MICROSOFT)
class BiasAdd:
    """`x + bias + skip`."""

    flops = staticmethod(pass_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        expect_fits(ctx, ctx.shape(0), 1, 2)
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, bias: Array, skip: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        check_fits(x.shape, bias, skip)
        return [narrow(widen(xp, x) + widen(xp, bias) + widen(xp, skip), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are."""
        return broadcast_part(ctx, (0, 2), lambda axis: axis)


@operator("BiasDropout", since=1, domain=MICROSOFT)
class BiasDropout:
    """`data + bias + residual`, as dropout passes everything when a model is used."""

    attributes = {"seed": None}
    flops = staticmethod(pass_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the data; the mask says true everywhere."""
        training = ctx.constant(4)
        if training is not None and bool(training.reshape(-1)[0]):
            ctx.unsupported("training_mode=true drops at random, which is for training only")
        expect_fits(ctx, ctx.shape(0), 1, 2)
        return [ctx.type(0), ctx.type(0).with_dtype(DType.BOOL)][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        bias: Array,
        residual: Array | None = None,
        ratio: Array | None = None,
        training: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        if training is not None and bool(training.reshape(-1)[0]):
            raise ValueError("training_mode must be false")
        check_fits(x.shape, bias, residual)
        y = widen(xp, x) + widen(xp, bias)
        y = y if residual is None else y + widen(xp, residual)
        return [narrow(y, x.dtype), xp.ones(x.shape, dtype=bool)][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are."""
        if len(ctx.rows) > 2 and ctx.rows[2] is not None:
            return broadcast_part(ctx, (0, 1, 2), lambda axis: axis)
        return broadcast_part(ctx, (0, 1), lambda axis: axis)
