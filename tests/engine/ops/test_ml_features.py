from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import (
    NodeCase,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

DOMAIN = "ai.onnx.ml"
X = floats(3, 4)


def node(op: str, *inputs: np.ndarray, **attributes: Any) -> NodeCase:
    return NodeCase(op, inputs, attributes, domain=DOMAIN)


def check(op: str, *inputs: np.ndarray, **attributes: Any) -> None:
    check_node(op, *inputs, domain=DOMAIN, **attributes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
@pytest.mark.parametrize("each", [1, 4])
def test_scaler(dtype, each):
    x = (X * 10).astype(dtype)
    check("Scaler", x, offset=[0.5, -1.0, 2.0, 0.1][:each], scale=[2.0, 0.5, 1.0, 3.0][:each])


def test_scaler_of_a_single_row():
    check("Scaler", X[0], offset=[0.5, -1.0, 2.0, 0.1], scale=[2.0, 0.5, 1.0, 3.0])
    only = node("Scaler", X, scale=[2.0]).run_engine()
    np.testing.assert_array_equal(only[0], X * 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(dtype, norm):
    x = (np.concatenate([X, np.zeros((1, 4))]) * 10).astype(dtype)
    x[0] = abs(x[0])
    check("Normalizer", x, norm=norm)
    check("Normalizer", x[0], norm=norm)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_binarizer(dtype):
    x = (X * 10).astype(dtype)
    (y,) = node("Binarizer", x, threshold=2.0).run_engine("symbolic")
    np.testing.assert_array_equal(y, (x > 2).astype(dtype))
    check("Binarizer", X, threshold=0.5)


@pytest.mark.parametrize("replaced", [float("nan"), 2.0])
@pytest.mark.parametrize("each", [1, 4])
def test_imputer(replaced, each):
    x = X.copy()
    x[0, 1] = x[2, 3] = replaced
    imputed = [9.0, 8.0, 7.0, 6.0][:each]
    check("Imputer", x, imputed_value_floats=imputed, replaced_value_float=replaced)
    numbers = np.arange(12).reshape(3, 4) % 3
    check("Imputer", numbers, imputed_value_int64s=[9, 8, 7, 6][:each], replaced_value_int64=2)


def test_array_feature_extractor():
    for x in (X, X.astype(np.float64), (X * 9).astype(np.int64), X.astype(str).astype(object)):
        check("ArrayFeatureExtractor", x, int64(2, 0, 2))
        check("ArrayFeatureExtractor", x[0], int64(1, 3))
    check("ArrayFeatureExtractor", floats(2, 3, 4), int64(3)[None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_feature_vectorizer(dtype):
    wide, narrow = (X * 10).astype(dtype), (X[:, :1] * 10).astype(dtype)
    check("FeatureVectorizer", wide, narrow, inputdimensions=[4, 1])
    (y,) = node("FeatureVectorizer", wide, narrow, inputdimensions=[2, 3]).run_engine()
    zeros = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(y, np.concatenate([wide[:, :2], narrow, zeros], axis=1))
    (y,) = node("FeatureVectorizer", wide[0], narrow[0]).run_engine("symbolic")
    assert y.shape == (1, 5)


ROWS: list[tuple[NodeCase, tuple[int, ...], bool]] = [
    (node("Scaler", X, scale=[2.0]), (0,), True),
    (node("Scaler", X[:, 0], scale=[2.0]), (0,), False),
    (node("Normalizer", X), (0,), True),
    (node("Normalizer", X[:, 0]), (0,), False),
    (node("Binarizer", X[:, 0]), (0,), True),
    (node("Imputer", X[:, 0], imputed_value_floats=[1.0]), (0,), True),
    (node("Imputer", X, imputed_value_floats=[1.0, 2.0, 3.0, 4.0]), (0,), True),
    (node("ArrayFeatureExtractor", X, int64(1, 2)), (0,), True),
    (node("ArrayFeatureExtractor", X[:, 0], int64(1, 2)), (0,), False),
    (node("ArrayFeatureExtractor", X, int64(1, 2, 0)), (1,), True),
    (node("FeatureVectorizer", X, X[:, :1]), (0, 1), True),
    (node("FeatureVectorizer", X, X[:, :1]), (0,), False),
]


@pytest.mark.parametrize(("case", "items", "apart"), ROWS)
def test_rows(case, items, apart):
    states = check_rows(case, items) if apart else row_states(case, items)
    assert [state.is_rows for state in states] == [apart]


@pytest.mark.parametrize(
    ("case", "match"),
    [
        (node("Scaler", X, scale=[1.0, 2.0]), "scale"),
        (node("Normalizer", X, norm="L3"), "L3"),
        (node("Imputer", X), "imputed_value_floats"),
        (node("Imputer", X, imputed_value_floats=[1.0, 2.0]), "imputed_value_floats"),
        (node("Imputer", (X * 9).astype(np.int64), imputed_value_floats=[1.0]), "int64s"),
        (node("ArrayFeatureExtractor", X[0, 0], int64(0)), "scalar"),
        (node("FeatureVectorizer", X, inputdimensions=[1, 2]), "widths"),
        (node("FeatureVectorizer", X, inputdimensions=[1 << 50]), "widths"),
        (node("Scaler", X.astype(str).astype(object)), "float32"),
        (node("Binarizer", X > 0), "float32"),
        (node("ArrayFeatureExtractor", X, X), "int64"),
        (node("FeatureVectorizer", X[None]), "input 0"),
    ],
)
def test_models_that_do_not_fit(case, match):
    with pytest.raises(InvalidModel, match=match):
        case.graph()


@pytest.mark.parametrize(
    ("case", "match"),
    [
        (node("Scaler", X, scale=[1.0, 2.0]), "fit"),
        (node("Scaler", X[:, :1], scale=[1.0, 2.0]), "fit"),
        (node("Imputer", X[:, :1], imputed_value_floats=[1.0, 2.0]), "fit"),
        (node("ArrayFeatureExtractor", X, int64(4)), "0 to 3"),
        (node("ArrayFeatureExtractor", X, int64(-1)), "0 to 3"),
        (node("FeatureVectorizer", X, X[:2]), "rows"),
    ],
)
def test_inputs_that_do_not_fit(case, match):
    with pytest.raises(RunFailed, match=match):
        case.run_engine("symbolic")


def test_absurd_widths_are_refused_before_they_are_made():
    case = node("FeatureVectorizer", X, inputdimensions=[1 << 31])
    with pytest.raises(ResourceLimit):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20)).run(case.feeds())
