"""Losses of classifiers: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dtypes import FLOATS
from engine.ir.types import TensorType
from engine.ops.checks import INDICES, check_dtype
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState, rows_on

REDUCTIONS = ("none", "sum", "mean")


def _infer_loss(ctx: InferContext) -> TensorType:
    """Return the loss's type: like the target, or a scalar when it is reduced."""
    if ctx.attributes["reduction"] not in REDUCTIONS:
        ctx.fail(f"reduction is {ctx.attributes['reduction']!r}; expected one of {REDUCTIONS}")
    check_dtype(ctx, 0, FLOATS)
    check_dtype(ctx, 1, INDICES)
    check_dtype(ctx, 2, (ctx.dtype(0),))
    scores, target = ctx.type(0), ctx.type(1)
    if scores.rank is not None and scores.rank < 2:
        ctx.fail(f"the scores must be [N, C, ...], they are {scores}")
    if None not in (scores.rank, target.rank) and target.rank != (scores.rank or 0) - 1:
        ctx.fail(f"the target must be [N, ...] without the classes, it is {target}")
    if ctx.attributes["reduction"] != "none":
        return scores.with_shape(())
    if scores.shape is not None:
        return scores.with_shape((scores.shape[0], *scores.shape[2:]))
    return scores.with_shape(target.shape)


def _loss(ctx: ComputeContext, logs: Array, target: Array, weight: Array | None) -> Array:
    """Return the loss for log-probabilities (N, C, ...); `logs` must be at least float32."""
    xp, ignored = ctx.xp, ctx.attributes["ignore_index"]
    classes = logs.shape[1]
    if target.shape != (logs.shape[0], *logs.shape[2:]):
        raise ValueError(f"a target of {list(target.shape)} for scores of {list(logs.shape)}")
    kept = xp.ones(target.shape, dtype=bool) if ignored is None else target != ignored
    index = xp.where(kept, target, 0).astype(xp.int64)
    if index.size and (int(index.min()) < 0 or int(index.max()) >= classes):
        raise ValueError(f"target classes must be 0 to {classes - 1}")
    picked = xp.take_along_axis(logs, xp.expand_dims(index, 1), axis=1)[:, 0]
    shares = xp.ones((), logs.dtype) if weight is None else widen(xp, weight)[index]
    shares = xp.where(kept, shares, xp.zeros((), logs.dtype))
    loss = xp.where(kept, -picked * shares, xp.zeros((), logs.dtype))
    if ctx.attributes["reduction"] == "none":
        return loss
    total = loss.sum()
    return total if ctx.attributes["reduction"] == "sum" else total / shares.sum()


def _loss_rows(ctx: RowContext) -> Sequence[RowState]:
    """Items on axis 0 of scores and targets stay apart while nothing is summed up."""
    if ctx.attributes["reduction"] != "none":
        return ctx.mixed("it sums over the items")
    problem = side_inputs_problem(ctx, (0, 1))
    scores, target = ctx.rows[0], ctx.rows[1]
    if problem or scores is None or target is None:
        return ctx.mixed(problem or "an input is missing")
    if not (scores.is_rows and target.is_rows and scores == target and scores.axis == 0):
        return ctx.mixed("scores and targets do not carry the items on axis 0 alike")
    return ctx.all_outputs(rows_on(0, scores.block, scores.outer))


@operator("NegativeLogLikelihoodLoss", since=(12, 13, 22))
class NegativeLogLikelihoodLoss:
    """Minus the log-probability of each target class, weighed by its class."""

    attributes = {"ignore_index": None, "reduction": "mean"}
    rows = staticmethod(_loss_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """A scalar, or one loss per target."""
        return [_infer_loss(ctx)]

    @staticmethod
    def compute(
        ctx: ComputeContext, logs: Array, target: Array, weight: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        return [narrow(_loss(ctx, widen(ctx.xp, logs), target, weight), logs.dtype)]


@operator("SoftmaxCrossEntropyLoss", since=(12, 13))
class SoftmaxCrossEntropyLoss:
    """The same of scores that become log-probabilities first; these are the second output."""

    attributes = {"ignore_index": None, "reduction": "mean"}
    rows = staticmethod(_loss_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The loss, and log-probabilities like the scores."""
        return [_infer_loss(ctx), ctx.type(0)][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext, scores: Array, labels: Array, weights: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, x = ctx.xp, widen(ctx.xp, scores)
        shifted = x - x.max(axis=1, keepdims=True) if x.size else x
        logs = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
        loss = _loss(ctx, logs, labels, weights)
        results = [narrow(loss, scores.dtype), narrow(logs, scores.dtype)]
        return results[: ctx.n_outputs]
