"""Normalization by statistics: of training (BatchNormalization) or of the input itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, normalize_axis, precise, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, Kernel, operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState

IS_TEST_UNTIL = 7  # BatchNormalization said in an attribute that it only serves
TRAINING_MODE_SINCE = 14  # and from here on that it trains; in between, its outputs tell
PER_CHANNEL_SINCE = 21  # GroupNormalization's scale and bias had an entry per group before


def same_type(ctx: InferContext) -> Sequence[TensorType]:
    """The first output is like the first input."""
    return [ctx.type(0)]


def _flops(ctx: InferContext) -> Dim:
    shape = ctx.shape(0)
    return 0 if shape is None else 8 * element_count(shape)


def _per_channel(values: Array, x: Array) -> Array:
    """Shape one value per channel (axis 1) so that it broadcasts over `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else values


@operator("BatchNormalization", since=(1, 6, 7, 9, 14, 15))
class BatchNormalization:
    """Shift and scale each channel by statistics from training."""

    # `is_test`, `spatial` and `consumed_inputs` belong to the oldest versions.
    attributes = {
        "consumed_inputs": (),
        "epsilon": 1e-5,
        "is_test": 0,
        "momentum": 0.9,
        "spatial": 1,
        "training_mode": 0,
    }
    flops = staticmethod(_flops)

    @staticmethod
    def trains(ctx: InferContext | ComputeContext | RowContext) -> bool:
        """Whether the node takes statistics of its own: it says so, or asks for them."""
        if ctx.version >= TRAINING_MODE_SINCE:
            return bool(ctx.attributes["training_mode"])
        is_test = ctx.version < IS_TEST_UNTIL and ctx.attributes["is_test"]
        return len(ctx.node.outputs) > 1 and not is_test

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input; then running statistics, and in old versions those of the batch."""
        x = ctx.type(0)
        wanted = (1, 3) if ctx.version >= TRAINING_MODE_SINCE else (1, 5)
        if not ctx.attributes["spatial"] and BatchNormalization.trains(ctx):
            ctx.unsupported("statistics per position (spatial=0) cannot be taken in training mode")
        if ctx.version >= TRAINING_MODE_SINCE and not ctx.attributes["training_mode"]:
            wanted = (1, 1)
        if not wanted[0] <= ctx.n_outputs <= wanted[1]:
            ctx.fail(f"{ctx.n_outputs} outputs, expected at most {wanted[1]}")
        return [x, ctx.type(3), ctx.type(4), ctx.type(3), ctx.type(4)][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, bias: Array, mean: Array, var: Array
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        if not BatchNormalization.trains(ctx):
            y = _shift_scale(ctx, x, *_folded(ctx, scale, bias, mean, var))
            return [y, mean, var, mean, var][: ctx.n_outputs]
        axes = tuple(a for a in range(x.ndim) if a != 1)
        wide = widen(xp, x)
        own = [wide.mean(axis=axes), wide.var(axis=axes)]
        y = _shift_scale(ctx, x, *_folded(ctx, scale, bias, *own))
        keep = float(ctx.attributes["momentum"])
        running = [
            narrow(widen(xp, old) * keep + new * (1 - keep), old.dtype)
            for old, new in zip((mean, var), own, strict=True)
        ]
        batch = [narrow(new, old.dtype) for old, new in zip((mean, var), own, strict=True)]
        return [y, *running, *batch][: ctx.n_outputs]

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """Fold fixed statistics into one factor and one summand per channel."""
        fixed = [ctx.constant(i) for i in range(1, 5)]
        if len(ctx.node.outputs) > 1 or BatchNormalization.trains(ctx):
            return None
        if any(value is None for value in fixed):
            return None
        factor, summand = _folded(ctx, *fixed)
        return lambda x, *_: [_shift_scale(ctx, x, factor, summand)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Channels are shared; in training mode the statistics mix the items."""
        if len(ctx.node.outputs) > 1 or BatchNormalization.trains(ctx):
            return ctx.mixed("training mode takes statistics over the batch")
        if not ctx.attributes["spatial"]:
            return leading(ctx)
        return follow(ctx, lambda axis: None if axis == 1 else axis)


def _folded(
    ctx: ComputeContext, scale: Array, bias: Array, mean: Array, var: Array
) -> tuple[Array, Array]:
    """One factor and one summand per channel."""
    scale, bias, mean, var = (widen(ctx.xp, v) for v in (scale, bias, mean, var))
    factor = scale / ctx.xp.sqrt(var + var.dtype.type(ctx.attributes["epsilon"]))
    return factor, bias - mean * factor


def _shift_scale(ctx: ComputeContext, x: Array, factor: Array, summand: Array) -> Array:
    wide = widen(ctx.xp, x)
    if not ctx.attributes.get("spatial", 1) and factor.size == math.prod(x.shape[1:]):
        factor, summand = (each.reshape(x.shape[1:]) for each in (factor, summand))
    else:
        factor, summand = (_per_channel(each, x) for each in (factor, summand))
    y = wide * factor.astype(wide.dtype)
    y += summand.astype(wide.dtype)
    return narrow(y, x.dtype)


def standardize(xp: Any, x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """`x` with mean 0 and variance 1 over `axes`."""
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    centred /= xp.sqrt(variance + variance.dtype.type(epsilon))
    return centred


@operator("InstanceNormalization", since=(1, 6, 22))
class InstanceNormalization:
    """Standardize each channel of each image, then shift and scale it."""

    attributes = {"consumed_inputs": (), "epsilon": 1e-5}
    infer, rows, flops = staticmethod(same_type), staticmethod(leading), staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, scale: Array, bias: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        y = standardize(xp, widen(xp, x), tuple(range(2, x.ndim)), ctx.attributes["epsilon"])
        y = y * _per_channel(widen(xp, scale), x) + _per_channel(widen(xp, bias), x)
        return [narrow(y, x.dtype)]


@operator("GroupNormalization", since=(18, 21))
class GroupNormalization:
    """Standardize groups of channels of each image, then shift and scale.

    Scale and bias have one entry per channel; in version 18, which was withdrawn for that, one per
    group.
    """

    attributes = {"epsilon": 1e-5, "num_groups": REQUIRED, "stash_type": 1}
    rows, flops = staticmethod(leading), staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        x, groups = ctx.shape(0), int(ctx.attributes["num_groups"])
        channels = x[1] if x is not None and len(x) > 1 else None
        if groups < 1 or (isinstance(channels, int) and channels % groups):
            ctx.fail(f"{channels} channels do not divide into {groups} groups")
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, scale: Array, bias: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, groups = ctx.xp, int(ctx.attributes["num_groups"])
        if x.ndim < 2 or x.shape[1] % groups:
            raise ValueError(f"{x.shape} does not divide into {groups} groups of channels")
        expected = (groups if ctx.version < PER_CHANNEL_SINCE else x.shape[1],)
        if scale.shape != expected or bias.shape != expected:
            raise ValueError(f"scale {scale.shape} and bias {bias.shape}, expected {expected}")
        size = math.prod(x.shape[1:]) // groups
        grouped = widen(xp, x).reshape(x.shape[0], groups, size)
        y = standardize(xp, grouped, (2,), ctx.attributes["epsilon"])
        if ctx.version < PER_CHANNEL_SINCE:
            y = y * widen(xp, scale)[:, None] + widen(xp, bias)[:, None]
            return [narrow(y.reshape(x.shape), x.dtype)]
        y = y.reshape(x.shape) * _per_channel(widen(xp, scale), x)
        return [narrow(y + _per_channel(widen(xp, bias), x), x.dtype)]


def _trailing(x_rank: int, axis: int) -> tuple[int, ...]:
    return tuple(range(normalize_axis(axis, x_rank), x_rank))


def _check_same_shape(y: Array, x: Array) -> None:
    """Scale and bias spread over the input, never the other way around."""
    if y.shape != x.shape:
        raise ValueError(f"scale and bias spread the input of {x.shape} to {y.shape}")


def _trailing_rows(ctx: RowContext) -> Sequence[RowState]:
    """Items must lie on an axis in front of those that are normalized."""
    rank = ctx.rank(0)
    if not rank:
        return ctx.mixed("its rank is unknown")
    axis = normalize_axis(int(ctx.attributes["axis"]), rank)
    return follow(ctx, lambda a: a if a < axis else None)


@operator("LayerNormalization", since=17)
class LayerNormalization:
    """Standardize over the axes from `axis` on, then scale and shift."""

    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    rows, flops = staticmethod(_trailing_rows), staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input; mean and inverse deviation have 1 on the normalized axes."""
        x = ctx.type(0)
        if x.shape is None:
            return [x, x.with_dtype(x.dtype.compute), x.with_dtype(x.dtype.compute)][
                : ctx.n_outputs
            ]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        statistics = (*x.shape[:axis], *(1,) * (len(x.shape) - axis))
        kind = TensorType(x.dtype.compute, statistics)
        return [x, kind, kind][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, scale: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Rounded once, at the end."""
        xp = ctx.xp
        axes = _trailing(x.ndim, ctx.attributes["axis"])
        wide = precise(xp, x)
        mean = wide.mean(axis=axes, keepdims=True)
        y = wide - mean
        variance = (y * y).mean(axis=axes, keepdims=True)
        inverse = 1 / xp.sqrt(variance + variance.dtype.type(ctx.attributes["epsilon"]))
        y *= inverse
        y = y * widen(xp, scale)
        if bias is not None:
            y = y + widen(xp, bias)
        _check_same_shape(y, x)
        kind = widen(xp, x).dtype
        return [narrow(y, x.dtype), narrow(mean, kind), narrow(inverse, kind)][: ctx.n_outputs]


@operator("RMSNormalization", since=23)
class RMSNormalization:
    """Divide by the root mean square over the axes from `axis` on, then scale."""

    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    infer, rows = staticmethod(same_type), staticmethod(_trailing_rows)
    flops = staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, scale: Array) -> Sequence[Array]:
        """Rounded once, at the end."""
        xp = ctx.xp
        wide = precise(xp, x)
        axes = _trailing(x.ndim, ctx.attributes["axis"])
        mean_square = (wide * wide).mean(axis=axes, keepdims=True)
        y = wide / xp.sqrt(mean_square + mean_square.dtype.type(ctx.attributes["epsilon"]))
        y = y * widen(xp, scale)
        _check_same_shape(y, x)
        return [narrow(y, x.dtype)]


@operator("LpNormalization", since=(1, 22))
class LpNormalization:
    """Divide by the p-norm along one axis."""

    attributes = {"axis": -1, "p": 2}
    flops = staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        if ctx.attributes["p"] not in (1, 2):
            ctx.fail(f"p is {ctx.attributes['p']}, expected 1 or 2")
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A norm of zero leaves zeros."""
        xp, axis = ctx.xp, normalize_axis(ctx.attributes["axis"], x.ndim)
        wide = widen(xp, x)
        power = xp.abs(wide) if ctx.attributes["p"] == 1 else wide * wide
        norm = power.sum(axis=axis, keepdims=True)
        norm = norm if ctx.attributes["p"] == 1 else xp.sqrt(norm)
        return [narrow(wide / xp.where(norm == 0, norm.dtype.type(1), norm), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items must not lie on the normalized axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        axis = normalize_axis(ctx.attributes["axis"], rank)
        return follow(ctx, lambda a: None if a == axis else a)


@operator("MeanVarianceNormalization", since=(9, 13))
class MeanVarianceNormalization:
    """Standardize over `axes`."""

    attributes = {"axes": (0, 2, 3)}
    infer, flops = staticmethod(same_type), staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """`(x - mean) / (deviation + 1e-9)`, as ONNX defines it."""
        xp = ctx.xp
        wide = widen(xp, x)
        axes = tuple(normalize_axis(a, x.ndim) for a in ctx.attributes["axes"])
        centred = wide - wide.mean(axis=axes, keepdims=True)
        # Not the mean square less the squared mean: that may come out below zero.
        deviation = xp.sqrt((centred * centred).mean(axis=axes, keepdims=True))
        return [narrow(centred / (deviation + deviation.dtype.type(1e-9)), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items must not lie on a normalized axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        axes = {normalize_axis(a, rank) for a in ctx.attributes["axes"]}
        return follow(ctx, lambda a: None if a in axes else a)


@operator("LRN", since=(1, 13))
class LRN:
    """Divide by a power of the mean square over neighbouring channels."""

    attributes = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": REQUIRED}
    infer, rows, flops = staticmethod(same_type), staticmethod(leading), staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, size = ctx.xp, int(ctx.attributes["size"])
        if not x.size:
            return [x]
        wide = widen(xp, x)
        square = wide * wide
        total = xp.zeros_like(square)
        channels = x.shape[1]
        before, after = min((size - 1) // 2, channels), min(math.ceil((size - 1) / 2), channels)
        for offset in range(-before, after + 1):
            low, high = max(0, -offset), min(channels, channels - offset)
            if low < high:
                total[:, low:high] += square[:, low + offset : high + offset]
        alpha, beta, bias = (float(ctx.attributes[k]) for k in ("alpha", "beta", "bias"))
        return [narrow(wide / (bias + alpha / size * total) ** beta, x.dtype)]
