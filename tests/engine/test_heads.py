"""`append_classifier`: the model with a head gives what its features and numpy give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.errors import InvalidInput, InvalidModel, ResourceLimit
from engine.limits import Limits
from tests.engine.onnx_models import convnet, mlp, model, node, proto, value

ACTIVATIONS = ("softmax", "sigmoid", "normalized_sigmoid", "none")


def head_of(width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((width, classes)), rng.standard_normal(classes)


def by_hand(
    features: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    activation: str = "softmax",
    normalize: bool = False,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> np.ndarray:
    x = features.reshape(len(features), weight.shape[0]).astype(np.float64)
    if normalize:
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    z = ((x - mean) / std) @ weight + bias
    if activation == "none":
        return z
    if activation == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True)) if len(z) else z
        return e / e.sum(axis=1, keepdims=True)
    p = 1 / (1 + np.exp(-z))
    return p if activation == "sigmoid" else p / p.sum(axis=1, keepdims=True)


def check(
    source: Any,
    output: str,
    feeds: Mapping[str, np.ndarray],
    weight: np.ndarray,
    bias: np.ndarray,
    device: str = "reference",
    tolerance: float = 1e-5,
    valid: bool = True,
    **options: Any,
) -> bytes:
    """Compare the new model with the old one's features and numpy; return the new model."""
    features = engine.load(source, outputs=(output,), device="reference").run(feeds)[output]
    made = engine.append_classifier(source, output=output, weight=weight, bias=bias, **options)
    if valid:
        onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    loaded = engine.load(made, device=device)
    assert [spec.name for spec in loaded.outputs][1] == output
    fed = {spec.name: feeds[spec.name] for spec in loaded.inputs}
    found = loaded.run(fed)
    answer = found[loaded.outputs[0].name]
    assert answer.dtype == np.float32
    how = {k: v for k, v in options.items() if k in ("activation", "normalize", "mean", "std")}
    expected = by_hand(features, weight, bias, **how)
    np.testing.assert_allclose(answer, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found[output], features, rtol=tolerance, atol=tolerance)
    return made


@pytest.mark.parametrize(
    ("device", "activation", "normalize"),
    [
        *(("reference", activation, scaled) for activation in ACTIVATIONS for scaled in (0, 1)),
        ("cpu", "softmax", True),
        ("cpu", "normalized_sigmoid", False),
    ],
)
def test_a_head_on_a_hidden_layer(device: str, activation: str, normalize: bool) -> None:
    weight, bias = head_of(16, 3)
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    how: dict[str, Any] = {"activation": activation, "normalize": bool(normalize)}
    made = check(mlp(), "a", {"x": x}, weight, bias, device, mean=0.3, std=np.full(16, 0.7), **how)
    graph = onnx.load_from_string(made).graph
    assert graph.output[0].name == ("logits" if activation == "none" else "probabilities")
    assert {t.name for t in graph.initializer}.isdisjoint({"w2", "b2"})  # the old head is gone
    assert [v.name for v in graph.input] == ["x"]


@pytest.mark.parametrize(
    ("device", "output"),
    [("reference", "p"), ("reference", "f"), ("reference", "r"), ("reference", "y"), ("cpu", "p")],
)
def test_values_of_any_rank(device: str, output: str) -> None:
    width = {"p": 6, "f": 6, "r": 6 * 64, "y": 5}[output]
    weight, bias = head_of(width, 4)
    x = np.random.default_rng(2).standard_normal((3, 3, 8, 8)).astype(np.float32)
    made = check(convnet(), output, {"x": x}, weight, bias, device, 2e-5)
    loaded = engine.load(made, device=device)
    assert loaded.batch is not None  # rows still do not depend on one another
    assert [str(dim) for dim in loaded.outputs[0].shape or ()] == ["N", "4"]


