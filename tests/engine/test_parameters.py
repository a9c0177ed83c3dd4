"""What counts as a parameter: weights, quantized ones too; shapes, axes and flags do not."""

from __future__ import annotations

import numpy as np
import pytest

from engine.compiler import CompileRequest, compile_model
from engine.description import describe
from tests.engine.onnx_models import model, node, normal


def counted(*args: object, **fixed: np.ndarray) -> int:
    return compile_model(model(*args, fixed), CompileRequest()).parameters


def test_shapes_axes_indices_and_flags_are_none() -> None:
    nodes = [
        node("Reshape", ["x", "shape"], ["r"]),
        node("ReduceMean", ["r", "axes"], ["m"]),
        node("Gather", ["m", "places"], ["g"], axis=0),
        node("Where", ["flags", "g", "w"], ["y"]),
    ]
    found = counted(
        nodes,
        [("x", ["N", 12])],
        [("y", None)],
        shape=np.array([-1, 3, 4]),
        axes=np.array([1]),
        places=np.zeros(1, np.int32),
        flags=np.array([True, False, True, True]),
        w=normal(4),
    )
    assert found == 4


@pytest.mark.parametrize("level", [0, 2])
def test_quantized_weights_and_their_wide_biases_are_parameters(level: int) -> None:
    nodes = [
        node("DequantizeLinear", ["w", "scale", "zero"], ["wf"]),
        node("DequantizeLinear", ["b", "scale"], ["bf"]),
        node("Gemm", ["x", "wf", "bf"], ["y"]),
    ]
    fixed = {
        "w": np.ones((4, 5), np.int8),
        "b": np.ones(5, np.int32),
        "scale": np.array(0.5, np.float32),
        "zero": np.array(0, np.int8),
    }
    data = model(nodes, [("x", ["N", 4])], [("y", None)], fixed)
    artifact = compile_model(data, CompileRequest(level=level))
    assert artifact.parameters == 20 + 5 + 1 + 1
    assert sum(each.parameters for each in describe(artifact).nodes) >= 25


def test_a_node_tells_its_weights_only() -> None:
    nodes = [node("Reshape", ["x", "shape"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    fixed = {"shape": np.array([-1, 2, 4]), "w": normal(4, 3)}
    data = model(nodes, [("x", ["N", 8])], [("y", None)], fixed)
    found = {n.op: n.parameters for n in describe(compile_model(data)).nodes}
    assert found == {"Reshape": 0, "MatMul": 12}
