"""Reads declared types: element type, and dims that are numbers, names or unknown."""

from __future__ import annotations

import keyword
import re

from onnx import TypeProto, ValueInfoProto

from engine.dtypes import DType
from engine.errors import InvalidModel, UnsupportedOp
from engine.frontend.tensors import check_text
from engine.ir.graph import Value
from engine.ir.types import Dim, SymDim, TensorType, fresh_symbol, symbol
from engine.ir.value_types import MapType, OptionalType, SequenceType, ValueType, all_varying
from engine.limits import MAX_RANK

MAX_TYPE_DEPTH = 8  # a sequence of optionals of maps of ...; ONNX itself stops at three
MAX_SUMMANDS = 4  # of a dim that is named as a sum
PLAIN_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NOT_IN_NAMES = re.compile(r"\W", re.ASCII)
UNTYPED = TensorType(DType.FLOAT32)  # stands where a file may leave the type out; told by identity
LIKE_FRESH = re.compile(r"_\d+$")  # how `fresh_symbol` ends its names


class DimNames:
    """One symbol per dim_param of a model, under a name that dimension expressions can hold."""

    def __init__(self) -> None:
        self._symbols: dict[str, SymDim] = {}
        self._taken: set[str] = set()

    def dim(self, dim_param: str) -> Dim:
        """Return the dim that a dim_param names: a sum of names (`past + new`, as exporters of
        caches write), else a symbol.

        Other expressions are names too: `past + 1` is written where more than one may come.
        """
        parts = dim_param.split(" + ")
        if not 1 < len(set(parts)) == len(parts) <= MAX_SUMMANDS or not all(
            PLAIN_NAME.fullmatch(part) for part in parts
        ):
            return self.symbol(dim_param)
        return sum((self.symbol(part) for part in parts[1:]), start=self.symbol(parts[0]))

    def symbol(self, dim_param: str) -> SymDim:
        """Return the symbol of a dim_param; its name differs only where it is no identifier."""
        known = self._symbols.get(dim_param)
        if known is None:
            known = self._symbols[dim_param] = symbol(self._free_name(dim_param))
        return known

    def _free_name(self, dim_param: str) -> str:
        name = NOT_IN_NAMES.sub("_", dim_param)
        if keyword.iskeyword(name) or not name.isidentifier() or LIKE_FRESH.search(name):
            name = f"{'' if name.isidentifier() else 'd_'}{name}_"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def read_value(proto: ValueInfoProto, names: DimNames, *, may_be_untyped: bool = False) -> Value:
    """Return a graph input or output with its declared type; `UNTYPED` where it may have none."""
    check_text(proto.name)
    if not proto.name:
        raise InvalidModel("a graph input or output has no name")
    if may_be_untyped and proto.type.WhichOneof("value") is None:
        return Value(proto.name, UNTYPED)
    return Value(proto.name, read_type(proto.type, proto.name, names))


def read_type(proto: TypeProto, name: str, names: DimNames, depth: int = 0) -> ValueType:
    """Return a declared type: of a tensor, a sequence, an optional or a map."""
    kind = proto.WhichOneof("value")
    if depth > MAX_TYPE_DEPTH:
        raise InvalidModel(f"value {name!r}: its type nests deeper than {MAX_TYPE_DEPTH}")
    match kind:
        case None:
            raise InvalidModel(f"value {name!r} has no type")
        case "tensor_type":
            return _read_tensor_type(proto.tensor_type, name, names)
        case "sequence_type":
            element = read_type(proto.sequence_type.elem_type, name, names, depth + 1)
            # A file cannot say which dims its elements share.
            return SequenceType(all_varying(element))
        case "optional_type":
            return OptionalType(read_type(proto.optional_type.elem_type, name, names, depth + 1))
        case "map_type":
            return _read_map_type(proto.map_type, name, names, depth)
    raise UnsupportedOp(name, kind, "", 0, f"value {name!r} is a {kind}, which no operator takes")


def _read_map_type(proto: TypeProto.Map, name: str, names: DimNames, depth: int) -> MapType:
    key = DType.from_onnx(proto.key_type)
    if not (key.is_integer or key is DType.STRING):
        raise InvalidModel(f"value {name!r}: keys of a map are integers or texts, not {key}")
    return MapType(key, all_varying(read_type(proto.value_type, name, names, depth + 1)))


def _read_tensor_type(proto: TypeProto.Tensor, name: str, names: DimNames) -> TensorType:
    dtype = DType.from_onnx(proto.elem_type)
    if not proto.HasField("shape"):
        return TensorType(dtype)
    dims = proto.shape.dim
    if len(dims) > MAX_RANK:
        raise InvalidModel(f"value {name!r}: rank {len(dims)} is above {MAX_RANK}")
    return TensorType(dtype, tuple(_read_dim(d, name, i, names) for i, d in enumerate(dims)))


def _read_dim(proto: object, name: str, axis: int, names: DimNames) -> Dim:
    kind = proto.WhichOneof("value")  # type: ignore[attr-defined]  # protobuf builds its classes at run time
    if kind == "dim_param" and proto.dim_param:  # type: ignore[attr-defined]
        check_text(proto.dim_param)  # type: ignore[attr-defined]
        return names.dim(proto.dim_param)  # type: ignore[attr-defined]
    if kind != "dim_value":
        return fresh_symbol("N" if axis == 0 else f"d{axis}")
    size = int(proto.dim_value)  # type: ignore[attr-defined]
    if size < 0:
        raise InvalidModel(f"value {name!r}: dim {axis} is {size}; it must not be negative")
    return size
