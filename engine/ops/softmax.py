"""Softmax and its relatives: over one axis, before opset 13 over all from one on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, narrow, normalize_axis, precise
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

AXIS_SEMANTICS = 13  # before, the input was flattened to a matrix at `axis`


def _axis(attributes: Any, version: int) -> int:
    axis = attributes["axis"]
    if axis is None:
        return -1 if version >= AXIS_SEMANTICS else 1
    return int(axis)


def _along(
    ctx: ComputeContext, x: Array, function: Callable[[Any, Array, int], Array]
) -> Sequence[Array]:
    """Apply `function` over the node's axis of `x`, rounded once."""
    if not x.size:
        return [x]
    axis = normalize_axis(_axis(ctx.attributes, ctx.version), max(x.ndim, 1))
    wide = precise(ctx.xp, x)
    if ctx.version >= AXIS_SEMANTICS:
        y = function(ctx.xp, wide, axis) if x.ndim else function(ctx.xp, wide.reshape(1), 0)
    else:
        y = function(ctx.xp, wide.reshape(*x.shape[:axis], -1), -1)
    return [narrow(y.reshape(x.shape), x.dtype)]


def softmax(xp: Any, x: Array, axis: int) -> Array:
    """Exponentials that sum to one along `axis`."""
    # Subtract the largest first: exp overflows float32 above about 88.
    y = xp.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return y


def _log_softmax(xp: Any, x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


def _hardmax(xp: Any, x: Array, axis: int) -> Array:
    positions = xp.arange(x.shape[axis])
    first = xp.expand_dims(x.argmax(axis=axis), axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return (positions.reshape(shape) == first).astype(x.dtype)


def _infer(ctx: InferContext) -> Sequence[TensorType]:
    x = ctx.type(0)
    if x.shape is not None:
        ctx.normal_axis(_axis(ctx.attributes, ctx.version), max(len(x.shape), 1))
    return [x]


def _rows(ctx: RowContext) -> Sequence[RowState]:
    rank = ctx.rank(0)
    if not rank:
        return ctx.mixed("its rank is unknown")
    axis = normalize_axis(_axis(ctx.attributes, ctx.version), rank)
    if ctx.version >= AXIS_SEMANTICS:
        return follow(ctx, lambda a: None if a == axis else a)
    return follow(ctx, lambda a: a if a < axis else None)


def _flops(ctx: InferContext) -> Dim:
    shape = ctx.shape(0)
    return 0 if shape is None else 4 * element_count(shape)


@operator("Softmax", since=(1, 11, 13))
class Softmax:
    """Exponentials that sum to one."""

    attributes = {"axis": None}
    infer, rows, flops = staticmethod(_infer), staticmethod(_rows), staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Rounded once, at the end."""
        return _along(ctx, x, softmax)


@operator("LogSoftmax", since=(1, 11, 13))
class LogSoftmax:
    """The logarithm of softmax, without its underflow."""

    attributes = {"axis": None}
    infer, rows, flops = staticmethod(_infer), staticmethod(_rows), staticmethod(_flops)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Rounded once, at the end."""
        return _along(ctx, x, _log_softmax)


@operator("Hardmax", since=(1, 11, 13))
class Hardmax:
    """One at the first largest value, zero elsewhere."""

    attributes = {"axis": None}
    infer, rows = staticmethod(_infer), staticmethod(_rows)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """No rounding happens."""
        return _along(ctx, x, _hardmax)
