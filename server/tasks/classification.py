"""Classification: scores of classes -> labelled predictions, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from server.errors import InvalidInput, LoadFailed
from server.model_config import ClassificationConfig

from .base import Array, Arrays, Parameters, Prepared
from .items import ItemReader, ItemTask
from .parameters import ParameterTable, fraction, positive_int
from .vectors import as_vectors

Scores = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_PARTITION_FROM = 2048  # classes from which finding the best k first beats sorting all


class ClassificationTask(ItemTask):
    """Pictures or tensors in, the best classes out."""

    name = "classification"

    def __init__(
        self,
        items: ItemReader,
        output: str,
        config: ClassificationConfig,
        labels: Sequence[str] | None,
        classes: int | None,
    ) -> None:
        """Take the reader of items, the output that holds the scores, and the classes' names.

        Raises:
            LoadFailed: the labels do not match the classes, or the config contradicts itself.
        """
        _check_labels(labels, classes)
        table = ParameterTable(
            self.name, {"top_k": positive_int, "threshold": fraction}, _defaults(config)
        )
        super().__init__(items, table)
        self._output = output
        self._activation = _activation(config)
        self._labels = None if labels is None else tuple(labels)
        self.fetches: tuple[str, ...] | None = (output,)

    def finish(self, outputs: Arrays, prepared: Prepared, parameters: Parameters) -> dict[str, Any]:
        """Return `{"predictions": [{"label", "index", "score"}, ...]}`, a list of them per row."""
        options = self._table.check(parameters)
        values = as_vectors(outputs[self._output], self._output)  # (rows, classes)
        top_k, threshold = options["top_k"], options["threshold"]
        if prepared.single:
            return {"predictions": self._predict(values[0], top_k, threshold)}
        return {"predictions": [self._predict(row, top_k, threshold) for row in values]}

    def _predict(
        self, values: Array, top_k: int | None, threshold: float | None
    ) -> list[dict[str, Any]]:
        scores = activate(values, self._activation)
        best = best_of(scores, top_k)
        if threshold is not None:
            best = best[scores[best] >= threshold]
        return [
            {"label": self._label(index), "index": index, "score": score}
            for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        ]

    def _label(self, index: int) -> str:
        if self._labels is None or index >= len(self._labels):
            return str(index)
        return self._labels[index]


def activate(values: Array, activation: str) -> Scores:
    """Turn one row of the model's values into scores.

    Raises:
        InvalidInput: a value is not a number, so there is no best class.
    """
    scores = values.astype(np.float64)
    if np.isnan(scores).any() or (activation == "softmax" and not np.isfinite(scores.max())):
        raise InvalidInput(
            "the model's scores for this item are not finite numbers; check its values",
            expected="finite scores",
            got="NaN or infinity",
        )
    if activation == "softmax":
        # Subtract the maximum first: exp overflows above 709.
        np.exp(scores - scores.max(), out=scores)
        scores /= scores.sum()
    elif activation == "sigmoid":
        # exp of what is never positive cannot overflow: 1 / (1 + e^-x) = e^x / (1 + e^x).
        small = np.exp(-np.abs(scores))
        scores = np.where(scores >= 0, 1.0, small) / (1.0 + small)
    return scores


def best_of(scores: Scores, top_k: int | None) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """Return the indices of the `top_k` best scores, best first; equal ones by index."""
    count = len(scores)
    if top_k is None or top_k >= count or count < _PARTITION_FROM:
        return np.argsort(-scores, kind="stable")[:top_k]
    least = np.partition(scores, count - top_k)[count - top_k]
    candidates = np.flatnonzero(scores >= least)
    order = np.argsort(-scores[candidates], kind="stable")[:top_k]
    return candidates[order]


def _activation(config: ClassificationConfig) -> str:
    if config.multi_label and config.activation == "softmax":
        raise LoadFailed(
            "[classification] multi_label needs scores that do not compete; "
            'set activation to "sigmoid", or to "none" if the model ends with it'
        )
    return config.activation


def _defaults(config: ClassificationConfig) -> dict[str, Any]:
    """Return the defaults: the best few, or with multi_label all that reach the threshold."""
    chosen = "top_k" in config.model_fields_set or not config.multi_label
    return {
        "top_k": config.top_k if chosen else None,
        "threshold": config.threshold if config.multi_label else None,
    }


def _check_labels(labels: Sequence[str] | None, classes: int | None) -> None:
    if labels is not None and classes is not None and len(labels) != classes:
        raise LoadFailed(
            f"there are {len(labels)} labels for {classes} classes; "
            "give one label a line, in the order of the model's output"
        )
