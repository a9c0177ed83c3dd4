"""Pipelines of scikit-learn and trees of LightGBM, through their converters."""

from __future__ import annotations

import warnings
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxmltools
from onnxmltools.convert.common.data_types import FloatTensorType as LightGbmFloats
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR

from tests.networks.exporters.common import Export, Feeds, clean, network, numbers

FEATURES, ROWS = 5, 120


def samples(classes: int = 3, missing: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return features and the classes that they fall into."""
    x = numbers(ROWS, FEATURES, seed=5)
    score = x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * numbers(ROWS, seed=6)
    y = np.digitize(score, np.linspace(-1, 1, classes + 1)[1:-1])
    if missing:
        x[::7, 2] = np.nan
    return x, y


def rows(*counts: int, missing: bool = False) -> list[Feeds]:
    """Return one case per number of rows."""
    cases = [{"x": numbers(n, FEATURES, seed=40 + n)} for n in counts]
    for case in cases if missing else ():
        case["x"][0, 2] = np.nan
    return cases


def converted(
    model: Any, opset: int, learning: int, feeds: list[Feeds], **options: object
) -> Export:
    """Convert a fitted model of scikit-learn at these opsets."""
    kinds = [("x", FloatTensorType([None, FEATURES]))]
    return Export(_convert(model, kinds, opset, learning, options), feeds)


def _convert(
    model: Any, kinds: list[Any], opset: int, learning: int, options: dict[str, object]
) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = {"": opset, "ai.onnx.ml": learning}
        chosen = {id(model): options} if options else None
        found = convert_sklearn(model, initial_types=kinds, target_opset=target, options=chosen)
    return clean(found)


def fitted(model: Any, classes: int = 3, missing: bool = False) -> Any:
    """Return the model fitted to the samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*samples(classes, missing))


@network
def logistic() -> Export:
    """Names of classes, and a map of probabilities per row."""
    x, y = samples()
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(x, np.array(["low", "middle", "high"])[y])
    return converted(model, 12, 1, rows(2, 5))


@network
def logistic_binary() -> Export:
    model = fitted(make_pipeline(PolynomialFeatures(2), LogisticRegression()), classes=2)
    return converted(model, 15, 2, rows(1, 4), zipmap=False)


@network
def svc() -> Export:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fitted(make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)))
    return converted(model, 13, 1, rows(2, 5), zipmap=False)


@network
def svr() -> Export:
    return converted(fitted(SVR(kernel="poly", degree=2)), 11, 1, rows(2, 5))


@network
def random_forest() -> Export:
    forest = RandomForestClassifier(8, max_depth=5, random_state=0)
    return converted(fitted(forest), 17, 3, rows(3, 7), zipmap=False)


@network
def gradient_boosting() -> Export:
    trees = GradientBoostingRegressor(n_estimators=12, max_depth=3, random_state=0)
    return converted(fitted(make_pipeline(SimpleImputer(), trees)), 18, 3, rows(2, 6))


@network
def boosted_classifier() -> Export:
    trees = GradientBoostingClassifier(n_estimators=6, max_depth=3, random_state=0)
    return converted(fitted(trees), 19, 3, rows(3, 5), zipmap=False)


@network
def neighbours() -> Export:
    model = fitted(make_pipeline(PCA(3, random_state=0), KNeighborsClassifier(3)))
    return converted(model, 14, 2, rows(2, 4), zipmap=False)


@network
def clusters() -> Export:
    model = fitted(make_pipeline(StandardScaler(), KMeans(3, random_state=0, n_init=2)))
    return converted(model, 13, 2, rows(2, 4))


@network
def naive_bayes() -> Export:
    return converted(fitted(GaussianNB()), 10, 1, rows(2, 4), zipmap=False)


@network
def perceptron() -> Export:
    net = MLPClassifier((8,), max_iter=60, random_state=0)
    return converted(fitted(make_pipeline(StandardScaler(), net)), 16, 3, rows(2, 4), zipmap=False)


@network
def mixed_columns() -> Export:
    """Numbers with gaps beside words: imputed, scaled, one column per word."""
    x, y = samples(missing=True)
    colours = np.array(["red", "green", "blue"])[np.arange(ROWS) * 7 % 3]
    table = np.concatenate([x[:, :3].astype(object), colours[:, None]], axis=1)
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 2]),
            ("words", OneHotEncoder(handle_unknown="ignore"), [3]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression()).fit(table, y)
    kinds = [("x", FloatTensorType([None, 3])), ("colour", StringTensorType([None, 1]))]
    feeds: list[Feeds] = []
    for n in (3, 5):
        words = np.array([["blue"], ["red"], ["violet"], ["green"], ["red"]], object)[:n]
        values = numbers(n, 3, seed=n)
        values[1, 2] = np.nan
        feeds.append({"x": values, "colour": words})
    return Export(_convert(model, kinds, 15, 3, {"zipmap": False}), feeds)


@network
def text_classifier() -> Export:
    texts = [
        "the cat sat on the mat",
        "a dog barked at the cat",
        "stocks fell sharply today",
        "the market rose and stocks gained",
        "my dog loves the park",
        "investors sold stocks",
    ]
    # ONNX Runtime lowers case by a locale that not every machine has.
    words = TfidfVectorizer(lowercase=False, ngram_range=(1, 2))
    model = make_pipeline(words, LogisticRegression())
    model.fit(texts, [0, 0, 1, 1, 0, 1])
    kinds = [("text", StringTensorType([None]))]
    feeds = [
        {"text": np.array(["the dog sat", "stocks gained today"], object)},
        {"text": np.array(["unknown words only", "cat", "the market fell, a dog sat"], object)},
    ]
    return Export(_convert(model, kinds, 14, 2, {"zipmap": False}), feeds)


def lightgbm_model(model: Any, classes: int, opset: int, zipmap: bool) -> Export:
    """Fit trees and convert them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(*samples(classes, missing=True))
        found = onnxmltools.convert_lightgbm(
            model,
            initial_types=[("x", LightGbmFloats([None, FEATURES]))],
            target_opset=opset,
            zipmap=zipmap,
        )
    return Export(clean(found), rows(3, 6, missing=True))


@network
def lightgbm_classifier() -> Export:
    trees = lightgbm.LGBMClassifier(n_estimators=5, num_leaves=7, verbose=-1, n_jobs=1)
    return lightgbm_model(trees, 3, 12, zipmap=True)


@network
def lightgbm_regressor() -> Export:
    trees = lightgbm.LGBMRegressor(n_estimators=10, num_leaves=7, verbose=-1, n_jobs=1)
    return lightgbm_model(trees, 9, 15, zipmap=False)
