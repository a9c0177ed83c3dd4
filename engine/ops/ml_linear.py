"""Linear models, from ai.onnx.ml: LinearClassifier, LinearRegressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.checks import check_dtype
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.ml_common import (
    DOMAIN,
    NUMBERS,
    POST_TRANSFORMS,
    Labels,
    as_matrix,
    check_choice,
    classifier_results,
    classifier_types,
    feature_count,
    final_scores,
    item_per_row,
    real,
    row_count,
    two_scores,
)
from engine.ops.registry import REQUIRED, operator


def _score_count(ctx: InferContext, rows: int | None) -> Dim:
    """How many rows the coefficients have: as stated, else as many as features allow."""
    size, features = len(ctx.attributes["coefficients"]), feature_count(ctx)
    if rows is None and features:
        rows = size // features
    if rows is not None and features is not None and rows * features != size:
        ctx.fail(f"{size} coefficients for {rows} scores of {features} features")
    return ctx.fresh_dim("scores") if rows is None else rows


def _scores(ctx: ComputeContext, x: Array, rows: int | None) -> Array:
    """Return x W^T + intercepts, (N, E); float64 as it is, everything else in float32."""
    xp, features = ctx.xp, real(ctx.xp, as_matrix(x))
    weights = xp.asarray(ctx.attributes["coefficients"], features.dtype)
    count = weights.size // max(features.shape[1], 1) if rows is None else rows
    if count * features.shape[1] != weights.size:
        raise ValueError(f"{weights.size} coefficients for rows of {features.shape[1]} features")
    scores = features @ weights.reshape(count, features.shape[1]).T
    if ctx.attributes["intercepts"]:
        scores = scores + xp.asarray(ctx.attributes["intercepts"], scores.dtype)
    return scores


def _flops(ctx: InferContext) -> Dim:
    return 2 * row_count(ctx) * len(ctx.attributes["coefficients"])


@operator("LinearRegressor", since=1, domain=DOMAIN)
class LinearRegressor:
    """Weighted sums of features, one per target."""

    attributes = {"coefficients": (), "intercepts": (), "post_transform": "NONE", "targets": 1}
    rows, flops = staticmethod(item_per_row), staticmethod(_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 [N, targets]."""
        check_dtype(ctx, 0, NUMBERS)
        check_choice(ctx, "post_transform", POST_TRANSFORMS)
        targets = int(ctx.attributes["targets"])
        if targets < 1 or len(ctx.attributes["intercepts"]) not in (0, targets):
            ctx.fail(f"{len(ctx.attributes['intercepts'])} intercepts for {targets} targets")
        _score_count(ctx, targets)
        return [TensorType(DType.FLOAT32, (row_count(ctx), targets))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """float64 is rounded at the end."""
        scores = _scores(ctx, x, int(ctx.attributes["targets"]))
        result = final_scores(ctx.xp, scores, ctx.attributes["post_transform"])
        return [result.astype(ctx.xp.float32, copy=False)]


@operator("LinearClassifier", since=1, domain=DOMAIN)
class LinearClassifier:
    """The class with the largest weighted sum; one sum decides between two by its sign."""

    attributes = {
        "classlabels_ints": (),
        "classlabels_strings": (),
        "coefficients": REQUIRED,
        "intercepts": (),
        "multi_class": 0,
        "post_transform": "NONE",
    }
    rows, flops = staticmethod(item_per_row), staticmethod(_flops)
    host = True  # labels may be strings

    @staticmethod
    def score_rows(attributes: Any) -> int | None:
        """How many scores there are, where the attributes tell."""
        return len(attributes["intercepts"]) or None

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Labels [N] and scores [N, E]; one score for two classes becomes two."""
        check_dtype(ctx, 0, NUMBERS)
        check_choice(ctx, "post_transform", POST_TRANSFORMS)
        labels = Labels.read(ctx.attributes)
        count = _score_count(ctx, LinearClassifier.score_rows(ctx.attributes))
        if isinstance(count, int) and labels.count not in (0, max(count, 2)):
            ctx.fail(f"{labels.count} class labels for {count} scores")
        if labels.count:
            count = labels.count
        return classifier_types(ctx, labels, count)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Equal scores: the first class wins."""
        labels, transform = Labels.read(ctx.attributes), ctx.attributes["post_transform"]
        scores = _scores(ctx, x, LinearClassifier.score_rows(ctx.attributes))
        if labels.count not in (0, max(scores.shape[1], 2)):
            raise ValueError(f"{labels.count} class labels for {scores.shape[1]} scores")
        if scores.shape[1] != 1:
            chosen = labels.of(scores.argmax(axis=1))
            return classifier_results(ctx, chosen, final_scores(np, scores, transform))
        chosen = labels.binary(scores[:, 0] > 0)
        if labels.count == 2:
            scores = two_scores(np, scores, transform, complement=True)
        else:
            scores = final_scores(np, scores, transform)
        return classifier_results(ctx, chosen, scores)
