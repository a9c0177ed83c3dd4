"""Fits a linear classifier on features, with scikit-learn: a small set must go a long way.

Features are scaled to length 1, then centred and divided by one number, so that what is a strong or
a weak regularisation does not depend on the network. Its strength is chosen by stratified
cross-validation; the answers of the classifiers that did not see a picture are what the report is
made of. With the same pictures in the same order the result is the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, how_to_install

Method = Literal["logistic", "svm"]
METHODS: Final = ("logistic", "svm")
Features = NDArray[np.float32]  # (n, d)
Targets = NDArray[np.int64]  # (n,)
Exact = NDArray[np.float64]

LIBRARY: Final = "sklearn"
PARTS: Final = ("linear_model", "model_selection", "svm", "calibration")
SEED: Final = 0
MAX_FOLDS: Final = 5
FEW_FOLDS: Final = 3
LARGE: Final = 500_000  # pictures x classes from which on fewer folds and strengths are tried
# scikit-learn's C, the inverse of the regularisation, for rows of length 1 on average.
STRENGTHS: Final = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
LOGISTIC_STEPS: Final = 3000
TRIAL_TOLERANCE, FINAL_TOLERANCE = 1e-5, 1e-8  # of the gradient
SVM_STEPS: Final = 20_000
LEAST_SPREAD: Final = 1e-12
LEAST_PROBABILITY: Final = 1e-12


@dataclass(frozen=True)
class Scaling:
    """How features are brought to one size: `(x / |x| - mean) / spread`."""

    mean: Exact  # (d,)
    spread: float

    def __call__(self, features: NDArray[Any]) -> Exact:
        """Scale features (n, d)."""
        scaled: Exact = (unit_rows(features) - self.mean) / self.spread
        return scaled


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier over scaled features, and what cross-validation told of it.

    Attributes:
        weight: (d, classes) float64.
        bias: (classes,) float64.
        activation: What the engine calls the way from scores to probabilities.
        strength: The C that was chosen.
        tried: (C, loss) of each that was tried.
        folds: Of the cross-validation.
        unseen: (n, classes) probabilities of each picture, by classifiers that did not see it.
    """

    method: Method
    scaling: Scaling
    weight: Exact
    bias: Exact
    activation: Literal["softmax", "normalized_sigmoid"]
    strength: float
    tried: tuple[tuple[float, float], ...]
    folds: int
    unseen: Exact

    def probabilities(self, features: NDArray[Any]) -> Exact:
        """Return the probabilities (n, classes) of the classes of features (n, d)."""
        return activated(self.scaling(features) @ self.weight + self.bias, self.activation)


def fit(features: Features, targets: Targets, method: Method = "logistic") -> Classifier:
    """Fit a classifier.

    Args:
        features: One row a picture, finite.
        targets: The index of each picture's class; every class has two pictures or more.
        method: "logistic" regression, or "svm": a linear one with calibrated probabilities.

    Raises:
        InvalidInput: the method is unknown, or scikit-learn is not installed.
    """
    if method not in METHODS:
        raise InvalidInput(
            f"method {str(method)[:40]!r} is not known; expected one of {', '.join(METHODS)}",
            field="method",
            expected=list(METHODS),
            got=str(method)[:40],
        )
    with warnings.catch_warnings():
        # What has not quite converged is judged by the cross-validation like everything else.
        warnings.simplefilter("ignore")
        return (_fit_logistic if method == "logistic" else _fit_svm)(features, targets)


def require_library() -> None:
    """Raise what says how to install scikit-learn, if it is not there; does not load it.

    Raises:
        InvalidInput: it is not installed.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise _not_installed()


def load_library() -> None:
    """Load scikit-learn, which takes a second the first time; blocking."""
    for part in PARTS:
        _sklearn(part)


def unit_rows(features: NDArray[Any]) -> Exact:
    """Scale rows to length 1, as the head in the graph does; a row of zeros stays one."""
    exact = features.astype(np.float64)
    squares = np.einsum("ij,ij->i", exact, exact)[:, None] + 1e-30
    unit: Exact = exact / np.sqrt(squares)
    return unit


def scaling_of(features: NDArray[Any]) -> Scaling:
    """Return the scaling that centres these features and makes their mean square length 1."""
    unit = unit_rows(features)
    mean = unit.mean(axis=0)
    spread = float(np.sqrt(np.square(unit - mean).sum(axis=1).mean()))
    return Scaling(mean, max(spread, LEAST_SPREAD) if spread > LEAST_SPREAD else 1.0)


def activated(scores: Exact, activation: str) -> Exact:
    """Turn scores (n, classes) into probabilities."""
    if activation == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    else:
        powers = 1.0 / (1.0 + np.exp(-np.clip(scores, -500, 500)))
    shares: Exact = powers / powers.sum(axis=1, keepdims=True)
    return shares


def folds_for(targets: Targets) -> int:
    """Return into how many parts pictures are cut: none may be without one of the classes."""
    smallest = int(np.bincount(targets).min())
    classes = int(targets.max()) + 1
    most = FEW_FOLDS if len(targets) * classes > LARGE else MAX_FOLDS
    return max(2, min(most, smallest))


# Logistic regression


def _fit_logistic(features: Features, targets: Targets) -> Classifier:
    strengths = _strengths(targets)
    unseen = np.zeros((len(strengths), len(targets), int(targets.max()) + 1))
    for train, test in _splits(targets):
        scaling = scaling_of(features[train])
        path = _logistic_path(scaling(features[train]), targets[train], strengths)
        rows = scaling(features[test])
        for k, (weight, bias) in enumerate(path):
            unseen[k, test] = activated(rows @ weight + bias, "softmax")
    true = np.clip(unseen[:, np.arange(len(targets)), targets], LEAST_PROBABILITY, None)
    losses = -np.log(true).mean(axis=1)
    best = int(losses.argmin())
    scaling = scaling_of(features)
    [(weight, bias)] = _logistic_path(
        scaling(features), targets, strengths[best : best + 1], FINAL_TOLERANCE
    )
    return Classifier(
        "logistic",
        scaling,
        weight,
        bias,
        "softmax",
        strengths[best],
        tuple(zip(strengths, losses.tolist(), strict=True)),
        folds_for(targets),
        unseen[best],
    )


def _logistic_path(
    rows: Exact, targets: Targets, strengths: Sequence[float], tolerance: float = TRIAL_TOLERANCE
) -> Iterator[tuple[Exact, Exact]]:
    """Yield weights and bias for each strength; each begins where the one before it ended."""
    model = _sklearn("linear_model").LogisticRegression(
        max_iter=LOGISTIC_STEPS, tol=tolerance, warm_start=True
    )
    for strength in strengths:
        model.set_params(C=strength)
        model.fit(rows, targets)
        yield _per_class(model.coef_.T, model.intercept_)


def _per_class(weight: Exact, bias: Exact) -> tuple[Exact, Exact]:
    """Return weights per class; of two classes scikit-learn keeps the second's only."""
    if weight.shape[1] > 1:
        return weight.copy(), bias.copy()
    return np.hstack([0 * weight, weight]), np.concatenate([0 * bias, bias])


