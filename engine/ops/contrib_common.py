"""What operators of ONNX Runtime's own domain, com.microsoft, have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Shape
from engine.ops.common import Array, int_value
from engine.ops.contexts import InferContext
from engine.ops.cores.quantize import dequantize, quantize
from engine.ops.recurrent import activation
from engine.ops.row_rules import AxisMap, side_inputs_problem
from engine.ops.rows import SIZES, RowContext, RowState, broadcasting, rows_on

MICROSOFT = "com.microsoft"

Activation = Callable[[Array], Array]

# Activations that ONNX Runtime fuses into what goes before them.
FUSED_ACTIVATIONS = (
    *("relu", "tanh", "sigmoid", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh"),
    *("hardsigmoid", "elu", "softsign", "softplus", "clip", "selu", "hardswish", "quickgelu"),
)


def to_float(xp: Any, x: Array, scale: Array, zero_point: Array | None) -> Array:
    """Dequantize with parameters of one element."""
    shift = None if zero_point is None else zero_point.reshape(())
    return dequantize(xp, x, scale.reshape(()), shift)


def to_integer(xp: Any, x: Array, scale: Array, zero_point: Array | None, dtype: Any) -> Array:
    """Quantize with parameters of one element."""
    shift = xp.zeros((), dtype=dtype) if zero_point is None else zero_point.reshape(())
    return quantize(xp, xp.asarray(x, order="C"), scale.reshape(()), shift)


def check_activation(ctx: InferContext) -> None:
    """Refuse a fused activation that is not known here."""
    name = ctx.attributes["activation"]
    if name and str(name).lower() not in FUSED_ACTIVATIONS:
        ctx.unsupported(f"the fused activation {name!r} is not supported")


def fused_activation(xp: Any, name: str | None, numbers: Sequence[float | None]) -> Activation:
    """The activation of a fused node; `numbers` are its parameters in the order of its schema."""
    if not name:
        return lambda x: x
    first, second, *_ = (*numbers, None, None)
    low, high = (first, second) if name.lower() == "clip" else (None, None)
    rate = 1.702 if first is None else first
    own: dict[str, Activation] = {
        "clip": lambda x: xp.clip(x, low, high) if (low, high) != (None, None) else x,
        "selu": lambda x: _selu(xp, x, first, (*numbers, None, None)[2]),
        "hardswish": lambda x: x * xp.clip(x / 6 + 0.5, 0, 1),
        "quickgelu": lambda x: x / (1 + xp.exp(-rate * x)),
    }
    return own.get(name.lower()) or activation(xp, name, first, second)


def _selu(xp: Any, x: Array, alpha: float | None, gamma: float | None) -> Array:
    a = 1.67326319217681884 if alpha is None else alpha
    g = 1.05070102214813232 if gamma is None else gamma
    return g * xp.where(x > 0, x, a * xp.expm1(xp.minimum(x, 0)))


# ---------------------------------------------------------------------- shapes


def expect_fits(ctx: InferContext, shape: Shape | None, *others: int) -> None:
    """Refuse inputs `others` that cannot broadcast to `shape`, as far as dims are numbers."""
    for i in others:
        other = ctx.shape(i) if ctx.has(i) else None
        if shape is None or other is None:
            continue
        pairs = zip(map(int_value, reversed(other)), map(int_value, reversed(shape)), strict=False)
        wrong = any(a not in (None, 1) and b is not None and a != b for a, b in pairs)
        if wrong or len(other) > len(shape):
            ctx.fail(f"input {i} of shape {list(other)} does not fit {list(shape)}")


def check_fits(shape: Sequence[int], *others: Array | None) -> None:
    """Refuse arrays that would make a result larger than the `shape` that its type rule told."""
    for other in others:
        if other is None:
            continue
        pairs = zip(reversed(other.shape), reversed(shape), strict=False)
        if other.ndim > len(shape) or any(a not in (1, b) for a, b in pairs):
            raise ValueError(f"an input of shape {other.shape} does not fit {tuple(shape)}")


def expect_quantized(ctx: InferContext, starts: Sequence[int], out: int) -> None:
    """Refuse scales that are no floats and zero points of another type than what they shift.

    A tensor at each of `starts` is followed by its scale and zero point; the result's scale and
    zero point are inputs `out` and the next one.
    """
    for start in starts:
        _expect_parameters(ctx, start + 1, ctx.dtype(start))
    _expect_parameters(ctx, out, ctx.dtype(starts[0]))


def _expect_parameters(ctx: InferContext, scale: int, kind: DType) -> None:
    if not kind.is_integer or kind.bits > 16:
        ctx.fail(f"expected integers of 8 or 16 bits, got {kind}")
    if ctx.dtype(scale) is not DType.FLOAT32:
        ctx.fail(f"input {scale}, a scale, is {ctx.dtype(scale)}, expected float32")
    if ctx.has(scale + 1) and ctx.dtype(scale + 1) is not kind:
        ctx.fail(f"input {scale + 1}, a zero point, is {ctx.dtype(scale + 1)}, expected {kind}")


# ---------------------------------------------------------------------- channels last


def channels_first(x: Array) -> Array:
    """A view with the channels, which lie last, on axis 1."""
    axes = range(x.ndim)
    return x.transpose(0, x.ndim - 1, *axes[1:-1])


def channels_last(xp: Any, x: Array) -> Array:
    """The channels of axis 1 as the last axis, in order in memory."""
    return xp.ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1))


def first_shape(shape: Shape | None) -> Shape | None:
    """The shape of `channels_first`."""
    return shape if not shape or len(shape) < 3 else (shape[0], shape[-1], *shape[1:-1])


def last_shape(shape: Shape | None) -> Shape | None:
    """The shape of `channels_last`."""
    return shape if not shape or len(shape) < 3 else (shape[0], *shape[2:], shape[1])


def as_channels_first(ctx: InferContext) -> InferContext:
    """The context in which input 0 has its channels on axis 1."""
    kind = ctx.type(0)
    return replace(ctx, types=(kind.with_shape(first_shape(kind.shape)), *ctx.types[1:]))


# ---------------------------------------------------------------------- rows


def together(ctx: RowContext, data: Collection[int], axis_map: AxisMap) -> Sequence[RowState]:
    """All inputs in `data` that are there carry the items alike, on an axis that `axis_map` moves.

    Other inputs must be the same for any batch.
    """
    problem = side_inputs_problem(ctx, data)
    if problem:
        return ctx.mixed(problem)
    states = {s for i, s in enumerate(ctx.rows) if i in data and s is not None}
    if len(states) != 1:
        return ctx.mixed("its inputs carry the items differently")
    (state,) = states
    if not state.is_rows:
        return ctx.all_outputs(SIZES)
    axis = axis_map(state.axis)
    if axis is None:
        return ctx.mixed(f"it works across axis {state.axis}, on which the items lie")
    return ctx.all_outputs(rows_on(axis, state.block, state.outer))


def broadcast_part(ctx: RowContext, data: Sequence[int], axis_map: AxisMap) -> Sequence[RowState]:
    """Inputs in `data` broadcast over each other; the result's items lie where `axis_map` says.

    Other inputs must be the same for any batch.
    """
    problem = side_inputs_problem(ctx, data)
    if problem:
        return ctx.mixed(problem)
    there = [i for i in data if i < len(ctx.rows) and ctx.rows[i] is not None]
    part = replace(ctx, rows=[ctx.rows[i] for i in there], types=[ctx.types[i] for i in there])
    state = broadcasting(part)[0]
    if not state.is_rows:
        return ctx.all_outputs(state)
    axis = axis_map(state.axis)
    if axis is None:
        return ctx.mixed(f"it works across axis {state.axis}, on which the items lie")
    return ctx.all_outputs(rows_on(axis, state.block, state.outer))
