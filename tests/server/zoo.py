"""A repository of small models, one for each thing that a door must cope with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PICTURE_CONFIG = """
[preprocess]
resize = [28, 28]
mode = "L"
mean = [0.0]
std = [1.0]
"""


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, tuple[int, list[int | str]]],
    weights: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a model of these nodes; inputs and outputs are {name: (type, shape)}."""
    graph = helper.make_graph(
        nodes,
        path.parent.parent.name,
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def add_broken(root: Path) -> None:
    """Add a model, `broken`, whose only version cannot be loaded."""
    folder = root / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"nonsense")


def add_digits(root: Path, version: str, name: str = "digits", rows: int | str = "N") -> Path:
    """A classifier of 28 x 28 pictures whose weights depend on its version."""
    folder = root / name / version
    random = np.random.default_rng(sum(version.encode()))
    weights = {"w": random.standard_normal((784, 10)).astype(np.float32) * 0.1}
    save(
        folder / "model.onnx",
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        {"input": (TensorProto.FLOAT, [rows, 1, 28, 28])},
        {"logits": (TensorProto.FLOAT, [rows, 10])},
        weights,
    )
    (folder / "labels.txt").write_text("\n".join(f"digit {n}" for n in range(10)))
    (root / name / "model.toml").write_text(PICTURE_CONFIG)
    return folder


def add_features(root: Path) -> None:
    """A model whose only output is an embedding."""
    save(
        root / "features" / "1" / "model.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["vector"])],
        {"x": (TensorProto.FLOAT, ["N", 4])},
        {"vector": (TensorProto.FLOAT, ["N", 3])},
        {"w": np.arange(12, dtype=np.float32).reshape(4, 3)},
    )
    (root / "features" / "model.toml").write_text('task = "embedding"\n[embedding]\n')


def add_pair(root: Path) -> None:
    """Two inputs of different types, two outputs, rows through both."""
    save(
        root / "pair" / "1" / "model.onnx",
        [
            helper.make_node("MatMul", ["a", "w"], ["doubled"]),
            helper.make_node("Identity", ["b"], ["same"]),
        ],
        {"a": (TensorProto.FLOAT, ["N", 2]), "b": (TensorProto.INT64, ["N", 2])},
        {"doubled": (TensorProto.FLOAT, ["N", 2]), "same": (TensorProto.INT64, ["N", 2])},
        {"w": np.eye(2, dtype=np.float32) * 2},
    )


def add_whole(root: Path) -> None:
    """A model that mixes its rows, and so cannot be batched."""
    save(
        root / "whole" / "1" / "model.onnx",
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        {"a": (TensorProto.FLOAT, ["M", "K"]), "b": (TensorProto.FLOAT, ["K", "P"])},
        {"c": (TensorProto.FLOAT, ["M", "P"])},
    )
    (root / "whole" / "model.toml").write_text("[batching]\nenabled = false\n")


def add_echo(root: Path, name: str, extra: str = "") -> None:
    """One row in, the same row out, with a `[batching]` section of its own."""
    save(
        root / name / "1" / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["N", 2])},
        {"y": (TensorProto.FLOAT, ["N", 2])},
    )
    (root / name / "model.toml").write_text(extra)


def add_slow(root: Path, layers: int = 600, width: int = 600) -> None:
    """A model that takes several milliseconds for one row, on a fast machine too."""
    names = [f"v{n}" for n in range(layers)]
    save(
        root / "slow" / "1" / "model.onnx",
        [
            helper.make_node("MatMul", [before, "w"], [after])
            for before, after in zip(["x", *names], [*names, "y"], strict=True)
        ],
        {"x": (TensorProto.FLOAT, ["N", width])},
        {"y": (TensorProto.FLOAT, ["N", width])},
        {"w": np.zeros((width, width), np.float32)},
    )


def build_zoo(root: Path) -> Path:
    """Write every model, and return the repository."""
    add_digits(root, "1")
    add_digits(root, "2")
    add_features(root)
    add_pair(root)
    add_whole(root)
    add_echo(root, "echo", "[batching]\nmax_queue_size = 100000\n")
    # An idle engine waits for company that does not come: a request that hangs, for sure.
    hang = "[batching]\nmax_queue_delay_us = 10000000\nmax_queue_size = 2\nmax_batch_size = 2\n"
    add_echo(root, "hang", hang)
    add_slow(root)
    broken = root / "broken" / "1" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"this is not a model")
    return root
