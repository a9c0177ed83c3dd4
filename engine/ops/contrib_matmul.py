"""Matrix products of the domain com.microsoft: transposed, scaled, with an activation behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.ir.types import Dim, Shape, TensorType
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import (
    MICROSOFT,
    check_activation,
    check_fits,
    fused_activation,
)
from engine.ops.linalg import Gemm, MatMul, matmul_flops, matmul_rows, matmul_shape
from engine.ops.registry import operator
from engine.ops.rows import RowContext, RowState


def _order(attributes: Any, side: str, rank: int) -> tuple[int, ...]:
    """The order of axes in which an operand multiplies.

    `transBatch` takes the first axis behind the batch axes, `trans` swaps the last two then. ONNX
    Runtime leaves vectors as they are.
    """
    axes = list(range(rank))
    if rank > 2 and attributes.get(f"transBatch{side}", 0):
        axes = [*axes[1:-1], 0, axes[-1]]
    if rank > 1 and attributes[f"trans{side}"]:
        axes[-2:] = axes[-1], axes[-2]
    return tuple(axes)


def _ordered_shape(ctx: InferContext, i: int) -> Shape | None:
    shape = ctx.shape(i)
    if shape is None:
        return None
    return tuple(shape[axis] for axis in _order(ctx.attributes, "AB"[i], len(shape)))


def _plain(ctx: InferContext) -> InferContext:
    """The context of the product once both operands lie in order."""
    kinds = [ctx.type(i).with_shape(_ordered_shape(ctx, i)) for i in (0, 1)]
    return replace(ctx, types=kinds)


@operator("FusedMatMul", since=1, domain=MICROSOFT)
class FusedMatMul:
    """`alpha * A' @ B'`, with the last two or the batch axes of either side transposed first."""

    attributes = {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules for the transposed operands."""
        shapes = [_ordered_shape(ctx, i) for i in (0, 1)]
        return [TensorType(ctx.dtype(0), matmul_shape(ctx, *shapes))]

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array) -> Sequence[Array]:
        """Narrow floats multiply in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        left = widen(xp, a).transpose(_order(attributes, "A", a.ndim))
        right = widen(xp, b).transpose(_order(attributes, "B", b.ndim))
        (y,) = MatMul.compute(ctx, left, right)
        if attributes["alpha"] != 1.0:
            y = xp.asarray(y * y.dtype.type(attributes["alpha"]))
        return [narrow(y, a.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like MatMul, once the axes are in order."""
        states, kinds = list(ctx.rows), list(ctx.types)
        for i in (0, 1):
            kind, state = kinds[i], states[i]
            if kind is None or kind.shape is None or state is None:
                return ctx.mixed("a rank is unknown")
            order = _order(ctx.attributes, "AB"[i], len(kind.shape))
            kinds[i] = kind.with_shape(kind.shape[axis] for axis in order)
            if state.is_rows:
                states[i] = replace(state, axis=order.index(state.axis))
        return matmul_rows(replace(ctx, rows=states, types=kinds))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        return matmul_flops(_plain(ctx))


@operator("TransposeMatMul", since=1, domain=MICROSOFT)
class TransposeMatMul(FusedMatMul):
    """FusedMatMul by its first name, without transposed batch axes."""

    attributes = {"alpha": 1.0, "transA": 0, "transB": 0}


@operator("FusedGemm", since=1, domain=MICROSOFT)
class FusedGemm:
    """Gemm and an activation."""

    attributes = {
        "activation": None,
        "activation_alpha": None,
        "activation_beta": None,
        "activation_gamma": None,
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 0,
    }
    rows, flops = staticmethod(Gemm.rows), staticmethod(Gemm.flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like Gemm."""
        check_activation(ctx)
        return Gemm.infer(ctx)

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array, c: Array | None = None) -> Sequence[Array]:
        """The activation of Gemm's result."""
        (y,) = Gemm.compute(ctx, a, b, c)
        names = ("activation_alpha", "activation_beta", "activation_gamma")
        numbers = [ctx.attributes[name] for name in names]
        act = fused_activation(ctx.xp, ctx.attributes["activation"], numbers)
        return [narrow(act(widen(ctx.xp, y)), y.dtype)]


@operator("GemmFastGelu", since=1, domain=MICROSOFT)
class GemmFastGelu:
    """The tanh approximation of Gelu of `X @ W + bias`."""

    rows, flops = staticmethod(matmul_rows), staticmethod(matmul_flops)
    infer = staticmethod(MatMul.infer)

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, w: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        y = xp.matmul(widen(xp, x), widen(xp, w))
        check_fits(y.shape, bias)
        y = y if bias is None else y + widen(xp, bias)
        inner = (y + y * y * y * y.dtype.type(0.044715)) * y.dtype.type(0.7978845608028654)
        return [narrow(y * y.dtype.type(0.5) * (1 + xp.tanh(inner)), x.dtype)]
