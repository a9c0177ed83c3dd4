"""Small real models for the tests: `y = x * scale + bias`, rows of four numbers."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4
INNER = 1024


def affine(scale: float, bias: float = 0.0, *, padding: int = 0) -> bytes:
    """Return an ONNX file whose answers tell which model gave them.

    Args:
        scale: the factor.
        bias: the summand.
        padding: extra bytes of weights, for tests of memory.
    """
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], name="multiply"),
        helper.make_node("Add", ["scaled", "bias"], ["y"], name="shift"),
    ]
    weights = [
        numpy_helper.from_array(np.full(WIDTH, scale, np.float32), "scale"),
        numpy_helper.from_array(np.full(WIDTH, bias, np.float32), "bias"),
    ]
    if padding:
        # A chain of layers of which the last is zero: heavy, and without effect on the answers.
        nodes[1].output[0] = "shifted"
        rng = np.random.default_rng(0)
        layers = max(1, padding // (4 * INNER * INNER))
        shapes = [(WIDTH, INNER), *[(INNER, INNER)] * layers, (INNER, WIDTH)]
        for i, shape in enumerate(shapes):
            last = i == len(shapes) - 1
            values = np.zeros(shape, np.float32) if last else rng.random(shape, np.float32)
            weights.append(numpy_helper.from_array(values / INNER, f"w{i}"))
            source = f"h{i - 1}" if i else "shifted"
            nodes.append(helper.make_node("MatMul", [source, f"w{i}"], [f"h{i}"], name=f"layer{i}"))
        nodes.append(helper.make_node("Add", ["shifted", f"h{i}"], ["y"], name="join"))
    return _model(nodes, weights)


def _model(nodes: list, weights: list) -> bytes:
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def write_version(root: Path, model: str, version: str, content: bytes) -> Path:
    """Write a version as `cp` would: no manifest, not atomic."""
    folder = root / model / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    return folder


def write_sample(folder: Path, scale: float, bias: float = 0.0, *, rows: int = 3) -> None:
    """Write a golden sample of an affine model."""
    x = np.random.default_rng(1).standard_normal((rows, WIDTH), np.float32)
    (folder / "samples").mkdir(exist_ok=True)
    np.savez(folder / "samples" / "0.npz", **{"input:x": x, "output:y": x * scale + bias})
