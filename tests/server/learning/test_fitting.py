from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from server.errors import InvalidInput
from server.learning import fitting
from server.learning.examples import Example, Lesson
from server.learning.fitting import Method, activated, fit, folds_for, scaling_of, unit_rows
from server.learning.report import (
    card,
    confusion,
    interval,
    make_report,
    near_copies,
    summary,
)


def blobs(classes: int, each: int, dim: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, dim)) * 1.5
    targets = np.repeat(np.arange(classes), each)
    rows = centres[targets] + random.standard_normal((len(targets), dim))
    return rows.astype(np.float32), targets


def lesson_of(targets: np.ndarray) -> Lesson:
    labels = tuple(f"class {k}" for k in range(int(targets.max()) + 1))
    examples = tuple(Example(f"{n}", labels[t], f"{n}") for n, t in enumerate(targets))
    return Lesson(examples, labels)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("each", [2, 8])
def test_logistic_is_scikit_learns(classes: int, each: int):
    features, targets = blobs(classes, each)
    made = fit(features, targets, "logistic")
    rows = made.scaling(features)
    plain = LogisticRegression(C=made.strength, max_iter=10_000, tol=1e-8).fit(rows, targets)
    np.testing.assert_allclose(
        made.probabilities(features), plain.predict_proba(rows), rtol=0.02, atol=2e-3
    )
    assert made.weight.shape == (12, classes) and made.activation == "softmax"
    assert made.strength in [strength for strength, _ in made.tried]
    assert made.folds == min(5, each)


@pytest.mark.parametrize("classes", [2, 4])
def test_svm_is_scikit_learns_calibrated_one(classes: int):
    features, targets = blobs(classes, 9)
    made = fit(features, targets, "svm")
    rows = made.scaling(features)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    machine = LinearSVC(C=made.strength, max_iter=20_000, random_state=0)
    plain = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False)
    expected = plain.fit(rows, targets).predict_proba(rows)
    np.testing.assert_allclose(made.probabilities(features), expected, atol=1e-6)
    assert made.activation == "normalized_sigmoid"


@pytest.mark.parametrize("method", fitting.METHODS)
def test_twice_the_same(method: Method):
    features, targets = blobs(3, 4)
    first, second = fit(features, targets, method), fit(features, targets, method)
    np.testing.assert_array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(first.unseen, second.unseen)


@pytest.mark.parametrize("method", fitting.METHODS)
@pytest.mark.parametrize("features", [np.zeros((4, 3)), np.ones((4, 1)), np.eye(4) * 1e20])
def test_features_that_say_nothing(method: Method, features: np.ndarray):
    made = fit(features.astype(np.float32), np.array([0, 0, 1, 1]), method)
    assert np.isfinite(made.weight).all() and np.isfinite(made.unseen).all()
    np.testing.assert_allclose(made.unseen.sum(axis=1), 1.0)


def test_pairs_are_enough_to_tell_far_classes_apart():
    features, targets = blobs(4, 2, dim=40)
    for method in fitting.METHODS:
        made = fit(features, targets, method)
        assert (made.probabilities(features).argmax(axis=1) == targets).all()


def test_large_sets_get_fewer_folds(monkeypatch: pytest.MonkeyPatch):
    features, targets = blobs(3, 8)
    assert folds_for(targets) == 5
    monkeypatch.setattr(fitting, "LARGE", 10)
    made = fit(features, targets, "logistic")
    assert made.folds == 3 and len(made.tried) == 3


def test_scaling():
    features, _ = blobs(2, 5)
    rows = scaling_of(features)(features)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
    assert np.square(rows).sum(axis=1).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.norm(unit_rows(features), axis=1), 1.0)
    assert (unit_rows(np.zeros((1, 3), np.float32)) == 0).all()


def test_probabilities_of_huge_scores():
    scores = np.array([[1e4, -1e4, 0.0]])
    for activation in ("softmax", "normalized_sigmoid"):
        found = activated(scores, activation)
        assert np.isfinite(found).all() and found.sum() == pytest.approx(1.0)


def test_unknown_methods_and_a_missing_library(monkeypatch: pytest.MonkeyPatch):
    features, targets = blobs(2, 2)
    with pytest.raises(InvalidInput, match="method 'tree' is not known"):
        fit(features, targets, "tree")  # type: ignore[arg-type]
    monkeypatch.setattr(fitting, "LIBRARY", "no_such_library")
    with pytest.raises(InvalidInput, match=r"pip install -e '\.\[learning\]'"):
        fitting.load_library()
    with pytest.raises(InvalidInput, match="scikit-learn, which is not installed"):
        fitting.require_library()
    assert importlib.util.find_spec("no_such_library") is None


# The report


def test_the_report_is_plain_and_adds_up():
    features, targets = blobs(3, 6)
    lesson = lesson_of(targets)
    made = fit(features, targets)
    names = [each.name for each in lesson.examples]
    report = make_report(lesson, names, made, targets)
    assert json.loads(json.dumps(report)) == report
    right = sum(row["right"] for row in report["classes"])
    assert report["accuracy"] == right / 18 and np.sum(report["confusion"]) == 18
    assert len(report["mistakes"]) == 18 - right
    assert sum(pair["count"] for pair in report["confused"]) == 18 - right
    low, high = report["accuracy_interval"]
    assert low <= report["accuracy"] <= high
    assert report["accuracy_of_guessing"] == pytest.approx(1 / 3)
    assert "of 18 pictures in 3 classes" in summary(report)
    base = {"model": "eyes", "version": "1", "output": "vector"}
    text = card("a|b", {**report, "base": base})
    assert "# a\\|b" in text and "| class 2 | 6 |" in text


def test_classes_that_are_never_named():
    targets = np.array([0, 0, 1, 1])
    features, _ = blobs(2, 2)
    made = fit(features, targets)
    always = np.tile([0.9, 0.1], (4, 1))
    wrong = fitting.Classifier(**{**vars(made), "unseen": always})
    report = make_report(lesson_of(targets), list("wxyz"), wrong, targets)
    assert [row["precision"] for row in report["classes"]] == [0.5, None]
    assert report["confused"] == [{"labels": ["class 0", "class 1"], "count": 2}]
    assert [each["picture"] for each in report["mistakes"]] == ["y", "z"]
    assert "Most often confused" in card(
        "m", {**report, "base": {"model": "", "version": "", "output": ""}}
    )


def test_confusion_and_interval():
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]
    assert interval(0, 0) == (0.0, 1.0)
    low, high = interval(10, 10)
    assert 0.7 < low < 0.75 and high == 1.0


def test_near_copies_are_those_of_other_classes():
    features = np.array([[1, 0], [1, 0.001], [0, 1], [1, 0]], np.float32)
    targets = np.array([0, 1, 1, 0])
    found = near_copies(features, targets, list("abcd"), ["x", "y"])
    assert [pair["pictures"] for pair in found] == [["a", "b"], ["b", "d"]]
    assert found[0]["labels"] == ["x", "y"]
    many = np.zeros((4001, 1), np.float32)
    assert near_copies(many, np.zeros(4001, int), [], []) == []
