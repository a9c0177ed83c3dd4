"""Support vector machines, from ai.onnx.ml: SVMClassifier, SVMRegressor.

The form is libsvm's (Chang and Lin, "LIBSVM: a library for support vector machines", 2011).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
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
    final_scores,
    item_per_row,
    logistic,
    real,
    row_count,
    two_scores,
)
from engine.ops.registry import operator

KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
KERNEL_PARAMETERS = 3  # gamma, coef0, degree
FEWEST_ROUNDS = 100  # of the search for probabilities
SMALLEST = 1e-7  # a pair's probability stays this far from 0 and 1


def _kernel(ctx: ComputeContext, x: Array, vectors: Array, kind: str) -> Array:
    """Return the kernel of every row (N, F) with every vector (V, F): (N, V)."""
    xp = ctx.xp
    check_size(ctx, (len(x), len(vectors)), x.dtype)
    gamma, offset, degree = ctx.attributes["kernel_params"] or (0.0, 0.0, 0.0)
    products = x @ vectors.T
    if kind == "LINEAR":
        return products
    if kind == "POLY":
        return (gamma * products + offset) ** degree
    if kind == "SIGMOID":
        return xp.tanh(gamma * products + offset)
    # |x - v|^2 by squares and products would lose what two close points differ by: one vector
    # at a time instead, which is exact and needs no (N, V, F).
    for i in range(len(vectors)):
        difference = x - vectors[i]
        products[:, i] = (difference * difference).sum(axis=1)
    return xp.exp(-gamma * products)


def _check_kernel(ctx: InferContext) -> None:
    check_dtype(ctx, 0, NUMBERS)
    check_choice(ctx, "kernel_type", KERNELS)
    check_choice(ctx, "post_transform", POST_TRANSFORMS)
    count = len(ctx.attributes["kernel_params"])
    if count not in (0, KERNEL_PARAMETERS):
        ctx.fail(f"kernel_params has {count} numbers; expected gamma, coef0 and degree")
    if count == 0 and ctx.attributes["kernel_type"] != "LINEAR":
        ctx.fail(f"a kernel {ctx.attributes['kernel_type']} needs kernel_params")


def _matrix(values: Sequence[float], rows: int, features: int, kind: Any, xp: Any) -> Array:
    if len(values) != rows * features:
        raise ValueError(f"{len(values)} numbers do not make {rows} rows of {features}")
    return xp.asarray(values, kind).reshape(rows, features)


# ---------------------------------------------------------------------- SVMRegressor


@operator("SVMRegressor", since=1, domain=DOMAIN)
class SVMRegressor:
    """A weighted sum of kernels, or with `one_class` its sign."""

    attributes = {
        "coefficients": (),
        "kernel_params": (),
        "kernel_type": "LINEAR",
        "n_supports": 0,
        "one_class": 0,
        "post_transform": "NONE",
        "rho": (),
        "support_vectors": (),
    }
    rows = staticmethod(item_per_row)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 [N, 1]."""
        _check_kernel(ctx)
        supports = int(ctx.attributes["n_supports"])
        if supports < 0 or (supports and len(ctx.attributes["coefficients"]) != supports):
            ctx.fail(f"{len(ctx.attributes['coefficients'])} coefficients, {supports} vectors")
        if not ctx.attributes["rho"]:
            ctx.fail("rho is empty; expected the number to add")
        return [TensorType(DType.FLOAT32, (row_count(ctx), 1))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Post transforms leave a score alone as it is, as in ONNX Runtime."""
        xp, rows = ctx.xp, real(ctx.xp, as_matrix(x))
        supports, features = int(ctx.attributes["n_supports"]), rows.shape[1]
        weights, attributes = xp.asarray(ctx.attributes["coefficients"], rows.dtype), ctx.attributes
        if supports:
            vectors = _matrix(attributes["support_vectors"], supports, features, rows.dtype, xp)
            values = _kernel(ctx, rows, vectors, attributes["kernel_type"]) @ weights
        else:
            values = rows @ weights
        values = values + rows.dtype.type(attributes["rho"][0])
        if attributes["one_class"]:
            values = xp.where(values > 0, rows.dtype.type(1), rows.dtype.type(-1))
        return [values[:, None].astype(xp.float32, copy=False)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Products with the support vectors."""
        return 2 * row_count(ctx) * len(ctx.attributes["support_vectors"])


# ---------------------------------------------------------------------- SVMClassifier


def _pair_count(classes: int) -> int:
    return classes * (classes - 1) // 2


@operator("SVMClassifier", since=1, domain=DOMAIN)
class SVMClassifier:
    """Classes that pairwise decisions vote for; without support vectors, the largest sum.

    Scores are probabilities where the model has their coefficients, else the decisions: two
    classes get the one decision with either sign.
    """

    attributes = {
        "classlabels_ints": (),
        "classlabels_strings": (),
        "coefficients": (),
        "kernel_params": (),
        "kernel_type": "LINEAR",
        "post_transform": "NONE",
        "prob_a": (),
        "prob_b": (),
        "rho": (),
        "support_vectors": (),
        "vectors_per_class": (),
    }
    rows = staticmethod(item_per_row)
    host = True  # labels may be strings

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Labels [N] and scores [N, E]."""
        _check_kernel(ctx)
        labels = Labels.read(ctx.attributes)
        classes, per_class = max(labels.count, 1), ctx.attributes["vectors_per_class"]
        if not per_class:
            if not ctx.attributes["rho"]:
                ctx.fail("rho is empty; expected the number to add")
            return classifier_types(ctx, labels, classes)
        pairs = _pair_count(classes)
        if len(per_class) != classes or min(per_class) < 0 or classes < 2:
            ctx.fail(f"vectors_per_class has {len(per_class)} counts for {classes} classes")
        if len(ctx.attributes["rho"]) != pairs:
            ctx.fail(f"rho has {len(ctx.attributes['rho'])} numbers for {pairs} pairs")
        a, b = len(ctx.attributes["prob_a"]), len(ctx.attributes["prob_b"])
        if a != b or a not in (0, pairs):
            ctx.fail(f"prob_a and prob_b have {a} and {b} numbers for {pairs} pairs")
        return classifier_types(ctx, labels, classes if a or pairs == 1 else pairs)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Equal votes: the first class wins."""
        attributes, labels = ctx.attributes, Labels.read(ctx.attributes)
        rows, transform = real(np, as_matrix(x)), attributes["post_transform"]
        if not attributes["vectors_per_class"]:
            classes = max(labels.count, 1)
            weights = _matrix(
                attributes["coefficients"], classes, rows.shape[1], rows.dtype, ctx.xp
            )
            scores = rows @ weights.T + rows.dtype.type(attributes["rho"][0])
            chosen = labels.of(scores.argmax(axis=1))
            return classifier_results(ctx, chosen, final_scores(np, scores, transform))
        decisions = _decisions(ctx, rows)  # (N, pairs)
        chosen = labels.of(_votes(decisions, labels.count).argmax(axis=1))
        if attributes["prob_a"]:
            check_size(ctx, (len(rows), 4, labels.count, labels.count), rows.dtype)
            scores = _probabilities(decisions, attributes, labels.count)
            return classifier_results(ctx, chosen, final_scores(np, scores, transform))
        if labels.count == 2:
            softened = transform in ("SOFTMAX", "SOFTMAX_ZERO")
            scores = two_scores(np, decisions, transform, complement=softened)
            return classifier_results(ctx, chosen, scores)
        return classifier_results(ctx, chosen, final_scores(np, decisions, transform))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Products with the support vectors."""
        return 2 * row_count(ctx) * len(ctx.attributes["support_vectors"])


def _decisions(ctx: ComputeContext, rows: np.ndarray) -> np.ndarray:
    """Return the decision of every pair of classes: positive for the first of the two."""
    attributes = ctx.attributes
    ends = np.cumsum(attributes["vectors_per_class"])
    total, classes = int(ends[-1]), len(ends)
    vectors = _matrix(attributes["support_vectors"], total, rows.shape[1], rows.dtype, np)
    weights = _matrix(attributes["coefficients"], classes - 1, total, rows.dtype, np)
    kernels = _kernel(ctx, rows, vectors, attributes["kernel_type"])  # (N, V)
    sizes = attributes["vectors_per_class"]
    own = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    found = [
        kernels[:, own[i]] @ weights[j - 1, own[i]] + kernels[:, own[j]] @ weights[i, own[j]]
        for i, j in combinations(range(classes), 2)
    ]
    return np.asarray(np.stack(found, axis=1) + np.asarray(attributes["rho"], rows.dtype))


def _votes(decisions: np.ndarray, classes: int) -> np.ndarray:
    votes = np.zeros((len(decisions), classes), np.int64)
    for k, (i, j) in enumerate(combinations(range(classes), 2)):
        first = decisions[:, k] > 0
        votes[:, i] += first
        votes[:, j] += ~first
    return votes


def _probabilities(
    decisions: np.ndarray, attributes: Mapping[str, Any], classes: int
) -> np.ndarray:
    """Return probabilities of classes (N, K) from decisions of pairs, by Platt's sigmoids."""
    a, b = (np.asarray(attributes[name], decisions.dtype) for name in ("prob_a", "prob_b"))
    chances = np.clip(logistic(np, -(decisions * a + b)), SMALLEST, 1 - SMALLEST)
    pairwise = np.zeros((len(decisions), classes, classes), decisions.dtype)
    for k, (i, j) in enumerate(combinations(range(classes), 2)):
        pairwise[:, i, j] = chances[:, k]
        pairwise[:, j, i] = 1 - chances[:, k]
    return _couple(pairwise)


def _couple(pairwise: np.ndarray) -> np.ndarray:
    """Join chances of pairs (N, K, K) to probabilities of classes (N, K), row by row.

    The second method of Wu, Lin and Weng, "Probability estimates for multi-class classification
    by pairwise coupling" (2004), Algorithm 2: p minimises p' Q p on the simplex. A row that has
    converged stays as it is, so that rows do not depend on each other.
    """
    count, classes, _ = pairwise.shape
    q = -np.swapaxes(pairwise, 1, 2) * pairwise  # (N, K, K)
    diagonal = np.einsum("nij,nij->nj", pairwise, pairwise)
    q[:, np.arange(classes), np.arange(classes)] = diagonal
    p = np.full((count, classes), 1 / classes, pairwise.dtype)
    going = np.arange(count)
    for _ in range(max(FEWEST_ROUNDS, classes)):
        qp = np.einsum("nij,nj->ni", q[going], p[going])
        pqp = (p[going] * qp).sum(axis=1)
        open_ = np.abs(qp - pqp[:, None]).max(axis=1, initial=0) >= 0.005 / classes
        if not open_.any():
            break
        going, qp, pqp = going[open_], qp[open_], pqp[open_]
        p[going] = _sweep(q[going], p[going], qp, pqp)
    return p


def _sweep(q: np.ndarray, p: np.ndarray, qp: np.ndarray, pqp: np.ndarray) -> np.ndarray:
    """Move every probability once to where its own optimality condition holds."""
    for t in range(p.shape[1]):
        step = (pqp - qp[:, t]) / q[:, t, t]
        p[:, t] += step
        pqp = (pqp + step * (step * q[:, t, t] + 2 * qp[:, t])) / (1 + step) ** 2
        qp = (qp + step[:, None] * q[:, t, :]) / (1 + step[:, None])
        p /= 1 + step[:, None]
    return p
