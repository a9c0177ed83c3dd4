"""How well a classifier does on pictures it did not see: figures for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.learning.examples import Lesson
from server.learning.fitting import Classifier, Targets, unit_rows

MOST_CONFUSED: Final = 10
MOST_MISTAKES: Final = 50
MOST_LISTED: Final = 100  # of names of pictures
NEAR: Final = 0.999  # cosine of features from which on two pictures are taken for copies
MOST_COMPARED: Final = 4000  # pictures; all pairs are looked at
CONFIDENCE: Final = 1.96  # standard deviations: 95%


def make_report(
    lesson: Lesson, names: Sequence[str], classifier: Classifier, targets: Targets
) -> dict[str, Any]:
    """Return the report as plain JSON.

    Args:
        lesson: What was learned from; it may hold fewer examples than there are features, where
            pictures were not kept.
        names: What each row of the features is called.
        classifier: What was fitted.
        targets: The index of each row's class.
    """
    labels = lesson.labels
    found = classifier.unseen.argmax(axis=1)
    matrix = confusion(targets, found, len(labels))
    right = int(np.trace(matrix))
    low, high = interval(right, len(targets))
    largest = int(matrix.sum(axis=1).max())
    return {
        "method": classifier.method,
        "strength": classifier.strength,
        "folds": classifier.folds,
        "tried": [{"strength": c, "loss": round(loss, 6)} for c, loss in classifier.tried],
        "pictures": len(targets),
        "features": len(classifier.weight),
        "accuracy": right / len(targets),
        "accuracy_interval": [low, high],
        "accuracy_of_guessing": largest / len(targets),
        "labels": list(labels),
        "classes": _per_class(matrix, labels),
        "confusion": matrix.tolist(),
        "confused": _confused(matrix, labels),
        "mistakes": _mistakes(classifier.unseen, targets, names, labels),
        "duplicates": list(lesson.duplicates[:MOST_LISTED]),
    }


def confusion(targets: Targets, found: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    """Return how many pictures of each class (rows) were taken for each class (columns)."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (targets, found), 1)
    return matrix


def interval(right: int, count: int) -> tuple[float, float]:
    """Return where a share lies with 95% confidence (Wilson's interval)."""
    if not count:
        return 0.0, 1.0
    share, z2 = right / count, CONFIDENCE**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    half = CONFIDENCE * spread / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def near_copies(
    features: NDArray[np.float32], targets: Targets, names: Sequence[str], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return pairs of pictures in different classes that the network can hardly tell apart."""
    if len(features) > MOST_COMPARED:
        return []
    unit = unit_rows(features).astype(np.float32)
    pairs = np.argwhere(np.triu(unit @ unit.T >= NEAR, 1) & (targets[:, None] != targets))
    return [
        {
            "pictures": [names[one], names[other]],
            "labels": [labels[targets[one]], labels[targets[other]]],
        }
        for one, other in pairs[:MOST_LISTED].tolist()
    ]


def _per_class(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for k, label in enumerate(labels):
        right, there, called = int(matrix[k, k]), int(matrix[k].sum()), int(matrix[:, k].sum())
        rows.append(
            {
                "label": label,
                "pictures": there,
                "right": right,
                "recall": right / there,
                "precision": right / called if called else None,
            }
        )
    return rows


def _confused(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are most often taken for one another."""
    both = np.triu(matrix + matrix.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [np.unravel_index(place, both.shape) for place in order]
    return [
        {"labels": [labels[a], labels[b]], "count": int(both[a, b])} for a, b in pairs if both[a, b]
    ]


def _mistakes(
    unseen: NDArray[np.float64], targets: Targets, names: Sequence[str], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the wrong answers, the surest first: some of them are wrong labels."""
    found = unseen.argmax(axis=1)
    wrong = np.flatnonzero(found != targets)
    order = wrong[np.argsort(-unseen[wrong, found[wrong]], kind="stable")]
    return [
        {
            "picture": names[k],
            "label": labels[targets[k]],
            "taken_for": labels[found[k]],
            "score": round(float(unseen[k, found[k]]), 4),
        }
        for k in order[:MOST_MISTAKES].tolist()
    ]


def summary(report: Mapping[str, Any]) -> str:
    """Return the report's gist in one sentence."""
    low, high = report["accuracy_interval"]
    return (
        f"{report['accuracy']:.1%} right of {report['pictures']} pictures in "
        f"{len(report['labels'])} classes, each judged by a classifier that did not see it "
        f"(95% sure of {low:.0%} to {high:.0%}; guessing the largest class: "
        f"{report['accuracy_of_guessing']:.0%})"
    )


def card(name: str, report: Mapping[str, Any]) -> str:
    """Return the text of the version's CARD.md."""
    base = report["base"]
    rows = "\n".join(
        f"| {_cell(row['label'])} | {row['pictures']} | {row['recall']:.1%} | "
        + ("" if row["precision"] is None else f"{row['precision']:.1%}")
        + " |"
        for row in report["classes"]
    )
    pairs = "; ".join(
        f"{_cell(pair['labels'][0])} and {_cell(pair['labels'][1])} ({pair['count']})"
        for pair in report["confused"][:5]
    )
    return (
        f"# {_cell(name)}\n\n"
        f"A linear classifier ({report['method']}) on the features of "
        f"`{base['model']}` version {base['version']} (value `{base['output']}`), learned from "
        f"{report['pictures']} pictures.\n\n{summary(report)}.\n\n"
        f"| class | pictures | found | right when named |\n|---|---|---|---|\n{rows}\n\n"
        + (f"Most often confused: {pairs}.\n\n" if pairs else "")
        + "Figures come from cross-validation on the pictures that were given: they say nothing of "
        "pictures of another kind. `report.json` has all of them, `confusion.png` the matrix.\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
