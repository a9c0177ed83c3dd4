"""Weights as int8 with a scale per output, and graphs that share one file of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from transformers import MarianMTModel

LARGEST = 127                             # symmetric: -128 is not used
SHARED_FILE = "model.onnx_data"
SHARE_FROM = 1024                         # bytes; smaller tensors stay in the graph
ALIGNMENT = 64


@dataclass(frozen=True)
class Quantized:
    """A matrix as int8 rows and one scale a row."""

    name: str
    rows: NDArray[np.int8]                # (outputs, inputs)
    scales: NDArray[np.float32]           # (outputs,)

    @property
    def values(self) -> NDArray[np.float32]:
        """Return the float32 matrix that this stands for."""
        return self.rows.astype(np.float32) * self.scales[:, None]


def quantize_weights(model: MarianMTModel) -> list[Quantized]:
    """Round every matrix of products and embeddings to int8, and set the model to what that means.

    Training in float32 or bfloat16 leaves weights that take this well: each row, which is one
    output of a product or one token, has its own scale.
    """
    found = []
    for name, parameter in model.named_parameters():
        if parameter.dim() != 2 or "embed_positions" in name:
            continue
        weight = parameter.detach().numpy()
        scales = np.maximum(np.abs(weight).max(1), 1e-12).astype(np.float32) / LARGEST
        rows = np.clip(np.rint(weight / scales[:, None]), -LARGEST, LARGEST).astype(np.int8)
        quantized = Quantized(name, rows, scales)
        parameter.data.copy_(torch.from_numpy(quantized.values))
        found.append(quantized)
    return found


def store_quantized(proto: onnx.ModelProto, weights: list[Quantized]) -> None:
    """Replace float32 matrices of a graph by int8 rows with a DequantizeLinear behind them.

    A matrix is recognised by its values, as it lies or transposed. Raises ValueError where a large
    matrix is left over: it would be stored as float32 unnoticed.
    """
    by_value = {w.values.tobytes(): w for w in weights}
    graph = proto.graph
    replaced: dict[str, Quantized] = {}
    new_nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim != 2:
            kept.append(tensor)
            continue
        as_it_lies = by_value.get(array.tobytes())
        transposed = by_value.get(np.ascontiguousarray(array.T).tobytes())
        weight = as_it_lies if as_it_lies is not None else transposed
        if weight is None:
            kept.append(tensor)
            continue
        whole = f"{weight.name}.dequantized"
        if weight.name not in replaced:
            replaced[weight.name] = weight
            names = [f"{weight.name}.int8", f"{weight.name}.scale"]
            new_nodes.append(helper.make_node("DequantizeLinear", names, [whole], axis=0))
        if as_it_lies is not None:
            new_nodes.append(helper.make_node("Identity", [whole], [tensor.name]))
        else:
            new_nodes.append(helper.make_node("Transpose", [whole], [tensor.name], perm=[1, 0]))
    for weight in replaced.values():
        kept.append(numpy_helper.from_array(weight.rows, f"{weight.name}.int8"))
        kept.append(numpy_helper.from_array(weight.scales, f"{weight.name}.scale"))
    nodes = [*new_nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    _bypass_identities(graph)


def save_shared(parts: Mapping[str, onnx.ModelProto], folder: Path) -> int:
    """Write the graphs, and one file with every larger tensor once; return the bytes of all."""
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[bytes, tuple[int, int]] = {}
    data = bytearray()
    for proto in parts.values():
        for tensor in proto.graph.initializer:
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < SHARE_FROM:
                continue
            if raw not in places:
                data.extend(bytes(-len(data) % ALIGNMENT))
                places[raw] = len(data), len(raw)
                data.extend(raw)
            _refer(tensor, *places[raw])
    (folder / SHARED_FILE).write_bytes(data)
    for name, proto in parts.items():
        (folder / name).write_bytes(proto.SerializeToString())
        onnx.checker.check_model(str(folder / name), full_check=True)
    return len(data) + sum((folder / name).stat().st_size for name in parts)


def _refer(tensor: TensorProto, offset: int, length: int) -> None:
    name, kind, dims = tensor.name, tensor.data_type, list(tensor.dims)
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", SHARED_FILE), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _bypass_identities(graph: onnx.GraphProto) -> None:
    """Let readers of an Identity that we added read what it copies."""
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    nodes = [n for n in graph.node if n.op_type != "Identity"]
    outputs = {value.name for value in graph.output}
    if outputs & source.keys():
        raise ValueError(f"a weight is an output of the graph: {sorted(outputs & source.keys())}")
    for node in nodes:
        for k, name in enumerate(node.input):
            node.input[k] = source.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
