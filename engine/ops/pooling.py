"""Pooling over sliding windows, and over whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import Array, check_size, merged, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.conv import window_for, window_outputs
from engine.ops.cores.pool import max_pool, max_pool_indices, sum_pool, window_counts
from engine.ops.cores.windows import Window
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState, mixed

POOL_ATTRIBUTES: dict[str, Any] = {
    "auto_pad": "NOTSET",
    "kernel_shape": REQUIRED,
    "pads": (),
    "strides": (),
}


def pool_shape(ctx: InferContext) -> Shape | None:
    """The shape of a windowed pool's result."""
    x = ctx.shape(0)
    if x is None:
        return None
    if len(x) < 3:
        ctx.fail(f"expected an input of rank 3 or more, got shape {list(x)}")
    ceil_mode = bool(ctx.attributes.get("ceil_mode", 0))
    return (*x[:2], *window_outputs(ctx, x[2:], ctx.attributes["kernel_shape"], ceil_mode))


def pool_flops(ctx: InferContext) -> Dim:
    """One per window element."""
    shape = pool_shape(ctx)
    return (
        0 if shape is None else element_count(shape) * element_count(ctx.attributes["kernel_shape"])
    )


def resolve_pool(ctx: ComputeContext, x: Array) -> tuple[Window, tuple[int, ...]]:
    """The node's window over `x` and the output sizes, checked."""
    if x.ndim != 2 + len(ctx.attributes["kernel_shape"]):
        raise ValueError(
            f"kernel_shape {ctx.attributes['kernel_shape']} does not fit input {x.shape}"
        )
    window = window_for(ctx, x, ctx.attributes["kernel_shape"])
    ceil_mode = bool(ctx.attributes.get("ceil_mode", 0))
    same = ctx.attributes["auto_pad"].startswith("SAME")
    outputs = window.output_sizes(x.shape[2:], ceil_mode and not same)
    if min(outputs) < 0:
        raise ValueError(f"a window of {window.extent} does not fit an input of {x.shape}")
    reach = [
        max(padded, (max(count, 1) - 1) * stride + extent)
        for padded, count, stride, extent in zip(
            window.padded_sizes(x.shape[2:]), outputs, window.strides, window.extent, strict=True
        )
    ]
    check_size(ctx, reach, x.dtype)  # an empty batch must not hide a window that nothing holds
    check_size(ctx, (*x.shape[:2], *reach), x.dtype)
    return window, outputs


@operator("MaxPool", since=(1, 8, 10, 11, 12, 22))
class MaxPool:
    """Largest value of each window, and on demand where it was."""

    attributes = {**POOL_ATTRIBUTES, "ceil_mode": 0, "dilations": (), "storage_order": 0}
    flops = staticmethod(pool_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Values and, as int64, their flat positions."""
        shape = pool_shape(ctx)
        return [TensorType(ctx.dtype(0), shape), TensorType(DType.INT64, shape)][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Any ordered type; padding never wins."""
        window, outputs = resolve_pool(ctx, x)
        result = [narrow(max_pool(ctx.xp, widen(ctx.xp, x), window, outputs), x.dtype)]
        if ctx.n_outputs > 1:
            column_major = bool(ctx.attributes["storage_order"])
            wide = widen(ctx.xp, x)
            # Every element of every window is laid out to find the place of the largest.
            check_size(ctx, (*x.shape[:2], *window.kernel, *outputs), wide.dtype)
            result.append(max_pool_indices(ctx.xp, wide, window, outputs, column_major))
        return result

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Values stay with their image; positions count through the whole batch."""
        states = list(leading(ctx))
        if len(states) > 1 and states[0].is_rows:
            states[1] = mixed(
                f"node {ctx.node.label!r} (MaxPool): positions count through the batch"
            )
        return states


@operator("AveragePool", since=(1, 7, 10, 11, 19, 22))
class AveragePool:
    """Mean of each window, with or without its padding."""

    attributes = {**POOL_ATTRIBUTES, "ceil_mode": 0, "count_include_pad": 0, "dilations": ()}
    rows = staticmethod(leading)
    flops = staticmethod(pool_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One position per place of the window."""
        return [TensorType(ctx.dtype(0), pool_shape(ctx))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        window, outputs = resolve_pool(ctx, x)
        y = sum_pool(xp, widen(xp, x), window, outputs)
        include = bool(ctx.attributes["count_include_pad"])
        y /= window_counts(xp, x.shape[2:], window, outputs, include, y.dtype)
        return [narrow(y, x.dtype)]


@operator("LpPool", since=(1, 2, 11, 18, 22))
class LpPool:
    """The p-norm of each window."""

    attributes = {**POOL_ATTRIBUTES, "ceil_mode": 0, "dilations": (), "p": 2}
    rows = staticmethod(leading)
    flops = staticmethod(pool_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One position per place of the window."""
        return [TensorType(ctx.dtype(0), pool_shape(ctx))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, p = ctx.xp, float(ctx.attributes["p"])
        window, outputs = resolve_pool(ctx, x)
        powers = xp.abs(widen(xp, x)) ** p
        y = sum_pool(xp, powers.astype(widen(xp, x).dtype), window, outputs) ** (1 / p)
        return [narrow(y, x.dtype)]


def _global_shape(ctx: InferContext) -> Sequence[TensorType]:
    x = ctx.shape(0)
    if x is not None and len(x) < 3:
        ctx.fail(f"expected an input of rank 3 or more, got shape {list(x)}")
    return [TensorType(ctx.dtype(0), None if x is None else (*x[:2], *(1,) * (len(x) - 2)))]


def _global_flops(ctx: InferContext) -> Dim:
    """One per element."""
    shape = ctx.shape(0)
    return 0 if shape is None else element_count(shape)


def _spatial(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool", since=(1, 22))
class GlobalAveragePool:
    """Mean over all spatial axes."""

    infer, flops = staticmethod(_global_shape), staticmethod(_global_flops)
    rows = staticmethod(leading)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        # One line per channel: the order of a sum must not depend on how many images came.
        lines = merged(widen(ctx.xp, x), 2)
        y = lines.mean(axis=2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return [narrow(y, x.dtype)]


@operator("GlobalMaxPool", since=(1, 22))
class GlobalMaxPool:
    """Largest value over all spatial axes."""

    infer, flops = staticmethod(_global_shape), staticmethod(_global_flops)
    rows = staticmethod(leading)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """No rounding happens."""
        return [x.max(axis=_spatial(x), keepdims=True)]


@operator("GlobalLpPool", since=(1, 2, 22))
class GlobalLpPool:
    """The p-norm over all spatial axes."""

    attributes = {"p": 2}
    infer, flops = staticmethod(_global_shape), staticmethod(_global_flops)
    rows = staticmethod(leading)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        p = float(ctx.attributes["p"])
        powers = ctx.xp.abs(widen(ctx.xp, x)) ** p
        return [narrow(powers.sum(axis=_spatial(x), keepdims=True) ** (1 / p), x.dtype)]
