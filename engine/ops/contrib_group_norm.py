"""Group normalization of the domain com.microsoft, as diffusion models are fused with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.ir.types import TensorType
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, check_fits
from engine.ops.contrib_normalization import pass_flops
from engine.ops.normalization import standardize
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState


def _group_infer(ctx: InferContext) -> Sequence[TensorType]:
    x = ctx.type(0)
    groups, last = ctx.attributes["groups"], ctx.attributes["channels_last"]
    if x.shape is not None:
        channels = x.shape[-1 if last else 1] if len(x.shape) > 2 else None
        if channels is None:
            ctx.fail(f"expected an input of rank 3 or more, got shape {list(x.shape)}")
        if groups < 1 or (isinstance(channels, int) and channels % groups):
            ctx.fail(f"{channels} channels do not divide into {groups} groups")
    return [x, x][: ctx.n_outputs]


def _group_norm(ctx: ComputeContext, x: Array, gamma: Array, beta: Array) -> Array:
    """Standardize groups of channels of a float32 `x`; channels last."""
    xp, groups = ctx.xp, int(ctx.attributes["groups"])
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels do not divide into {groups} groups")
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    y = standardize(xp, grouped, (1, 3), ctx.attributes["epsilon"]).reshape(x.shape)
    check_fits(x.shape, gamma, beta)
    y = y * widen(xp, gamma) + widen(xp, beta)
    return y / (1 + xp.exp(-y)) if ctx.attributes["activation"] else y


def _last(ctx: ComputeContext, x: Array) -> Array:
    return x if ctx.attributes["channels_last"] else x.transpose(0, *range(2, x.ndim), 1)


def _back(ctx: ComputeContext, y: Array, dtype: Any) -> Array:
    order = (0, y.ndim - 1, *range(1, y.ndim - 1))
    y = y if ctx.attributes["channels_last"] else y.transpose(order)
    return narrow(ctx.xp.ascontiguousarray(y), dtype)


GROUP_ATTRIBUTES = {"activation": REQUIRED, "channels_last": 1, "epsilon": 1e-5, "groups": REQUIRED}


@operator("GroupNorm", since=1, domain=MICROSOFT)
class GroupNorm:
    """Standardize groups of channels of each image, shift and scale, then SiLU on request."""

    attributes = GROUP_ATTRIBUTES
    infer, rows, flops = staticmethod(_group_infer), staticmethod(leading), staticmethod(pass_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, gamma: Array, beta: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        y = _group_norm(ctx, _last(ctx, widen(ctx.xp, x)), gamma, beta)
        return [_back(ctx, y, x.dtype)]


@operator("SkipGroupNorm", since=1, domain=MICROSOFT)
class SkipGroupNorm:
    """GroupNorm of `x + skip + bias`; the skip may be one vector of channels per image."""

    attributes = GROUP_ATTRIBUTES
    infer, flops = staticmethod(_group_infer), staticmethod(pass_flops)

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        gamma: Array,
        beta: Array,
        skip: Array,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        total, extra = _last(ctx, widen(xp, x)), widen(xp, skip)
        if skip.ndim == 2:
            extra = extra.reshape(skip.shape[0], *(1,) * (x.ndim - 2), skip.shape[1])
        elif skip.shape == x.shape:
            extra = _last(ctx, extra)
        check_fits(total.shape, extra, bias)
        total = total + extra
        if bias is not None:
            total = total + widen(xp, bias)
        y = _group_norm(ctx, total, gamma, beta)
        return [_back(ctx, y, x.dtype), _back(ctx, total, x.dtype)][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Images and their skips lie on axis 0 together."""
        skip = ctx.rows[3]
        if skip is not None and skip.is_rows and skip == ctx.rows[0] and skip.axis == 0:
            free = [s if i != 3 else None for i, s in enumerate(ctx.rows)]
            return leading(replace(ctx, rows=free))
        return ctx.mixed("its inputs carry the items differently")