# Support vector machine


def _fit_svm(features: Features, targets: Targets) -> Classifier:
    strengths = _strengths(targets)
    classes = int(targets.max()) + 1
    scores = np.zeros((len(strengths), len(targets), classes))
    for train, test in _splits(targets):
        scaling = scaling_of(features[train])
        rows, unseen = scaling(features[train]), scaling(features[test])
        for k, strength in enumerate(strengths):
            scores[k, test] = _decisions(_svm(strength).fit(rows, targets[train]), unseen)
    missed = (scores.argmax(axis=2) != targets).mean(axis=1)
    best = int(missed.argmin())  # of equal ones the simplest
    scaling = scaling_of(features)
    weight, bias, slope, offset = _calibrated(scaling(features), targets, strengths[best])
    return Classifier(
        "svm",
        scaling,
        weight * slope,
        bias * slope + offset,
        "normalized_sigmoid",
        strengths[best],
        tuple(zip(strengths, missed.tolist(), strict=True)),
        folds_for(targets),
        activated(scores[best] * slope + offset, "normalized_sigmoid"),
    )


def _svm(strength: float) -> Any:
    return _sklearn("svm").LinearSVC(C=strength, max_iter=SVM_STEPS, random_state=SEED)


def _decisions(model: Any, rows: Exact) -> Exact:
    decided: Exact = model.decision_function(rows)
    return decided if decided.ndim == 2 else np.stack([-decided, decided], axis=1)


def _calibrated(rows: Exact, targets: Targets, strength: float) -> tuple[Exact, ...]:
    """Return weights, bias, and per class the slope and offset that make probabilities of it.

    Platt's scaling: `1 / (1 + exp(a f + b))` of the score `f` of a class, so slope and offset are
    `-a` and `-b`. Of two classes the first's is the mirror image of the second's.
    """
    calibrated = _sklearn("calibration").CalibratedClassifierCV(
        _svm(strength), method="sigmoid", cv=_folds(targets), ensemble=False
    )
    [fitted] = calibrated.fit(rows, targets).calibrated_classifiers_
    weight, bias = fitted.estimator.coef_.T, fitted.estimator.intercept_
    slope = np.array([-each.a_ for each in fitted.calibrators])
    offset = np.array([-each.b_ for each in fitted.calibrators])
    # Of very few pictures the scores may order wrongly in cross-validation: what would turn the
    # classifier around is not a calibration.
    turned = slope <= 0
    slope, offset = np.where(turned, 1.0, slope), np.where(turned, 0.0, offset)
    if weight.shape[1] == 1:
        weight, bias = np.hstack([-weight, weight]), np.concatenate([-bias, bias])
        slope, offset = np.repeat(slope, 2), np.concatenate([-offset, offset])
    return weight, bias, slope, offset


# Common


def _strengths(targets: Targets) -> tuple[float, ...]:
    return STRENGTHS[1::2] if len(targets) * (int(targets.max()) + 1) > LARGE else STRENGTHS


def _splits(targets: Targets) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    return iter(_folds(targets).split(np.zeros(len(targets)), targets))


def _folds(targets: Targets) -> Any:
    split = _sklearn("model_selection").StratifiedKFold
    return split(folds_for(targets), shuffle=True, random_state=SEED)


def _sklearn(part: str) -> Any:
    # Imported when something is learned: it takes a second and much memory, and is optional.
    try:
        return importlib.import_module(f"{LIBRARY}.{part}")
    except ImportError as error:
        raise _not_installed() from error


def _not_installed() -> InvalidInput:
    return InvalidInput(
        "learning needs scikit-learn, which is not installed here: "
        + how_to_install("scikit-learn", "learning"),
        field="model",
    )
