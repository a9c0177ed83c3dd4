"""CausalConvWithState: a short convolution over time that remembers where it stopped."""

from __future__ import annotations

from collections.abc import Sequence

from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState

ACTIVATIONS = ("none", "silu", "swish")  # the last two are one
PAST = 3  # the input that carries on


@operator("CausalConvWithState", since=27)
class CausalConvWithState:
    """Each channel convolved with its own filter, looking only back; the last inputs are kept."""

    attributes = {"activation": "none"}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input, and the last `k - 1` places of it."""
        x, w = ctx.type(0), ctx.shape(1)
        if ctx.attributes["activation"] not in ACTIVATIONS:
            ctx.fail(f"activation must be one of {', '.join(ACTIVATIONS)}")
        for name, shape in (("input", x.shape), ("filter", w)):
            if shape is not None and len(shape) != 3:
                ctx.fail(f"the {name} must have rank 3, got shape {list(shape)}")
        if w is not None and (int_value(w[1]) not in (1, None) or w[2] == 0):
            ctx.fail(f"expected a filter of shape [channels, 1, k], got {list(w)}")
        if x.shape is None or w is None:
            return [x, x.with_shape(None)][: ctx.n_outputs]
        if isinstance(x.shape[1], int) and isinstance(w[0], int) and x.shape[1] != w[0]:
            ctx.fail(f"{x.shape[1]} channels, a filter for {w[0]}")
        return [x, x.with_shape((*x.shape[:2], w[2] - 1))][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        bias: Array | None = None,
        past: Array | None = None,
    ) -> Sequence[Array]:
        """Narrow floats compute in float32; an activation works on the rounded result."""
        xp = ctx.xp
        if x.ndim != 3 or w.ndim != 3 or w.shape[:2] != (x.shape[1], 1) or not w.shape[2]:
            raise ValueError(f"a filter of shape {w.shape} does not fit an input of {x.shape}")
        taps, length = w.shape[2], x.shape[2]
        before = (*x.shape[:2], taps - 1)
        check_size(ctx, (*x.shape[:2], taps - 1 + length), xp.float32)
        if past is None:
            past = xp.zeros(before, dtype=x.dtype)
        if past.shape != before:
            raise ValueError(f"a past state of shape {past.shape}, expected {before}")
        joined = xp.concatenate((past, x), axis=2)
        wide, filters = widen(xp, joined), widen(xp, w)
        y = xp.zeros(x.shape, dtype=wide.dtype)
        for tap in range(taps if x.size else 0):
            y += wide[:, :, tap : tap + length] * filters[:, :, tap].reshape(1, -1, 1)
        if bias is not None:
            y += widen(xp, bias).reshape(1, -1, 1)
        if ctx.attributes["activation"] != "none":
            y = widen(xp, narrow(y, x.dtype))
            y = y / (1 + xp.exp(-y))
        return [narrow(y, x.dtype), joined[:, :, length:]][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Input and past state carry the items on axis 0."""
        first = ctx.rows[0]
        problem = side_inputs_problem(ctx, (0, PAST))
        if problem or first is None or not first.is_rows or first.axis != 0:
            return ctx.mixed(problem or "its input does not carry the items on axis 0")
        past = ctx.rows[PAST] if len(ctx.rows) > PAST else None
        if past not in (None, first):
            return ctx.mixed("its past state does not carry the items like the input")
        return ctx.all_outputs(first)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        x, w = ctx.shape(0), ctx.shape(1)
        return 0 if x is None or w is None else 2 * element_count(x) * w[2]