@pytest.mark.parametrize("opset", [7, 8, 11, 13, 18, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_opset(opset: int, activation: str) -> None:
    ir_version = 3 if opset < 9 else 10
    weights = {"w": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    old = proto(
        [node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["t"]), node("Neg", ["t"], ["y"])],
        [("x", ["N", 4]), *([("w", [4, 6])] if ir_version == 3 else [])],
        [("y", ["N", 6])],
        weights,
        opset=opset,
        ir_version=ir_version,
    ).SerializeToString()
    weight, bias = head_of(6, 2)
    x = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
    check(old, "t", {"x": x}, weight, bias, activation=activation, normalize=True)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 9),
    classes=st.integers(1, 6),
    rows=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(ACTIVATIONS),
    normalize=st.booleans(),
    scaled=st.booleans(),
)
def test_any_size(
    width: int,
    classes: int,
    rows: int,
    seed: int,
    activation: str,
    normalize: bool,
    scaled: bool,
) -> None:
    old = model([node("Relu", ["x"], ["e"])], [("x", ["N", width])], [("e", ["N", width])])
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, width)).astype(np.float32)
    weight, bias = head_of(width, classes, seed)
    options: dict[str, Any] = {"activation": activation, "normalize": normalize}
    if scaled:
        options |= {"mean": rng.standard_normal(width), "std": rng.uniform(0.1, 3, width)}
    check(old, "e", {"x": x}, weight, bias, tolerance=2e-4, **options)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_features_of_other_types(kind: int) -> None:
    # The second input of Clip is left out, which has no name.
    nodes = [
        node("Clip", ["x", "", "most"], ["c"]),
        node("Cast", ["c"], ["e"], to=kind),
        node("Neg", ["e"], ["y"]),
    ]
    weights = {"most": np.array(0.5, np.float32)}
    old = model(nodes, [("x", ["N", 5])], [("y", ["N", 5], kind)], weights)
    weight, bias = head_of(5, 3)
    x = np.random.default_rng(4).standard_normal((3, 5)).astype(np.float32)
    check(old, "e", {"x": x}, weight, bias, tolerance=1e-4)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_weights_stored_in_fewer_bits_stay_so(device: str) -> None:
    rng = np.random.default_rng(5)
    weights = {
        "half": rng.standard_normal((8, 6)).astype(np.float16),
        "bytes": rng.integers(-100, 100, (6, 4)).astype(np.int8),
        "scale": np.float32(0.01),
    }
    nodes = [
        node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        node("MatMul", ["x", "w"], ["h"]),
        node("DequantizeLinear", ["bytes", "scale"], ["v"]),
        node("MatMul", ["h", "v"], ["e"]),
        node("Relu", ["e"], ["y"]),
    ]
    old = model(nodes, [("x", ["N", 8])], [("y", ["N", 4])], weights)
    weight, bias = head_of(4, 3)
    x = rng.standard_normal((6, 8)).astype(np.float32)
    made = check(old, "e", {"x": x}, weight, bias, device, 1e-4)
    kept = {t.name: t.data_type for t in onnx.load_from_string(made).graph.initializer}
    assert (kept["half"], kept["bytes"]) == (TensorProto.FLOAT16, TensorProto.INT8)


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = [
        node("Mul", ["x", "head.weight"], ["probabilities"], name="head/Gemm"),
        node("Add", ["probabilities", "head.weight"], ["head.logits"]),
        node("Neg", ["head.logits"], ["y"]),
    ]
    weights = {"head.weight": np.full((3,), 2, np.float32)}
    old = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], weights)
    weight, bias = head_of(3, 2)
    made = check(old, "head.logits", {"x": np.ones((2, 3), np.float32)}, weight, bias)
    graph = onnx.load_from_string(made).graph
    assert [v.name for v in graph.output] == ["probabilities_1", "head.logits"]
    assert len({n.name for n in graph.node}) == len(graph.node)


def test_a_head_replaces_a_head() -> None:
    weight, bias = head_of(16, 3)
    x = np.ones((2, 8), np.float32)
    first = check(mlp(), "a", {"x": x}, weight, bias, labels=["p", "q", "r"])
    other, offset = head_of(16, 5, seed=9)
    second = check(first, "a", {"x": x}, other, offset, labels=list("vwxyz"))
    fresh = engine.append_classifier(
        mlp(), output="a", weight=other, bias=offset, labels=list("vwxyz")
    )
    assert len(second) == len(fresh)  # nothing of the first is left
    [entry] = onnx.load_from_string(second).metadata_props
    assert (entry.key, json.loads(entry.value)) == ("labels", list("vwxyz"))


