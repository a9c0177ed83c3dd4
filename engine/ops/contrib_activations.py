"""Activations of the domain com.microsoft, most of them with the bias of the layer before."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dtypes import FLOATS, DType
from engine.ir import expr as e
from engine.ir.array_functions import erf
from engine.ir.expr import Expr
from engine.ir.types import TensorType, floordiv
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, check_fits, expect_fits
from engine.ops.define import elementwise
from engine.ops.elementwise import gelu
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

SCALES = frozenset({DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16})


@elementwise("Gelu", since=1, types=FLOATS, domain=MICROSOFT)
def exact_gelu(x: Expr) -> Expr:
    """x * P(X <= x) for a standard normal X."""
    return gelu(x)


@elementwise("BiasGelu", since=1, types=FLOATS, domain=MICROSOFT)
def bias_gelu(x: Expr, bias: Expr) -> Expr:
    """Gelu of x + bias."""
    return gelu(x + bias)


@elementwise("FastGelu", since=1, types=FLOATS, domain=MICROSOFT)
def fast_gelu(x: Expr, bias: Expr | None = None) -> Expr:
    """The tanh approximation of Gelu of x, or of x + bias."""
    return gelu(x if bias is None else x + bias, approximate="tanh")


@elementwise("QuickGelu", since=1, types=FLOATS, domain=MICROSOFT)
def quick_gelu(x: Expr, *, alpha: float = 1.702) -> Expr:
    """x * sigmoid(alpha * x)."""
    return x * e.sigmoid(x * alpha)


@elementwise("ScaledSiLU", since=1, types=FLOATS, domain=MICROSOFT, inputs={"scale": SCALES})
def scaled_silu(x: Expr, scale: Expr | None = None, *, alpha: float = 1.0) -> Expr:
    """silu(x) times `scale`, or times `alpha` where there is none."""
    factor = e.constant(alpha, x.dtype) if scale is None else e.cast(scale, x.dtype)
    return x * e.sigmoid(x) * factor


@operator("BiasSplitGelu", since=1, domain=MICROSOFT)
class BiasSplitGelu:
    """Half of the channels, times Gelu of the other half; a bias on both."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The last dim halved."""
        x = ctx.type(0)
        if not x.shape:
            return [x.with_shape(None)]
        if isinstance(x.shape[-1], int) and x.shape[-1] % 2:
            ctx.fail(f"the last dim must be even, got {list(x.shape)}")
        expect_fits(ctx, x.shape, 1)
        return [x.with_shape((*x.shape[:-1], floordiv(x.shape[-1], 2)))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, bias: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp = ctx.xp
        check_fits(x.shape, bias)
        left, right = xp.split(widen(xp, x) + widen(xp, bias), 2, axis=-1)
        half, root = right.dtype.type(0.5), right.dtype.type(0.7071067811865476)
        return [narrow(left * (right * half * (1 + erf(xp, right * root))), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie anywhere but on the split axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        return follow(ctx, lambda axis: None if axis == rank - 1 else axis)
