"""Operators that ONNX called experimental and dropped at opset 10; files of that time have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.dtypes import FLOATS
from engine.ir.expr import Expr, exp, log1p, maximum, minimum, select, tanh
from engine.ir.types import TensorType
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.define import elementwise
from engine.ops.registry import operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState
from engine.ops.slicing import BOUNDS_AS_INPUT, Slice

DROPPED = 10  # the opset that no longer has them


@elementwise("Affine", since=1, until=DROPPED, types=FLOATS)
def affine(x: Expr, *, alpha: float = 1.0, beta: float = 0.0) -> Expr:
    """alpha * x + beta."""
    return x * alpha + beta


@elementwise("Scale", since=1, until=DROPPED, types=FLOATS)
def scale_by(x: Expr, *, scale: float = 1.0) -> Expr:
    """scale * x."""
    return x * scale


@elementwise("ScaledTanh", since=1, until=DROPPED, types=FLOATS)
def scaled_tanh(x: Expr, *, alpha: float = 1.0, beta: float = 1.0) -> Expr:
    """alpha * tanh(beta * x)."""
    return tanh(x * beta) * alpha


@elementwise("ParametricSoftplus", since=1, until=DROPPED, types=FLOATS)
def parametric_softplus(x: Expr, *, alpha: float = 1.0, beta: float = 1.0) -> Expr:
    """alpha * ln(1 + exp(beta * x)), from the side on which exp does not overflow."""
    y = x * beta
    return (maximum(y, 0) + log1p(exp(minimum(y, -y)))) * alpha


@elementwise("ThresholdedRelu", since=1, until=DROPPED, types=FLOATS)
def thresholded_relu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x where it is above alpha, else 0."""
    return select(x > alpha, x, 0)


@operator("ImageScaler", since=1, until=DROPPED)
class ImageScaler:
    """One factor for all pixels, one summand per channel."""

    attributes = {"bias": (), "scale": 1.0}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input, which has as many channels as there are summands."""
        shape, bias = ctx.shape(0), ctx.attributes["bias"]
        if shape is not None and len(shape) != 4:
            ctx.fail(f"expected images of rank 4, got shape {list(shape)}")
        if shape is not None and bias and isinstance(shape[1], int) and shape[1] != len(bias):
            ctx.fail(f"{len(bias)} summands for {shape[1]} channels")
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        wide = widen(xp, x)
        y = wide * wide.dtype.type(ctx.attributes["scale"])
        if ctx.attributes["bias"]:
            y = y + xp.asarray(ctx.attributes["bias"], dtype=wide.dtype).reshape(1, -1, 1, 1)
        return [narrow(y, x.dtype)]


@operator("Crop", since=1, until=DROPPED)
class Crop:
    """Images without their border, or a part of stated size behind the left and upper border."""

    attributes = {"border": (), "scale": ()}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Height and width that are left over."""
        x = ctx.type(0)
        left, top, right, bottom = Crop.border(ctx)
        if x.shape is None:
            return [x]
        if len(x.shape) != 4:
            ctx.fail(f"expected images of rank 4, got shape {list(x.shape)}")
        height, width = x.shape[2] - top - bottom, x.shape[3] - left - right
        if ctx.attributes["scale"]:
            height, width = ctx.attributes["scale"]
        if any(isinstance(size, int) and size < 1 for size in (height, width)):
            ctx.fail(f"nothing is left of {list(x.shape)} inside of {[left, top, right, bottom]}")
        return [x.with_shape((*x.shape[:2], height, width))]

    @staticmethod
    def border(ctx: InferContext) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        border, scale = tuple(ctx.attributes["border"]), tuple(ctx.attributes["scale"])
        if len(border) != 4 or min(border) < 0 or len(scale) not in (0, 2):
            ctx.fail("border must be left, top, right and bottom, scale height and width or absent")
        return border

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A view."""
        left, top, right, bottom = ctx.attributes["border"]
        low, far = x.shape[2] - bottom, x.shape[3] - right
        if ctx.attributes["scale"]:
            low, far = top + ctx.attributes["scale"][0], left + ctx.attributes["scale"][1]
        if not top < low <= x.shape[2] or not left < far <= x.shape[3]:
            raise ValueError(f"rows {top}..{low} and columns {left}..{far} are not in {x.shape}")
        return [x[:, :, top:low, left:far]]


@operator("DynamicSlice", since=1, until=DROPPED)
class DynamicSlice:
    """Slice with bounds as inputs, before Slice itself took them that way; no steps."""

    attributes: dict[str, Any] = {"axes": None, "ends": None, "starts": None}
    moves = True
    compute = staticmethod(Slice.compute)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As Slice does."""
        if any(ctx.attributes[name] is not None for name in ctx.attributes):
            ctx.fail("its bounds and axes are inputs, not attributes")
        return Slice.infer(replace(ctx, version=BOUNDS_AS_INPUT))

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """As Slice does."""
        return Slice.rows(replace(ctx, version=BOUNDS_AS_INPUT))


@operator("MeanVarianceNormalization", since=1, until=9)
class MeanNormalization:
    """Each channel, or everything, without its mean and if wanted with a variance of 1."""

    attributes = {"across_channels": 0, "normalize_variance": 1}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        shape = ctx.shape(0)
        if shape is not None and len(shape) != 4:
            ctx.fail(f"expected images of rank 4, got shape {list(shape)}")
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Over the whole batch; narrow floats compute in float32 and round once."""
        xp = ctx.xp
        wide = widen(xp, x)
        axes = (0, 1, 2, 3) if ctx.attributes["across_channels"] else (0, 2, 3)
        y = wide - wide.mean(axis=axes, keepdims=True)
        if ctx.attributes["normalize_variance"]:
            deviation = xp.sqrt((y * y).mean(axis=axes, keepdims=True))
            y = y / (deviation + deviation.dtype.type(1e-9))
        return [narrow(y, x.dtype)]
