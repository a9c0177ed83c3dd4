from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import load_model_from_string
from onnx.reference import ReferenceEvaluator

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats

DOMAIN = "ai.onnx.ml"
FEATURES = 3
X = floats(6, FEATURES)
KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]
PARAMETERS = [0.3, 0.7, 3.0]


def regressor(kernel: str, supports: int = 5) -> dict[str, Any]:
    return {
        "kernel_type": kernel,
        "kernel_params": PARAMETERS,
        "n_supports": supports,
        "support_vectors": floats(supports * FEATURES, seed=1).tolist(),
        "coefficients": floats(supports, seed=2).tolist(),
        "rho": [0.2],
    }


def classifier(kernel: str, per_class: list[int], *, probabilities: bool) -> dict[str, Any]:
    supports, classes = sum(per_class), len(per_class)
    pairs = classes * (classes - 1) // 2
    found: dict[str, Any] = {
        "kernel_type": kernel,
        "kernel_params": PARAMETERS,
        "vectors_per_class": per_class,
        "support_vectors": floats(supports * FEATURES, seed=1).tolist(),
        "coefficients": floats(supports * (classes - 1), seed=2).tolist(),
        "rho": floats(pairs, seed=3).tolist(),
    }
    if probabilities:
        found["prob_a"] = (-np.abs(floats(pairs, seed=4)) - 0.5).tolist()
        found["prob_b"] = floats(pairs, seed=5, scale=0.1).tolist()
    return found


def count(op: str) -> int:
    return 2 if op.endswith("Classifier") else 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_regressor(kernel, one_class):
    check_node(
        "SVMRegressor", X, domain=DOMAIN, one_class=one_class, rtol=1e-4, **regressor(kernel)
    )


def test_regressor_without_support_vectors():
    attributes = {"coefficients": [0.5, -0.2, 0.1], "rho": [0.3], "n_supports": 0}
    check_node(
        "SVMRegressor",
        X,
        domain=DOMAIN,
        kernel_type="LINEAR",
        kernel_params=PARAMETERS,
        **attributes,
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("per_class", [[2, 3], [2, 1, 3], [1, 2, 2, 1]])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("strings", [False, True])
def test_classifier(kernel, per_class, probabilities, strings):
    names = ["a", "b", "c", "d"][: len(per_class)]
    labels: dict[str, Any] = {"classlabels_strings": names}
    if not strings:
        labels = {"classlabels_ints": [5, 7, 9, 11][: len(per_class)]}
    attributes = classifier(kernel, per_class, probabilities=probabilities)
    check_node(
        "SVMClassifier", X, domain=DOMAIN, outputs=2, rtol=1e-3, atol=1e-4, **attributes, **labels
    )


@pytest.mark.parametrize("post", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("per_class", [[2, 3], [2, 1, 3]])
@pytest.mark.parametrize("probabilities", [False, True])
def test_post_transforms(post, per_class, probabilities):
    attributes = classifier("RBF", per_class, probabilities=probabilities)
    labels = {"classlabels_ints": [5, 7, 9][: len(per_class)]}
    check_node(
        "SVMClassifier", X, domain=DOMAIN, outputs=2, rtol=1e-3, atol=1e-4, post_transform=post,
        **attributes, **labels,
    )  # fmt: skip


def test_classifier_without_support_vectors():
    attributes = {
        "coefficients": floats(3 * FEATURES, seed=1).tolist(),
        "rho": [0.1],
        "classlabels_ints": [5, 7, 9],
        "kernel_type": "LINEAR",
        "kernel_params": PARAMETERS,
    }
    check_node("SVMClassifier", X, domain=DOMAIN, outputs=2, **attributes)


def test_other_types_of_features():
    attributes = {**classifier("RBF", [2, 3], probabilities=True), "classlabels_ints": [0, 1]}
    for dtype in (np.float64, np.int64, np.int32):
        x = (X * 2).astype(dtype)
        check_node("SVMClassifier", x, domain=DOMAIN, outputs=2, rtol=1e-3, atol=1e-4, **attributes)
    x = X.astype(np.float64)
    case = NodeCase("SVMRegressor", [x], regressor("RBF"), domain=DOMAIN)
    twin = ReferenceEvaluator(load_model_from_string(case.model())).run(None, case.feeds())
    np.testing.assert_allclose(case.run_engine()[0], twin[0], rtol=1e-5)


def test_rows():
    attributes = {**classifier("RBF", [2, 1, 3], probabilities=True), "classlabels_ints": [5, 7, 9]}
    case = NodeCase("SVMClassifier", [X[:3]], attributes, outputs=2, domain=DOMAIN)
    assert all(state.is_rows for state in check_rows(case, (0,)))
    assert check_rows(NodeCase("SVMRegressor", [X[:3]], regressor("RBF"), domain=DOMAIN), (0,))


BASE: dict[str, Any] = {
    **classifier("RBF", [2, 3], probabilities=True),
    "classlabels_ints": [0, 1],
}


@pytest.mark.parametrize(
    ("op", "attributes", "match"),
    [
        ("SVMRegressor", {**regressor("RBF"), "kernel_type": "COSINE"}, "COSINE"),
        ("SVMRegressor", {**regressor("RBF"), "kernel_params": [1.0]}, "kernel_params"),
        ("SVMRegressor", {**regressor("RBF"), "kernel_params": []}, "needs kernel_params"),
        ("SVMRegressor", {**regressor("RBF"), "n_supports": 4}, "coefficients"),
        ("SVMRegressor", {**regressor("RBF"), "rho": []}, "rho"),
        ("SVMClassifier", {**BASE, "vectors_per_class": [2, 2, 1]}, "vectors_per_class"),
        ("SVMClassifier", {**BASE, "vectors_per_class": [6, -1]}, "vectors_per_class"),
        ("SVMClassifier", {**BASE, "rho": [1.0, 2.0]}, "rho"),
        ("SVMClassifier", {**BASE, "prob_a": [1.0, 2.0]}, "prob_a"),
    ],
)
def test_models_that_do_not_fit(op, attributes, match):
    with pytest.raises(InvalidModel, match=match):
        stated = {name: value for name, value in attributes.items() if value != []}
        NodeCase(op, [X], stated, outputs=count(op), domain=DOMAIN).graph()


@pytest.mark.parametrize(
    ("op", "attributes"), [("SVMClassifier", BASE), ("SVMRegressor", regressor("RBF"))]
)
def test_features_that_do_not_fit(op, attributes):
    with pytest.raises(RunFailed, match="rows of 2"):
        NodeCase(op, [X[:, :2]], attributes, outputs=count(op), domain=DOMAIN).run_engine(
            "symbolic"
        )
