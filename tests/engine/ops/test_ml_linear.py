from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats

DOMAIN = "ai.onnx.ml"
X = floats(5, 4)
POSTS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"]


def coefficients(rows: int, scale: float = 1.0) -> dict[str, Any]:
    return {
        "coefficients": (floats(rows * 4, seed=1) * scale).tolist(),
        "intercepts": floats(rows, seed=2).tolist(),
    }


def count(op: str) -> int:
    return 2 if op.endswith("Classifier") else 1


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("post", POSTS)
def test_regressor(targets, post):
    weights = coefficients(targets)
    check_node("LinearRegressor", X, domain=DOMAIN, targets=targets, post_transform=post, **weights)
    del weights["intercepts"]
    check_node("LinearRegressor", X, domain=DOMAIN, targets=targets, **weights)


@pytest.mark.parametrize("targets", [1, 2])
def test_probit(targets):
    """The twin's formula is an approximation; ours is the same one."""
    weights = {"coefficients": [0.0] * 3 * targets + [0.3] * targets, "intercepts": [0.5] * targets}
    x = np.clip(X, -1, 1)
    attributes = {"targets": targets, "post_transform": "PROBIT", **weights}
    check_node("LinearRegressor", x, domain=DOMAIN, rtol=1e-3, atol=1e-4, **attributes)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_classifier(strings, post, classes, dtype):
    names = ["a", "b", "c"][:classes]
    labels = (
        {"classlabels_strings": names} if strings else {"classlabels_ints": [5, 7, 9][:classes]}
    )
    x = (X * 3).astype(dtype)
    for rows in {classes, 1 if classes == 2 else classes}:
        check_node(
            "LinearClassifier", x, domain=DOMAIN, outputs=2, post_transform=post, rtol=1e-4,
            **coefficients(rows, 0.3), **labels,
        )  # fmt: skip


def test_classifier_without_labels():
    check_node("LinearClassifier", X, domain=DOMAIN, outputs=2, **coefficients(1))
    case = NodeCase("LinearClassifier", [X], coefficients(3), outputs=2, domain=DOMAIN)
    labels, scores = case.run_engine("symbolic")
    assert labels.tolist() == scores.argmax(axis=1).tolist()


def test_scores_of_exactly_zero():
    x = np.array([[0.0], [1.0], [0.0]], np.float32)
    attributes = {"coefficients": [1.0, 0.0], "intercepts": [0.0, 0.0], "classlabels_ints": [1, 2]}
    for post in ("NONE", "SOFTMAX", "LOGISTIC"):
        check_node(
            "LinearClassifier", x, domain=DOMAIN, outputs=2, post_transform=post, **attributes
        )
    # Zeros only: ONNX Runtime divides by zero, the other runtimes give each class a half.
    attributes["post_transform"] = "SOFTMAX_ZERO"
    case = NodeCase("LinearClassifier", [x], attributes, outputs=2, domain=DOMAIN)
    assert case.run_engine()[1].tolist() == [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]


def test_rows():
    attributes = {**coefficients(3), "classlabels_strings": ["a", "b", "c"]}
    case = NodeCase("LinearClassifier", [X[:3]], attributes, outputs=2, domain=DOMAIN)
    assert all(state.is_rows for state in check_rows(case, (0,)))
    case = NodeCase("LinearRegressor", [X[:3]], {**coefficients(2), "targets": 2}, domain=DOMAIN)
    assert check_rows(case, (0,))[0].is_rows


def test_a_single_row_without_a_batch():
    labels, scores = NodeCase(
        "LinearClassifier", [X[0]], coefficients(3), outputs=2, domain=DOMAIN
    ).run_engine()
    assert (labels.shape, scores.shape) == ((1,), (1, 3))


@pytest.mark.parametrize(
    ("op", "change", "match"),
    [
        ("LinearRegressor", {"targets": 2}, "intercepts"),
        ("LinearRegressor", {"targets": 0}, "intercepts"),
        ("LinearRegressor", {"coefficients": [1.0] * 7}, "coefficients"),
        ("LinearRegressor", {"post_transform": "RELU"}, "RELU"),
        ("LinearClassifier", {"classlabels_ints": [1]}, "labels"),
        ("LinearClassifier", {"classlabels_ints": [1, 2, 3]}, "labels"),
        ("LinearClassifier", {"coefficients": [1.0] * 7}, "coefficients"),
    ],
)
def test_models_that_do_not_fit(op, change, match):
    with pytest.raises(InvalidModel, match=match):
        NodeCase(op, [X], {**coefficients(1), **change}, outputs=count(op), domain=DOMAIN).graph()


def test_features_that_do_not_fit():
    for op in ("LinearRegressor", "LinearClassifier"):
        with pytest.raises(RunFailed, match="features"):
            NodeCase(op, [X[:, :3]], coefficients(1), outputs=count(op), domain=DOMAIN).run_engine(
                "symbolic"
            )
        with pytest.raises(InvalidModel, match=r"\[N, C\]"):
            NodeCase(op, [X[None]], coefficients(1), outputs=count(op), domain=DOMAIN).graph()
