from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
from onnx import TypeProto, helper

import engine
from engine.errors import InvalidInput, InvalidModel, RunFailed
from tests.engine.ops.single_node import floats

DOMAIN = "ai.onnx.ml"
FLOAT, INT64, STRING, DOUBLE = 1, 7, 8, 11


def tensor(element: int, *shape: int | str) -> TypeProto:
    return helper.make_tensor_type_proto(element, shape)


def map_type(key: int, value: int) -> TypeProto:
    return helper.make_map_type_proto(key, tensor(value))


def model(op: str, given: TypeProto, result: TypeProto, **attributes: Any) -> bytes:
    node = helper.make_node(op, ["x"], ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_value_info("x", given)],
        [helper.make_value_info("y", result)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def both(data: bytes, x: Any) -> tuple[Any, Any]:
    """What the engine and ONNX Runtime make of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    theirs = onnxruntime.InferenceSession(data, options).run(None, {"x": x})[0]
    with engine.load(data, device="reference") as loaded:
        return loaded.run({"x": x})["y"], theirs


@pytest.mark.parametrize("strings", [False, True])
def test_zip_map(strings):
    x = floats(3, 2)
    labels: dict[str, Any] = {"classlabels_strings": ["a", "b"]}
    if not strings:
        labels = {"classlabels_int64s": [5, -7]}
    result = helper.make_sequence_type_proto(map_type(STRING if strings else INT64, FLOAT))
    data = model("ZipMap", tensor(FLOAT, "N", 2), result, **labels)
    ours, theirs = both(data, x)
    assert ours == theirs
    with engine.load(data, device="reference") as loaded:
        assert loaded.run({"x": x[:0]})["y"] == []


@pytest.mark.parametrize("cast", ["TO_FLOAT", "TO_INT64", "TO_STRING"])
@pytest.mark.parametrize("form", ["DENSE", "SPARSE"])
def test_cast_map(cast, form):
    element = {"TO_FLOAT": FLOAT, "TO_INT64": INT64, "TO_STRING": STRING}[cast]
    attributes = {"cast_to": cast, "map_form": form, "max_map": 6}
    data = model("CastMap", map_type(INT64, FLOAT), tensor(element, 1, "E"), **attributes)
    ours, theirs = both(data, {4: 1.5, 0: -2.25, 2: 3.0})
    assert ours.shape == theirs.shape
    # ONNX Runtime fills the places of texts with "0.f".
    assert ours[0].tolist() == ["" if each == "0.f" else each for each in theirs[0].tolist()]


def run(data: bytes, x: Any) -> list[Any]:
    """ONNX Runtime's Python takes maps to float only."""
    with engine.load(data, device="reference") as loaded:
        return loaded.run({"x": x})["y"].tolist()


@pytest.mark.parametrize(
    ("cast", "element", "expected"),
    [
        ("TO_FLOAT", FLOAT, [-2.0, 0.0, 3.0]),
        ("TO_INT64", INT64, [-2, 0, 3]),
        ("TO_STRING", STRING, ["-2", "", "3"]),
    ],
)
def test_cast_map_of_texts(cast, element, expected):
    texts = {2: "3", 0: "-2"}
    given, attributes = map_type(INT64, STRING), {"cast_to": cast, "max_map": 3}
    data = model("CastMap", given, tensor(element, 1, "E"), map_form="SPARSE", **attributes)
    assert run(data, texts) == [expected]
    data = model("CastMap", given, tensor(element, 1, "E"), **attributes)
    assert run(data, texts) == [[expected[0], expected[2]]]


@pytest.mark.parametrize("key", [INT64, STRING])
def test_dict_vectorizer(key):
    keys: list[Any] = ["b", "zz"] if key == STRING else [7, 99]
    vocabulary: dict[str, Any] = {"string_vocabulary": ["a", "b", "c"]}
    if key == INT64:
        vocabulary = {"int64_vocabulary": [9, 7, 8]}
    data = model("DictVectorizer", map_type(key, FLOAT), tensor(FLOAT, 1, 3), **vocabulary)
    ours, theirs = both(data, dict(zip(keys, [0.5, -1.5], strict=True)))
    assert (ours.dtype, ours.shape) == (theirs.dtype, (1, 3))
    assert ours.reshape(-1).tolist() == theirs.reshape(-1).tolist()
    for value, numbers, missing in (
        (DOUBLE, [0.1, 2.0], 0.0),
        (INT64 if key == STRING else STRING, [3, 4] if key == STRING else ["x", "y"],
         0 if key == STRING else ""),
    ):  # fmt: skip
        data = model("DictVectorizer", map_type(key, value), tensor(value, 1, 3), **vocabulary)
        assert run(data, dict(zip(keys, numbers, strict=True))) == [[missing, numbers[0], missing]]


def test_a_classifier_that_ends_in_maps():
    """Labels and maps from one graph, as scikit-learn's and LightGBM's converters write it."""
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "scores"], domain=DOMAIN,
            coefficients=[1.0, 0.5, -1.0, 2.0], intercepts=[0.1, 0.2],
            classlabels_strings=["no", "yes"], post_transform="SOFTMAX",
        ),
        helper.make_node(
            "ZipMap", ["scores"], ["maps"], domain=DOMAIN, classlabels_strings=["no", "yes"]
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info("x", tensor(FLOAT, "N", 2))],
        [
            helper.make_value_info("label", tensor(STRING, "N")),
            helper.make_value_info(
                "maps", helper.make_sequence_type_proto(map_type(STRING, FLOAT))
            ),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    x = floats(4, 2)
    theirs = onnxruntime.InferenceSession(data).run(None, {"x": x})
    with engine.load(data) as loaded:
        ours = loaded.run({"x": x})
    assert ours["label"].tolist() == theirs[0].tolist()
    for mine, other in zip(ours["maps"], theirs[1], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(
    ("op", "given", "attributes", "match"),
    [
        ("ZipMap", tensor(FLOAT, "N", 2), {}, "either"),
        ("ZipMap", tensor(FLOAT, "N", 3), {"classlabels_int64s": [1, 2]}, "equally many"),
        ("ZipMap", tensor(FLOAT, 2, 2, 2), {"classlabels_int64s": [1, 2]}, r"\[N, C\]"),
        ("CastMap", tensor(FLOAT, 2), {}, "map"),
        ("CastMap", map_type(STRING, FLOAT), {}, "map"),
        ("CastMap", map_type(INT64, FLOAT), {"cast_to": "TO_BYTES"}, "TO_BYTES"),
        ("CastMap", map_type(INT64, FLOAT), {"map_form": "SPARSE", "max_map": 0}, "max_map"),
        ("DictVectorizer", map_type(INT64, FLOAT), {}, "either"),
        ("DictVectorizer", map_type(INT64, FLOAT), {"string_vocabulary": ["a"]}, "keys"),
    ],
)
def test_models_that_do_not_fit(op, given, attributes, match):
    with pytest.raises(InvalidModel, match=match):
        engine.load(model(op, given, tensor(FLOAT, 1, 1), **attributes))


def test_inputs_that_do_not_fit():
    data = model("ZipMap", tensor(FLOAT, "N", "C"),
                 helper.make_sequence_type_proto(map_type(INT64, FLOAT)),
                 classlabels_int64s=[1, 2])  # fmt: skip
    with engine.load(data) as loaded, pytest.raises((InvalidModel, RunFailed), match="3 columns"):
        loaded.run({"x": floats(2, 3)})
    data = model(
        "CastMap", map_type(INT64, FLOAT), tensor(FLOAT, 1, 2), map_form="SPARSE", max_map=2
    )
    with engine.load(data) as loaded:
        with pytest.raises(RunFailed, match="keys must be 0 to 1"):
            loaded.run({"x": {5: 1.0}})
        with pytest.raises(InvalidInput, match="keys"):
            loaded.run({"x": {"a": 1.0}})
