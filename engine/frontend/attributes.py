"""Turns AttributeProto into values of the IR; graphs are read by the function that is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, SparseTensorProto, TensorProto, TypeProto

from engine.errors import InvalidModel, UnsupportedOp
from engine.frontend.tensors import decode_text
from engine.ir.graph import Attribute, Graph
from engine.ir.value_types import ValueType

# Files older than IR version 2 leave the type out; the field that is filled tells it.
UNTYPED_FIELDS = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
}


class AttributeReader:
    """Reads attributes with the help of whoever reads tensors and graphs."""

    def __init__(
        self,
        read_tensor: Callable[[TensorProto], np.ndarray],
        read_sparse: Callable[[SparseTensorProto], np.ndarray],
        read_graph: Callable[[GraphProto], Graph],
        read_type: Callable[[TypeProto], ValueType],
    ) -> None:
        self._read_tensor = read_tensor
        self._read_sparse = read_sparse
        self._read_graph = read_graph
        self._read_type = read_type

    def read(self, proto: AttributeProto, where: str) -> Attribute:
        """Return the value of one attribute."""
        match attribute_kind(proto):
            case AttributeProto.FLOAT:
                return float(proto.f)
            case AttributeProto.INT:
                return int(proto.i)
            case AttributeProto.STRING:
                return decode_text(proto.s, where)
            case AttributeProto.TENSOR:
                return self._read_tensor(proto.t)
            case AttributeProto.SPARSE_TENSOR:
                return self._read_sparse(proto.sparse_tensor)
            case AttributeProto.GRAPH:
                return self._read_graph(proto.g)
            case AttributeProto.TYPE_PROTO:
                return self._read_type(proto.tp)
            case AttributeProto.FLOATS:
                return tuple(proto.floats)
            case AttributeProto.INTS:
                return tuple(proto.ints)
            case AttributeProto.STRINGS:
                return tuple(decode_text(item, where) for item in proto.strings)
            case kind:
                name = AttributeProto.AttributeType.Name(kind)
                raise UnsupportedOp(
                    where, name, "", 0, f"attributes of kind {name} are not supported"
                )


def attribute_kind(proto: AttributeProto) -> int:
    """Return the AttributeType of an attribute, found by its field where the file does not say."""
    if proto.type != AttributeProto.UNDEFINED:
        return int(proto.type)
    for field, kind in UNTYPED_FIELDS.items():
        filled = proto.HasField(field) if len(field) == 1 else len(getattr(proto, field)) > 0
        if filled:
            return int(kind)
    return int(AttributeProto.INTS)  # an empty list is the only thing that leaves no trace


def constant_value(attributes: Mapping[str, Attribute], where: str) -> np.ndarray:
    """Return the value of a Constant node, which has it in one of several attributes."""
    if len(attributes) != 1:
        raise InvalidModel(f"{where}: Constant needs exactly one value, got {sorted(attributes)}")
    ((kind, value),) = attributes.items()
    match kind, value:
        case (("value" | "sparse_value"), np.ndarray()):
            return value
        case "value_float", float():
            return np.asarray(value, np.float32)
        case "value_int", int():
            return np.asarray(value, np.int64)
        case "value_string", str():
            return np.asarray(value, object)
        case "value_floats", tuple():
            return np.asarray(value, np.float32)
        case "value_ints", tuple():
            return np.asarray(value, np.int64)
        case "value_strings", tuple():
            return np.array(value, object)
    raise InvalidModel(f"{where}: attribute {kind!r} is no value of a Constant")
