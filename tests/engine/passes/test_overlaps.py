"""Patterns that touch: what one of them would swallow, another one, or its own end, still reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.comparing import check_levels, ops

Y = ("y", None)
OPSET = 13
NUMBERS = {"two": np.float32(2), "eps": np.float32(1e-5)}


def test_a_product_added_to_itself() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "m"], ["y"])]
    data = model(nodes, [("x", [1, 3])], [Y], {"w": normal(3, 4)})
    assert "Gemm" not in " ".join(ops(check_levels(data, {"x": normal(1, 3, seed=1)})))


@pytest.mark.parametrize("end", ["Add", "Mul"])
@pytest.mark.parametrize("centred", [True, False])
def test_a_normalized_vector_is_no_parameter_of_itself(end: str, centred: bool) -> None:
    """Of rank 1 it has the very shape that a scale or bias has."""
    d = "d" if centred else "x"
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        node("Sub", ["x", "mean"], ["d"]),
        node("Pow", [d, "two"], ["square"]),
        node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        node("Add", ["variance", "eps"], ["total"]),
        node("Sqrt", ["total"], ["root"]),
        node("Div", [d, "root"], ["normal"]),
        node(end, ["normal", "normal"], ["y"]),
    ]
    data = model(nodes, [("x", [8])], [Y], NUMBERS, opset=OPSET)
    found = ops(check_levels(data, {"x": normal(8)}))
    assert found == ["LayerNormalization" if centred else "RMSNormalization", end]


def attention(prefix: str, q: str, k: str, v: str, out: str) -> list[onnx.NodeProto]:
    names = [f"{prefix}{part}" for part in ("turned", "scores", "weights")]
    return [
        node("Transpose", [k], [names[0]], perm=[0, 2, 1]),
        node("MatMul", [q, names[0]], [names[1]]),
        node("Softmax", [names[1]], [names[2]], axis=-1),
        node("MatMul", [names[2], v], [out]),
    ]


@pytest.mark.parametrize("role", ["q", "k", "v"])
def test_attention_to_the_turned_result_of_attention(role: str) -> None:
    """The first ends in the Transpose behind which the second one looks."""
    shapes = {"q": (2, 6, 5), "k": (2, 4, 5), "v": (2, 4, 3)}
    del shapes[role]
    names = {"q": "q", "k": "k", "v": "v", role: "turned"}
    nodes = attention("a", "x", "x", "x", "o")
    nodes += [node("Transpose", ["o"], ["turned"], perm=[0, 2, 1])]
    nodes += attention("b", names["q"], names["k"], names["v"], "y")
    feeds = {name: normal(*shape, seed=ord(name)) for name, shape in shapes.items()}
    feeds["x"] = normal(2, 5, 4)
    inputs = [(name, list(array.shape)) for name, array in feeds.items()]
    graph = check_levels(model(nodes, inputs, [Y], opset=OPSET), feeds)
    assert "Attention*" in ops(graph)
