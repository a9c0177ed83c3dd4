"""Small nets written straight to ONNX, so that benchmarks need no training framework."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def _dense(
    name: str, source: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    node = helper.make_node("Gemm", [source, f"{name}.w", f"{name}.b"], [name])
    return node, [
        numpy_helper.from_array(weight, f"{name}.w"),
        numpy_helper.from_array(bias, f"{name}.b"),
    ]


def dense_net(
    sizes: tuple[int, ...] = (784, 512, 512, 10), *, seed: int = 0, favour: int | None = None
) -> bytes:
    """Return a fully connected ReLU net as ONNX bytes: `input` (N, sizes[0]) -> `logits`.

    Args:
        sizes: widths of the layers, input first.
        seed: of the random weights.
        favour: if given, the class that every input gets (its bias is far above the others), so
            that an answer shows which net gave it.
    """
    random = np.random.default_rng(seed)
    nodes, weights, source = [], [], "input"
    last = len(sizes) - 2
    for k, (rows, columns) in enumerate(pairwise(sizes)):
        weight = random.standard_normal((rows, columns), np.float32) * np.float32(rows**-0.5)
        bias = np.zeros(columns, np.float32)
        if k == last and favour is not None:
            bias[favour] = 1000.0
        name = "logits" if k == last else f"dense{k}"
        node, parameters = _dense(name, source, weight, bias)
        nodes.append(node)
        weights += parameters
        source = name
        if k != last:
            nodes.append(helper.make_node("Relu", [name], [f"relu{k}"]))
            source = f"relu{k}"
    graph = helper.make_graph(
        nodes,
        "dense_net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", sizes[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