def test_inputs_that_only_the_old_head_read_go() -> None:
    nodes = [
        node("Add", ["a", "b"], ["e"]),
        node("Mul", ["e", "temperature"], ["y"]),
    ]
    old = model(nodes, [("a", ["N", 4]), ("b", ["N", 4]), ("temperature", [1])], [("y", ["N", 4])])
    weight, bias = head_of(4, 2)
    feeds = {"a": np.ones((2, 4), np.float32), "b": np.eye(4, dtype=np.float32)[:2]}
    made = check(old, "e", {**feeds, "temperature": np.ones(1, np.float32)}, weight, bias)
    assert [v.name for v in onnx.load_from_string(made).graph.input] == ["a", "b"]


def function(name: str, op: str, calls: str = "") -> onnx.FunctionProto:
    nodes = [helper.make_node(op, ["a"], ["b"])]
    if calls:
        nodes.append(helper.make_node(calls, ["b"], ["c"], domain="my"))
    last = "c" if calls else "b"
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    return helper.make_function("my", name, ["a"], [last], nodes, opsets)


def test_functions_that_are_called_stay() -> None:
    nodes = [
        node("Eyes", ["x"], ["e"], domain="my"),
        node("OldHead", ["e"], ["y"], domain="my"),
    ]
    functions = [
        function("Eyes", "Tanh", calls="Inner"),
        function("Inner", "Abs"),
        function("OldHead", "Neg"),
    ]
    old = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], functions=functions, domains={"my": 1})
    weight, bias = head_of(3, 2)
    made = check(old, "e", {"x": np.ones((2, 3), np.float32)}, weight, bias)
    assert [f.name for f in onnx.load_from_string(made).functions] == ["Eyes", "Inner"]


def test_what_a_branch_takes_from_outside_stays() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        made = helper.make_node(op, ["x", "w"], ["out"])
        return helper.make_graph([made], op, [], [out])

    nodes = [
        node("If", ["yes"], ["e"], then_branch=branch("Add"), else_branch=branch("Mul")),
        node("Mul", ["e", "unused"], ["y"]),
    ]
    weights = {
        "w": np.full((1, 3), 5, np.float32),
        "unused": np.ones((1, 3), np.float32),
        "yes": np.array(True),
    }
    old = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], weights)
    weight, bias = head_of(3, 2)
    made = check(old, "e", {"x": np.ones((2, 3), np.float32)}, weight, bias)
    names = {t.name for t in onnx.load_from_string(made).graph.initializer}
    assert names == {"w", "yes", "head.weight", "head.bias"}


@pytest.mark.parametrize("isolate", [False, True])
def test_external_data_is_taken_in(tmp_path: Path, isolate: bool) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        onnx.load_from_string(mlp()),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    weight, bias = head_of(16, 3)
    x = np.ones((2, 8), np.float32)
    made = check(path, "a", {"x": x}, weight, bias, isolate=isolate)
    assert made == engine.append_classifier(mlp(), output="a", weight=weight, bias=bias)


def test_external_data_of_bytes_is_an_error(tmp_path: Path) -> None:
    old = onnx.load_from_string(mlp())
    onnx.external_data_helper.convert_model_to_external_data(old, location="w", size_threshold=0)
    path = tmp_path / "m.onnx"
    onnx.save_model(old, path)
    with pytest.raises(InvalidModel, match="given as bytes"):
        append(path.read_bytes())


def test_the_answer_may_have_a_name() -> None:
    made = append(mlp(), name="cars", activation="normalized_sigmoid")
    assert [spec.name for spec in engine.load(made, device="reference").outputs] == ["cars", "a"]


def test_in_a_child_it_is_the_same() -> None:
    weight, bias = head_of(16, 3)
    options: dict[str, Any] = {"output": "a", "weight": weight, "bias": bias, "labels": list("abc")}
    here = engine.append_classifier(mlp(), **options)
    assert engine.append_classifier(mlp(), **options, isolate=True) == here
    with pytest.raises(InvalidInput, match="no value 'nothing'"):
        engine.append_classifier(mlp(), **{**options, "output": "nothing"}, isolate=True)


