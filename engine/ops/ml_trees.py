"""Ensembles of decision trees, from ai.onnx.ml: TreeEnsemble, TreeEnsembleClassifier,
TreeEnsembleRegressor.

They compute on numpy arrays on every device (see `engine.ops.cores.trees`). Where ONNX's text is
silent, ONNX Runtime's behaviour is followed, which exporters test with: one score alone is not
changed by a post transform (but by PROBIT), and a binary classifier whose leaves weigh one class
only decides by the sign of the score, or by 1/2 when all weights are positive. Its labels for two
classes that both have weights are not: here the larger score wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.checks import check_dtype
from engine.ops.common import Array, check_size
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
    row_count,
    two_scores,
)
from engine.ops.ml_tree_attributes import OLD_NODES, Ensemble, numbers, read_new, read_old
from engine.ops.registry import REQUIRED, Kernel, operator

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")  # by their numbers in TreeEnsemble
NEW_POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _evaluate(
    ctx: ComputeContext, ensemble: Ensemble, x: np.ndarray, how: str, kind: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, targets) aggregated over the trees, and which targets any leaf weighed."""
    rows = as_matrix(x)
    if rows.dtype.kind in "iu":
        rows = rows.astype(np.float64)  # exact, and compared with splits as they are
    elif rows.dtype.itemsize < 4:
        rows = rows.astype(np.float32)
    weights = ensemble.weights
    check_size(ctx, (len(rows), weights.targets), kind)
    totals = np.empty((len(rows), weights.targets), kind)
    touched = np.empty(totals.shape, bool)
    for part, leaf in ensemble.forest.chunks(rows, max(weights.most, 1)):
        totals[part], touched[part] = weights.combine(leaf, "SUM" if how == "AVERAGE" else how)
    if how == "AVERAGE":
        totals /= len(ensemble.forest.roots)
    return totals, touched


def _check_features(ctx: InferContext, ids: Sequence[int]) -> None:
    check_dtype(ctx, 0, (*NUMBERS, DType.FLOAT16))
    features = feature_count(ctx)
    if features is not None and ids and max(ids) >= features:
        ctx.fail(f"a tree looks at feature {max(ids)}, its rows have {features}")


def _with_double_sums(ensemble: Ensemble, x: np.ndarray) -> Ensemble:
    """Sum in float64 for rows of float64, else in the weights' own type."""
    if x.dtype != np.float64 or ensemble.weights.weight.dtype == np.float64:
        return ensemble
    weights = ensemble.weights
    wide = type(weights)(
        weights.start, weights.target, weights.weight.astype(np.float64), weights.targets
    )
    return Ensemble(ensemble.forest, wide, ensemble.base.astype(np.float64))


# ---------------------------------------------------------------------- TreeEnsembleRegressor


def _count(attributes: Any) -> int:
    return 1 if attributes["n_targets"] is None else int(attributes["n_targets"])


def _infer_targets(ctx: InferContext, dtype: DType) -> Sequence[TensorType]:
    if _count(ctx.attributes) < 1:
        ctx.fail(f"n_targets is {_count(ctx.attributes)}; expected 1 at least")
    _check_features(ctx, ctx.attributes["nodes_featureids"])
    return [TensorType(dtype, (row_count(ctx), _count(ctx.attributes)))]


@operator("TreeEnsembleRegressor", since=(1, 3), domain=DOMAIN)
class TreeEnsembleRegressor:
    """Targets that leaves of many trees add up to, or of which they give the mean or extremes."""

    attributes = {
        **OLD_NODES,
        "aggregate_function": "SUM",
        "n_targets": None,
        "target_ids": (),
        "target_nodeids": (),
        "target_treeids": (),
        "target_weights": (),
        "target_weights_as_tensor": None,
    }
    rows = staticmethod(item_per_row)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 [N, targets]."""
        check_choice(ctx, "aggregate_function", AGGREGATES)
        check_choice(ctx, "post_transform", POST_TRANSFORMS)
        return _infer_targets(ctx, DType.FLOAT32)

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel:
        """The forest is built once."""
        ensemble = read_old(ctx.attributes, "target", _count(ctx.attributes))
        if len(ensemble.base) not in (0, ensemble.weights.targets):
            raise ValueError(f"{len(ensemble.base)} base values for {_count(ctx.attributes)}")
        return partial(_regress, ctx, ensemble)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A target that no leaf weighed is zero; base values are added in the end."""
        return TreeEnsembleRegressor.bind(ctx)(x)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """One comparison per tree; how deep rows go only values tell."""
        return row_count(ctx) * len(set(ctx.attributes["nodes_treeids"]))


def _regress(ctx: ComputeContext, ensemble: Ensemble, x: np.ndarray) -> Sequence[np.ndarray]:
    ensemble = _with_double_sums(ensemble, x)
    kind = ensemble.weights.weight.dtype
    how = ctx.attributes["aggregate_function"]
    scores, _ = _evaluate(ctx, ensemble, x, how, kind)
    if len(ensemble.base):
        scores = scores + ensemble.base
    return [final_scores(np, scores, ctx.attributes["post_transform"]).astype(np.float32)]


# ---------------------------------------------------------------------- TreeEnsemble


