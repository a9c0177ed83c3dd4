"""Small ONNX models for tests, as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.frontend.onnx_importer import import_model
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.ops.registry import REGISTRY

FLOAT = TensorProto.FLOAT
OPSET = 21
Spec = (
    tuple[str, Sequence[int | str | None] | None]
    | tuple[str, Sequence[int | str | None] | None, int]
)


def value(spec: Spec) -> onnx.ValueInfoProto:
    """(name, shape) or (name, shape, element type)."""
    name, shape, *rest = spec
    return helper.make_tensor_value_info(name, rest[0] if rest else FLOAT, shape)


def proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = OPSET,
    ir_version: int = 10,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
    name: str = "test",
) -> onnx.ModelProto:
    """Return a model."""
    graph = helper.make_graph(
        list(nodes),
        name,
        [value(v) for v in inputs],
        [value(v) for v in outputs],
        [numpy_helper.from_array(np.array(a, order="C"), n) for n, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid(d, v) for d, v in {"": opset, **(domains or {})}.items()]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions)
    )


def model(*args, **kwargs) -> bytes:  # type: ignore[no-untyped-def]
    """Like `proto`, as bytes."""
    return proto(*args, **kwargs).SerializeToString()


def node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object
) -> onnx.NodeProto:
    """Return a node named after its first output."""
    name = attributes.pop("name", f"n_{outputs[0] if outputs else op}")
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def graph_of(data: bytes, limits: Limits | None = None, base_dir: Path | None = None) -> Graph:
    """Import bytes."""
    return import_model(data, limits=limits or Limits(), registry=REGISTRY, base_dir=base_dir)


def mlp(
    batch: int | str = "N", features: int = 8, hidden: int = 16, classes: int = 4, seed: int = 0
) -> bytes:
    """Return a net of two layers with a softmax."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((features, hidden)).astype(np.float32),
        "b1": rng.standard_normal(hidden).astype(np.float32),
        "w2": rng.standard_normal((hidden, classes)).astype(np.float32),
        "b2": rng.standard_normal(classes).astype(np.float32),
    }
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"]),
        node("Relu", ["h"], ["a"]),
        node("Gemm", ["a", "w2", "b2"], ["z"]),
        node("Softmax", ["z"], ["y"], axis=-1),
    ]
    return model(nodes, [("x", [batch, features])], [("y", [batch, classes])], weights, name="mlp")


def convnet(batch: int | str = "N", seed: int = 0) -> bytes:
    """Return Conv + BatchNormalization + Relu + pool + flatten + Gemm, for 3 x 8 x 8 pictures."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {
        "w": normal(6, 3, 3, 3),
        "gamma": normal(6),
        "beta": normal(6),
        "mean": normal(6),
        "var": np.abs(normal(6)) + 0.5,
        "fc": normal(6, 5),
        "fb": normal(5),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fc", "fb"], ["y"]),
    ]
    return model(nodes, [("x", [batch, 3, 8, 8])], [("y", [batch, 5])], weights, name="convnet")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return float32 normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ort_run(data: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model with ONNX Runtime, unoptimised, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def load(data: bytes, **options: object) -> engine.Model:
    """Load on the reference device."""
    return engine.load(data, device="reference", **options)  # type: ignore[arg-type]
