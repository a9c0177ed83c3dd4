from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, int64

DOMAIN = "ai.onnx.ml"
NAN = float("nan")
WORDS = np.array([["ab", "b"], ["", "zz"], ["ab", "ß"]], object)
NUMBERS = np.array([[1, 5], [0, -9], [7, 5]])
REALS = np.array([[1.5, NAN], [0.0, -9.0], [7.25, 5.0]], np.float32)
KEYS: dict[str, tuple[np.ndarray, list[Any]]] = {
    "strings": (WORDS, ["b", "ab", "ß"]),
    "int64s": (NUMBERS, [5, 1, 7]),
    "floats": (REALS, [7.25, NAN, 1.5]),
}
VALUES: dict[str, list[Any]] = {
    "strings": ["x", "y", ""],
    "int64s": [10, -20, 30],
    "floats": [0.5, -1.5, 2.5],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "strings": {"default_string": "none"},
    "int64s": {"default_int64": 99},
    "floats": {"default_float": 0.25},
}


def tensor(values: list[Any], dtype: Any) -> Any:
    array = np.array(values, object if dtype is str else dtype)
    return numpy_helper.from_array(array)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("default", [False, True])
def test_label_encoder(key, value, default):
    x, keys = KEYS[key]
    attributes = {f"keys_{key}": keys, f"values_{value}": VALUES[value]}
    attributes |= DEFAULTS[value] if default else {}
    check_node("LabelEncoder", x, domain=DOMAIN, domain_version=4, atol=0, **attributes)


@pytest.mark.parametrize(
    ("key", "value"),
    [("strings", "int64s"), ("int64s", "strings"), ("floats", "floats"), ("strings", "strings")],
)
def test_label_encoder_of_version_2(key, value):
    """ONNX Runtime finds NaN among the keys from version 4 on only."""
    x, keys = KEYS[key]
    attributes = {f"keys_{key}": [k for k in keys if k == k], f"values_{value}": VALUES[value]}
    attributes[f"values_{value}"] = VALUES[value][: len(attributes[f"keys_{key}"])]
    check_node("LabelEncoder", x, domain=DOMAIN, domain_version=2, atol=0, **attributes)


@pytest.mark.parametrize("key", [np.float64, np.int64, np.int32, np.int16, np.float32, str])
@pytest.mark.parametrize("value", [np.float64, np.int16, np.int64, str])
def test_label_encoder_by_tensors(key, value):
    kind = "strings" if key is str else "floats" if np.dtype(key).kind == "f" else "int64s"
    x, keys = KEYS[kind]
    x = x.astype(object if key is str else key)
    values = VALUES["strings"] if value is str else [1, 2, 3]
    attributes = {"keys_tensor": tensor(keys, key), "values_tensor": tensor(values, value)}
    case = NodeCase("LabelEncoder", [x], attributes, domain=DOMAIN, domain_version=4)
    (ours,) = case.run_engine("symbolic")
    unknown = "_Unused" if value is str else -0.0 if np.dtype(value).kind == "f" else -1
    for element, mapped in zip(x.flat, ours.flat, strict=True):
        places = [i for i, k in enumerate(keys) if k == element or (k != k and element != element)]
        assert mapped == (values[places[0]] if places else unknown)
    default = tensor(["?"] if value is str else [8], value)
    with_default = NodeCase(
        "LabelEncoder", [x], {**attributes, "default_tensor": default}, domain=DOMAIN,
        domain_version=4,
    ).run_engine()  # fmt: skip
    assert ("?" if value is str else 8) in with_default[0].flat


def test_the_last_of_equal_keys_counts():
    for keys, values, x in (
        ({"keys_int64s": [1, 1, 2]}, [10, 20, 30], int64(1, 2)),
        ({"keys_strings": ["a", "a", "b"]}, [10, 20, 30], np.array(["a", "b"], object)),
        ({"keys_floats": [NAN, NAN, 2.0]}, [10, 20, 30], np.array([NAN, 2], np.float32)),
    ):
        case = NodeCase(
            "LabelEncoder", [x], {**keys, "values_int64s": values}, domain=DOMAIN, domain_version=4
        )
        assert case.run_engine()[0].tolist() == [20, 30]