@operator("TreeEnsemble", since=5, domain=DOMAIN)
class TreeEnsemble:
    """The same in the newer form: leaves apart from nodes, and tests for membership in a set."""

    attributes = {
        "aggregate_function": 1,
        "leaf_targetids": REQUIRED,
        "leaf_weights": REQUIRED,
        "membership_values": None,
        "n_targets": None,
        "nodes_falseleafs": REQUIRED,
        "nodes_falsenodeids": REQUIRED,
        "nodes_featureids": REQUIRED,
        "nodes_hitrates": None,
        "nodes_missing_value_tracks_true": (),
        "nodes_modes": REQUIRED,
        "nodes_splits": REQUIRED,
        "nodes_trueleafs": REQUIRED,
        "nodes_truenodeids": REQUIRED,
        "post_transform": 0,
        "tree_roots": REQUIRED,
    }
    rows = staticmethod(item_per_row)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """[N, targets] of the input's type."""
        for name, known in (
            ("aggregate_function", AGGREGATES),
            ("post_transform", NEW_POST_TRANSFORMS),
        ):
            if not 0 <= ctx.attributes[name] < len(known):
                ctx.fail(f"{name} is {ctx.attributes[name]}; expected 0 to {len(known) - 1}")
        return _infer_targets(ctx, ctx.dtype(0))

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel:
        """The forest is built once."""
        ensemble = read_new(ctx.attributes, _count(ctx.attributes))
        return partial(_aggregate, ctx, ensemble)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A target that no leaf weighed is zero."""
        return TreeEnsemble.bind(ctx)(x)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """One comparison per tree; how deep rows go only values tell."""
        return row_count(ctx) * len(ctx.attributes["tree_roots"])


def _aggregate(ctx: ComputeContext, ensemble: Ensemble, x: np.ndarray) -> Sequence[np.ndarray]:
    kind = ensemble.weights.weight.dtype
    how = AGGREGATES[ctx.attributes["aggregate_function"]]
    scores, _ = _evaluate(ctx, ensemble, x, how, kind)
    name = NEW_POST_TRANSFORMS[ctx.attributes["post_transform"]]
    return [final_scores(np, scores, name).astype(x.dtype, copy=False)]


# ---------------------------------------------------------------------- TreeEnsembleClassifier


@operator("TreeEnsembleClassifier", since=(1, 3), domain=DOMAIN)
class TreeEnsembleClassifier:
    """The class for which leaves of many trees weigh most, and the scores of all classes."""

    attributes = {
        **OLD_NODES,
        "class_ids": (),
        "class_nodeids": (),
        "class_treeids": (),
        "class_weights": (),
        "class_weights_as_tensor": None,
        "classlabels_int64s": (),
        "classlabels_strings": (),
    }
    rows = staticmethod(item_per_row)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Labels [N] and scores [N, classes]."""
        check_choice(ctx, "post_transform", POST_TRANSFORMS)
        labels = Labels.read(ctx.attributes, "classlabels_int64s")
        if not labels.count:
            ctx.fail("it names no classes; expected classlabels_int64s or classlabels_strings")
        _check_features(ctx, ctx.attributes["nodes_featureids"])
        return classifier_types(ctx, labels, labels.count)

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel:
        """The forest is built once."""
        labels = Labels.read(ctx.attributes, "classlabels_int64s")
        ensemble = read_old(ctx.attributes, "class", labels.count)
        allowed = (0, 1, 2) if labels.count == 2 else (0, labels.count)
        if len(ensemble.base) not in allowed:
            raise ValueError(f"{len(ensemble.base)} base values for {labels.count} classes")
        return partial(_classify, ctx, ensemble, labels)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Equal scores: the first class wins."""
        return TreeEnsembleClassifier.bind(ctx)(x)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """One comparison per tree; how deep rows go only values tell."""
        return row_count(ctx) * len(set(ctx.attributes["nodes_treeids"]))


def _classify(
    ctx: ComputeContext, ensemble: Ensemble, labels: Labels, x: np.ndarray
) -> Sequence[np.ndarray]:
    ensemble = _with_double_sums(ensemble, x)
    kind, base = ensemble.weights.weight.dtype, ensemble.base
    scores, touched = _evaluate(ctx, ensemble, x, "SUM", kind)
    weighed = set(ctx.attributes["class_ids"])
    transform = ctx.attributes["post_transform"]
    if labels.count <= 2 and len(weighed) == 1:
        (only,) = weighed
        score = scores[:, only : only + 1] + (base[min(only, len(base) - 1)] if len(base) else 0)
        return _decide(ctx, labels, score, only)
    scores = scores + base if len(base) else np.where(touched, scores, kind.type(0))
    # A class that no leaf weighed is no candidate, unless base values give all a score.
    candidates = scores if len(base) else np.where(touched, scores, -np.inf)
    chosen = labels.of(candidates.argmax(axis=1)) if len(scores) else labels.of(np.zeros(0, int))
    return classifier_results(ctx, chosen, final_scores(np, scores, transform))


def _decide(
    ctx: ComputeContext, labels: Labels, score: np.ndarray, only: int
) -> Sequence[np.ndarray]:
    """Choose between two classes by the one score (N, 1) that leaves give."""
    transform = ctx.attributes["post_transform"]
    is_probability = bool((numbers(ctx.attributes, "class_weights") >= 0).all())
    threshold = 0.5 if is_probability and labels.count == 2 else 0.0
    chosen = labels.binary(score[:, 0] > threshold)
    if labels.count == 1:
        return classifier_results(ctx, chosen, final_scores(np, score, transform))
    if only == 1:  # the other class has no score of its own: it stays at zero
        both = np.concatenate([np.zeros_like(score), score], axis=1)
        return classifier_results(ctx, chosen, final_scores(np, both, transform))
    return classifier_results(
        ctx, chosen, two_scores(np, score, transform, complement=is_probability)
    )
