"""What the models of ai.onnx.ml share: rows of features, class labels, post transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array, int_value
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

DOMAIN = "ai.onnx.ml"
NUMBERS = frozenset({DType.FLOAT32, DType.FLOAT64, DType.INT64, DType.INT32})
POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
NEARLY_ZERO = 1e-7  # what SOFTMAX_ZERO takes for zero
WINITZKI = 0.147  # the constant of his approximation of the error function's inverse


def item_per_row(ctx: RowContext) -> Sequence[RowState]:
    """Items are rows of [N, C]; a single row [C] is one item whose features belong together."""
    rank = ctx.rank(0)
    if rank is None or rank < 2:
        return ctx.mixed("its input may be a single row of features")
    return follow(ctx, lambda axis: 0 if axis == 0 else None)


def elementwise_rows(ctx: RowContext) -> Sequence[RowState]:
    """Every element is mapped by itself: items stay where they are."""
    return follow(ctx, lambda axis: axis)


def row_count(ctx: InferContext) -> Dim:
    """How many rows input 0 has: N of [N, C], one of [C]."""
    shape = ctx.shape(0)
    if shape is None:
        return ctx.fresh_dim("N")
    if len(shape) not in (1, 2):
        ctx.fail(f"expected features [N, C] or [C], got {ctx.type(0)}")
    return shape[0] if len(shape) == 2 else 1


def feature_count(ctx: InferContext) -> int | None:
    """How many features a row of input 0 has, where that is known."""
    shape = ctx.shape(0)
    return int_value(shape[-1]) if shape else None


def as_matrix(x: Array) -> Array:
    """Return features as [N, C]; a single row becomes a matrix of one."""
    if x.ndim not in (1, 2):
        raise ValueError(f"expected features [N, C] or [C], got shape {list(x.shape)}")
    return x[None, :] if x.ndim == 1 else x


def real(xp: Any, x: Array) -> Array:
    """Return numbers as they compute: float64 as it is, everything else in float32."""
    return x if x.dtype == np.float64 else x.astype(xp.float32, copy=False)


def check_choice(ctx: InferContext, name: str, choices: Sequence[str]) -> None:
    """Refuse an attribute that is none of `choices`."""
    if ctx.attributes[name] not in choices:
        ctx.fail(f"{name} is {ctx.attributes[name]!r}; expected one of {', '.join(choices)}")


# ---------------------------------------------------------------------- class labels


@dataclass(frozen=True)
class Labels:
    """The names of classes: strings, or integers; numbers from 0 on where the model has none."""

    values: np.ndarray | None
    dtype: DType

    @classmethod
    def read(cls, attributes: Mapping[str, Any], integers: str = "classlabels_ints") -> Labels:
        """Read them from `classlabels_strings` or the attribute `integers`."""
        if attributes["classlabels_strings"]:
            return cls(np.array(attributes["classlabels_strings"], object), DType.STRING)
        if attributes[integers]:
            return cls(np.array(attributes[integers], np.int64), DType.INT64)
        return cls(None, DType.INT64)

    @property
    def count(self) -> int:
        """How many classes have a name."""
        return 0 if self.values is None else len(self.values)

    def of(self, classes: np.ndarray) -> np.ndarray:
        """Return the labels of classes given by number."""
        return classes.astype(np.int64) if self.values is None else self.values[classes]

    def binary(self, positive: np.ndarray) -> np.ndarray:
        """Return labels where one score decides between two classes."""
        if self.count == 2:
            return self.of(positive.astype(np.int64))
        if self.dtype is DType.STRING:
            return np.where(positive, "1", "0").astype(object)
        return positive.astype(np.int64)


def classifier_types(ctx: InferContext, labels: Labels, scores: Dim) -> Sequence[TensorType]:
    """Return the types of labels [N] and scores [N, E]."""
    count = row_count(ctx)
    kinds = [TensorType(labels.dtype, (count,)), TensorType(DType.FLOAT32, (count, scores))]
    return kinds[: ctx.n_outputs]


def classifier_results(
    ctx: ComputeContext, labels: np.ndarray, scores: np.ndarray
) -> Sequence[np.ndarray]:
    """Return labels and scores as the outputs that the node names."""
    return [labels, scores.astype(np.float32, copy=False)][: ctx.n_outputs]


# ---------------------------------------------------------------------- post transforms


def logistic(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    small = xp.exp(-abs(x))
    return xp.where(x < 0, small, x.dtype.type(1)) / (1 + small)


def _softmax(xp: Any, x: Array) -> Array:
    y = xp.exp(x - x.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def _softmax_zero(xp: Any, x: Array) -> Array:
    """Softmax in which scores of zero stay zero."""
    largest = x.max(axis=-1, keepdims=True)
    # A tiny score keeps its sign: it is scaled as the others are, instead of raised.
    y = xp.where(abs(x) > NEARLY_ZERO, xp.exp(x - largest), x * xp.exp(-largest))
    total = y.sum(axis=-1, keepdims=True)
    return xp.where(total == 0, x.dtype.type(0.5), y / xp.where(total == 0, 1, total))


def _probit(xp: Any, x: Array) -> Array:
    """The normal distribution's quantile, by S. Winitzki's formula for erf's inverse (2008).

    ONNX leaves open how exact it is; the runtimes that models are tested with use this formula.
    """
    y = 2 * x - 1
    log = xp.log((1 - y) * (1 + y))
    v = 2 / (pi * WINITZKI) + 0.5 * log
    root = xp.sqrt(xp.sqrt(v * v - log / WINITZKI) - v)
    return sqrt(2) * xp.where(y < 0, -root, root)


_TRANSFORMS: dict[str, Callable[[Any, Array], Array]] = {
    "NONE": lambda xp, x: x,
    "SOFTMAX": _softmax,
    "LOGISTIC": logistic,
    "SOFTMAX_ZERO": _softmax_zero,
    "PROBIT": _probit,
}


def post_transform(xp: Any, scores: Array, name: str) -> Array:
    """Apply the transform `name` to rows of scores (N, E)."""
    return _TRANSFORMS[name](xp, scores) if scores.size else scores


def final_scores(xp: Any, scores: Array, name: str) -> Array:
    """Transform rows of scores (N, E); a score alone is only changed by PROBIT.

    That is how ONNX Runtime reads the operators: a model with one output and LOGISTIC gives the
    score as it is.
    """
    if scores.shape[-1] == 1 and name != "PROBIT":
        return scores
    return post_transform(xp, scores, name)


def two_scores(xp: Any, score: Array, name: str, *, complement: bool) -> Array:
    """Make the scores (N, 2) of two classes from the second one's (N, 1).

    The first class gets 1 - score when `complement`, else -score; only LOGISTIC and PROBIT change
    them further.
    """
    if name == "LOGISTIC":
        return xp.concatenate([logistic(xp, -score), logistic(xp, score)], axis=-1)
    both = xp.concatenate([1 - score if complement else -score, score], axis=-1)
    return post_transform(xp, both, name) if name == "PROBIT" else both
