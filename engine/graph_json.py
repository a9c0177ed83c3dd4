"""Graphs as JSON, their arrays kept apart as raw bytes: how an artifact holds a graph.

No pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.graph import Attribute, Graph, Node, Value
from engine.ir.types import Dim, TensorType, parse_dim
from engine.ir.value_types import VALUE_TYPES, MapType, OptionalType, SequenceType, ValueType

Json = Any


class GraphWriter:
    """Turns graphs into JSON; `blobs` collects the bytes of their arrays, shared ones once."""

    def __init__(self) -> None:
        self.blobs: list[memoryview] = []
        self._seen: dict[
            int, tuple[np.ndarray, int]
        ] = {}  # the array is held so that its id stays its own

    def graph(self, graph: Graph) -> Json:
        """Return a graph as JSON."""
        return {
            "name": graph.name,
            "inputs": [[v.name, write_type(v.type)] for v in graph.inputs],
            "outputs": [[v.name, write_type(v.type)] for v in graph.outputs],
            "nodes": [self.node(n) for n in graph.nodes],
            "initializers": {n: self._array(a) for n, a in graph.initializers.items()},
            "constants": {n: self._array(a) for n, a in graph.constants.items()},
            "types": {n: write_type(t) for n, t in graph.types.items()},
            "metadata": dict(graph.metadata),
        }

    def node(self, node: Node) -> Json:
        """Return a node as JSON."""
        attributes = {name: self._attribute(value) for name, value in node.attributes.items()}
        return [
            node.op,
            node.inputs,
            node.outputs,
            attributes,
            node.domain,
            node.version,
            node.name,
        ]

    def _attribute(self, value: Attribute) -> Json:
        match value:
            case Graph():
                return {"graph": self.graph(value)}
            case np.ndarray():
                return {"array": self._array(value)}
            case tuple():
                return {"list": [self._attribute(item) for item in value]}
            case bytes():
                return {"bytes": value.hex()}
            case float():
                return {"float": value.hex()}  # JSON has no NaN and no infinity
        return {"type": write_type(value)} if isinstance(value, VALUE_TYPES) else value

    def _array(self, array: np.ndarray) -> Json:
        dtype = DType.from_numpy(array.dtype)
        if dtype is DType.STRING:
            return [dtype.value, array.shape, [str(item) for item in array.reshape(-1)]]
        known = self._seen.get(id(array))
        if known is None:
            flat = np.ascontiguousarray(array).reshape(-1)
            self.blobs.append(flat.view(np.uint8).data)
            known = self._seen[id(array)] = (array, len(self.blobs) - 1)
        return [dtype.value, array.shape, known[1]]


class GraphLoader:
    """Turns JSON back into graphs whose arrays are read-only views of the blobs."""

    def __init__(self, blobs: Sequence[memoryview]) -> None:
        self._blobs = blobs

    def graph(self, data: Json) -> Graph:
        """Return the graph that `GraphWriter.graph` wrote."""
        return Graph(
            name=data["name"],
            inputs=tuple(Value(name, read_type(kind)) for name, kind in data["inputs"]),
            outputs=tuple(Value(name, read_type(kind)) for name, kind in data["outputs"]),
            nodes=tuple(self.node(n) for n in data["nodes"]),
            initializers=self._arrays(data["initializers"]),
            constants=self._arrays(data["constants"]),
            types={name: read_type(kind) for name, kind in data["types"].items()},
            metadata=dict(data["metadata"]),
        )

    def _arrays(self, data: Mapping[str, Json]) -> dict[str, np.ndarray]:
        return {name: self._array(value) for name, value in data.items()}

    def node(self, data: Json) -> Node:
        """Return the node that `GraphWriter.node` wrote."""
        op, inputs, outputs, attributes, domain, version, name = data
        values = {key: self._attribute(value) for key, value in attributes.items()}
        return Node(op, tuple(inputs), tuple(outputs), values, domain, version, name)

    def _attribute(self, data: Json) -> Attribute:
        if not isinstance(data, dict):
            return data  # type: ignore[no-any-return]  # an int or a str
        ((kind, value),) = data.items()
        match kind:
            case "graph":
                return self.graph(value)
            case "array":
                return self._array(value)
            case "list":
                return tuple(self._attribute(item) for item in value)  # type: ignore[return-value]
            case "bytes":
                return bytes.fromhex(value)
            case "float":
                return float.fromhex(value)
            case "type":
                return read_type(value)
        raise InvalidModel(f"artifact holds an attribute of unknown kind {kind!r}")

    def _array(self, data: Json) -> np.ndarray:
        name, shape, content = data
        dtype = DType(name)
        if dtype is DType.STRING:
            return np.array(content, object).reshape(shape)
        blob = self._blobs[content]
        return np.frombuffer(blob, np.uint8).view(dtype.numpy).reshape(shape)


def write_type(kind: ValueType) -> Json:
    """Return a type as JSON."""
    match kind:
        case SequenceType():
            return {"sequence": write_type(kind.element), "length": _write_dim(kind.length)}
        case OptionalType():
            return {"optional": write_type(kind.element)}
        case MapType():
            return {"map": write_type(kind.value), "key": kind.key.value}
    return [kind.dtype.value, None if kind.shape is None else list(map(_write_dim, kind.shape))]


def read_type(data: Json) -> ValueType:
    """Return the type that `write_type` wrote."""
    match data:
        case {"sequence": element, "length": length}:
            return SequenceType(read_type(element), None if length is None else _read_dim(length))
        case {"optional": element}:
            return OptionalType(read_type(element))
        case {"map": value, "key": key}:
            return MapType(DType(key), read_type(value))
    name, shape = data
    return TensorType(DType(name), None if shape is None else tuple(map(_read_dim, shape)))


def _write_dim(dim: Dim | None) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else str(dim)


def _read_dim(data: int | str) -> Dim:
    return data if isinstance(data, int) else parse_dim(data)