def test_label_encoder_in_its_first_form():
    attributes = {"classes_strings": ["b", "ab"], "default_int64": 9, "default_string": "?"}
    check_node("LabelEncoder", WORDS, domain=DOMAIN, atol=0, **attributes)
    places = np.array([[0, 1], [2, -1], [1, 1]])
    check_node("LabelEncoder", places, domain=DOMAIN, atol=0, **attributes)


def test_category_mapper():
    attributes = {"cats_strings": ["b", "ab"], "cats_int64s": [7, -9]}
    check_node("CategoryMapper", WORDS, domain=DOMAIN, atol=0, default_int64=3, **attributes)
    check_node("CategoryMapper", NUMBERS, domain=DOMAIN, atol=0, default_string="?", **attributes)


def test_one_hot_encoder():
    check_node("OneHotEncoder", WORDS, domain=DOMAIN, cats_strings=["b", "zz", "ab"])
    (whole,) = check_node("OneHotEncoder", NUMBERS, domain=DOMAIN, cats_int64s=[5, 7, 1, 0])
    for dtype in (np.int32, np.float32, np.float64):  # cut to integers
        x = (np.abs(NUMBERS) + 0.5).astype(dtype)
        case = NodeCase("OneHotEncoder", [x], {"cats_int64s": [5, 7, 1, 0]}, domain=DOMAIN)
        np.testing.assert_array_equal(case.run_engine()[0], whole)
    known = NUMBERS[:1]
    check_node("OneHotEncoder", known, domain=DOMAIN, cats_int64s=[5, 1], zeros=0)
    with pytest.raises(RunFailed, match="category"):
        NodeCase(
            "OneHotEncoder", [NUMBERS], {"cats_int64s": [5, 1], "zeros": 0}, domain=DOMAIN
        ).run_engine()


def test_rows():
    for op, x, attributes in (
        ("OneHotEncoder", NUMBERS, {"cats_int64s": [5, 7]}),
        ("LabelEncoder", NUMBERS, {"keys_int64s": [5, 7], "values_strings": ["a", "b"]}),
        ("CategoryMapper", NUMBERS, {"cats_int64s": [5], "cats_strings": ["a"]}),
    ):
        case = NodeCase(op, [x], attributes, domain=DOMAIN, domain_version=2)
        assert check_rows(case, (0,))[0].is_rows


@pytest.mark.parametrize(
    ("op", "version", "x", "attributes", "match"),
    [
        ("LabelEncoder", 2, NUMBERS, {"keys_int64s": [1]}, "values_"),
        ("LabelEncoder", 2, NUMBERS, {"keys_int64s": [1], "values_int64s": [1, 2]}, "1 keys"),
        ("LabelEncoder", 2, REALS, {"keys_int64s": [1], "values_int64s": [1]}, "keys are int64"),
        ("LabelEncoder", 2, NUMBERS,
         {"keys_int64s": [1], "keys_floats": [1.0], "values_int64s": [1]}, "exactly one"),
        ("LabelEncoder", 4, NUMBERS,
         {"keys_int64s": [1], "values_int64s": [1], "default_tensor": tensor([1.0], np.float32)},
         "default_tensor"),
        ("LabelEncoder", 1, REALS, {"classes_strings": ["a"]}, "string or int64"),
        ("CategoryMapper", 1, NUMBERS,
         {"cats_int64s": [1], "cats_strings": ["a", "b"]}, "equally many"),
        ("OneHotEncoder", 1, NUMBERS, {"cats_strings": ["a"]}, "categories"),
        ("OneHotEncoder", 1, NUMBERS, {"cats_strings": ["a"], "cats_int64s": [1]}, "categories"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(op, version, x, attributes, match):
    with pytest.raises(InvalidModel, match=match):
        NodeCase(op, [x], attributes, domain=DOMAIN, domain_version=version).graph()


def test_the_kinds_of_labels_do_not_mix():
    """Numbers beside strings: what is no key gets the default."""
    x = np.array([0.1, 0.1 + 1e-9, -0.0], np.float64)
    attributes = {
        "keys_tensor": tensor([0.1, 0.0], np.float64),
        "values_tensor": tensor([1, 2], np.int64),
    }
    case = NodeCase("LabelEncoder", [x], attributes, domain=DOMAIN, domain_version=4)
    assert case.run_engine()[0].tolist() == [1, -1, 2]