def append(
    source: Any, output: str = "a", classes: int = 3, width: int = 16, **options: Any
) -> Any:
    weight, bias = head_of(width, classes)
    return engine.append_classifier(
        source, **{"output": output, "weight": weight, "bias": bias, **options}
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"output": "A"},
            r"no value 'A' is computed by the model; there are: .*a float32\[N, 16\]",
        ),
        ({"output": "x"}, "no value 'x' is computed"),
        ({"output": "w1"}, "no value 'w1' is computed"),
        ({"width": 15}, r"value 'a' is .*; the weights are for 15 features a row: .*\(N, 15\)"),
        ({"labels": ["a", "b"]}, "2 labels for 3 classes"),
        ({"labels": ["a", "b", "b"]}, "'b' comes twice"),
        ({"labels": ["a", "b", 1]}, "a name for each"),
        ({"bias": [1, 2]}, r"bias has shape \(2,\)"),
        ({"weight": [1, 2, 3]}, r"weight has shape \(3,\)"),
        ({"weight": np.zeros((0, 3))}, "weight has shape"),
        ({"weight": [["a"]]}, "weight does not hold numbers"),
        ({"bias": [1, np.nan, 3]}, "bias holds NaN"),
        ({"mean": np.zeros(4)}, r"mean has shape \(4,\); expected \(16,\)"),
        ({"std": [0.0]}, "std holds a 0"),
        ({"std": np.inf}, "std holds NaN or infinity"),
        ({"std": 1e-300}, "too large for float32"),
        ({"std": 1e-320}, "too large for float32"),  # beyond float64 as well
        ({"mean": 1e308, "std": 1e-10}, "too large for float32"),
        ({"weight": np.zeros((16, 3), complex)}, "weight does not hold numbers: they are complex"),
        ({"weight": [[1, 2, 3], [4]]}, "weight does not hold numbers"),
        ({"labels": "abc"}, "labels are str; expected a list of names"),
        ({"labels": 3}, "labels are int; expected a list of names"),
        ({"output": 5}, "output 5 cannot be a value's name"),
        ({"name": 5}, "name 5 cannot be a value's name"),
        ({"name": "\ud800"}, "cannot be a value's name: .*surrogates"),
        ({"name": "h"}, "has a value 'h' already"),
        ({"activation": "relu"}, "activation 'relu'; expected one of softmax"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        append(mlp(), **options)


def test_values_that_are_no_features() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Neg", ["w"], ["fixed"]),
        node("Add", ["x", "fixed"], ["y"]),
    ]
    old = model(
        nodes,
        [("x", ["N", 4])],
        [("y", ["N", 4]), ("s", [2], TensorProto.INT64), ("total", [])],
        {"w": np.ones((2, 4), np.float32)},
    )
    with pytest.raises(InvalidInput, match="a classifier needs numbers with a fraction"):
        append(old, "s", width=2)
    with pytest.raises(InvalidInput, match=r"expected shape \(N, 4\)"):
        append(old, "total", width=4)
    with pytest.raises(InvalidInput, match="depends on no input"):
        append(old, "fixed", width=4)


def test_old_models_are_refused() -> None:
    old = model([node("Relu", ["x"], ["y"])], [("x", ["N", 3])], [("y", ["N", 3])], opset=6)
    with pytest.raises(InvalidModel, match="opset 7"):
        append(old, "y", width=3)
    with pytest.raises(InvalidModel, match="not an ONNX file"):
        append(b"\xff\xff\xff")


def test_limits_hold() -> None:
    with pytest.raises(ResourceLimit, match="model_bytes"):
        append(mlp(), limits=Limits(model_bytes=100))


def test_a_value_of_unknown_shape_is_flattened() -> None:
    target = helper.make_tensor_value_info("shape", TensorProto.INT64, ["k"])
    graph = helper.make_graph(
        [node("Reshape", ["x", "shape"], ["e"]), node("Neg", ["e"], ["y"])],
        "g",
        [value(("x", ["N", 6])), target],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "unused")],
    )
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    weight, bias = head_of(6, 2)
    feeds = {"x": np.arange(12, dtype=np.float32).reshape(2, 6), "shape": np.array([2, 3, 2])}
    # ONNX wants every output's rank to be declared, which neither model can do.
    check(old.SerializeToString(), "e", feeds, weight, bias, valid=False)
