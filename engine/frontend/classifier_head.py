"""Puts a linear classifier on a value of a model, in place of what the model did with it.

    value (N, d) -> [Cast] -> [Flatten] -> [scale to length 1] -> Gemm -> Softmax or Sigmoid

What nothing needs any more goes: the old head, its weights, its outputs, functions, inputs. The
nodes are chosen so that they mean the same in every opset from 7 on.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper
from onnx.numpy_helper import from_array

from engine.dtypes import DType
from engine.errors import InvalidInput, InvalidModel, ResourceLimit
from engine.frontend.onnx_importer import import_model, parse_model
from engine.frontend.opsets import opset_versions
from engine.frontend.safety import ExternalData, read_model_file
from engine.frontend.tensors import checked_shape, external_bytes
from engine.frontend.used_parts import keep_used, names_in, tensors_in
from engine.ir.graph import Graph
from engine.ir.types import TensorType
from engine.limits import Limits
from engine.ops.registry import REGISTRY

Activation = Literal["softmax", "sigmoid", "normalized_sigmoid", "none"]
LEAST_OPSET: Final = 7  # from here on shapes broadcast as they do now
LAST_IR_OF_INPUTS: Final = 3  # up to here every initializer is an input as well
PROTOBUF_BYTES: Final = (1 << 31) - 1  # no message can be longer
SHOWN: Final = 12
# Added to the square of a length: a vector of zeros stays one, and no other notices.
LEAST_SQUARE: Final = 1e-30
LABELS_KEY: Final = "labels"


@dataclass(frozen=True)
class Head:
    """A linear classifier: `activation(x @ weight + bias)`, of `x / |x|` with `normalize`."""

    weight: np.ndarray  # (d, classes) float32
    bias: np.ndarray  # (classes,) float32
    activation: Activation = "softmax"
    normalize: bool = False
    labels: tuple[str, ...] = ()
    name: str = ""  # of the answer; "" leaves it to the activation


def append_head(
    source: str | os.PathLike[str] | bytes, value: str, head: Head, limits: Limits
) -> bytes:
    """Return the model that gives the classifier's answer first and `value` second.

    Raises:
        InvalidInput: there is no such value, or it does not fit the classifier.
        InvalidModel: the file is malformed, or older than opset 7.
        ResourceLimit: the new file would be longer than a file can be.
    """
    data, folder = _read(source, limits)
    typed = import_model(data, limits=limits, registry=REGISTRY, base_dir=folder)
    model = parse_model(data)
    if opset_versions(model).get("", 0) < LEAST_OPSET:
        raise InvalidModel(f"a classifier needs opset {LEAST_OPSET} or newer; convert the model")
    kind = _checked_value(typed, model, value, head.weight.shape[0])
    embedding = _describe(model, typed, value, kind)
    del model.training_info[:]  # of what is left out
    del model.graph.output[:]
    model.graph.output.append(embedding)
    keep_used(model)
    if not {v.name for v in model.graph.input} & set(typed.input_names):
        raise InvalidInput(f"value {value!r} depends on no input of the model; name another one")
    _add_nodes(model, value, kind, head)
    _inline(model, ExternalData(folder, limits.model_bytes), limits)
    if head.labels:
        _set_metadata(model, LABELS_KEY, json.dumps(head.labels))
    if model.ByteSize() > PROTOBUF_BYTES:
        raise ResourceLimit("the new model", f"{model.ByteSize()} bytes", PROTOBUF_BYTES)
    made: bytes = model.SerializeToString()
    import_model(made, limits=limits, registry=REGISTRY)  # types and shapes fit, or this raises
    return made


def _read(source: str | os.PathLike[str] | bytes, limits: Limits) -> tuple[bytes, Path | None]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), None
    path = Path(source)
    return read_model_file(path, limits.model_bytes), path.parent


# Which value


def _checked_value(typed: Graph, model: ModelProto, value: str, width: int) -> TensorType:
    """Return the type of the value, if a classifier of so many features can stand on it."""
    kind = typed.types.get(value)
    computed = [name for node in model.graph.node for name in node.output if name]
    if kind is None or value not in computed:
        raise InvalidInput(
            f"no value {value!r} is computed by the model; {_candidates(typed, computed, value)}"
        )
    if not isinstance(kind, TensorType) or not kind.dtype.is_float:
        raise InvalidInput(
            f"value {value!r} is {kind}; a classifier needs numbers with a fraction: "
            + _candidates(typed, computed, value)
        )
    if kind.shape is None:
        return kind
    found = _width(kind)
    if len(kind.shape) < 2 or (found is not None and found != width):
        raise InvalidInput(
            f"value {value!r} is {kind}; the weights are for {width} features a row: expected "
            f"shape (N, {width}) or one that flattens to it; {_candidates(typed, computed, value)}"
        )
    return kind


def _width(kind: TensorType) -> int | None:
    """Return how many features a row has, if the model says."""
    sizes = [dim for dim in (kind.shape or ())[1:] if isinstance(dim, int)]
    return prod(sizes) if kind.shape and len(sizes) == len(kind.shape) - 1 else None


def _candidates(typed: Graph, computed: Sequence[str], value: str) -> str:
    """Return a sentence that lists values a classifier could stand on, the likely ones first."""
    fitting = [name for name in computed if _may_carry(typed.types.get(name))]
    close = difflib.get_close_matches(value, fitting, n=3)
    names = list(dict.fromkeys([*close, *typed.output_names, *reversed(fitting)]))
    shown = [f"{name} {typed.types[name]}" for name in names if name in fitting][:SHOWN]
    more = ", ..." if len(fitting) > len(shown) else ""
    return f"there are: {', '.join(shown) or 'none'}{more}"


def _may_carry(kind: object) -> bool:
    return isinstance(kind, TensorType) and kind.dtype.is_float and (kind.rank or 0) >= 2


def _describe(model: ModelProto, typed: Graph, value: str, kind: TensorType) -> ValueInfoProto:
    """Return the value as an output: in the file's own words, if it has some."""
    graph = model.graph
    for told in (*graph.output, *graph.value_info):
        if told.name == value and told.type.WhichOneof("value"):
            return _copy(told)
    described = helper.make_tensor_value_info(value, kind.dtype.onnx, None)
    if kind.shape is not None:
        described.type.tensor_type.shape.SetInParent()
        for axis, dim in enumerate(kind.shape):
            written = described.type.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                written.dim_value = dim
            elif axis == 0:
                written.dim_param = _rows_name(model, typed, dim)
    return described


def _rows_name(model: ModelProto, typed: Graph, rows: object) -> str:
    """Return how the file calls this number of rows; "" where it has no word for it."""
    shapes = {v.name: v.type.shape for v in typed.inputs if isinstance(v.type, TensorType)}
    for told in model.graph.input:
        shape = shapes.get(told.name)
        if shape and shape[0] == rows:
            name: str = told.type.tensor_type.shape.dim[0].dim_param
            return name
    return ""


# The nodes


class _Names:
    """Names that nothing in the model has yet."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def __call__(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name


class _Builder:
    """Appends nodes one after the other, each to the result of the one before."""

    def __init__(self, model: ModelProto, value: str) -> None:
        self._model = model
        self.name = _Names((*names_in(model.graph), *(node.name for node in model.graph.node)))
        self.value = value

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add a weight and return its name."""
        tensor = from_array(np.ascontiguousarray(array, np.float32), self.name(f"head.{name}"))
        self._model.graph.initializer.append(tensor)
        if self._model.ir_version <= LAST_IR_OF_INPUTS:
            told = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, array.shape)
            self._model.graph.input.append(told)
        return str(tensor.name)

    def then(self, op: str, *more: str, result: str = "", **attributes: Any) -> str:
        """Apply an operator to the present value and others, and go on with what it gives."""
        inputs = [self.value, *more]
        self.value = self.name(result or f"head.{op.lower()}")
        node: NodeProto = helper.make_node(
            op, inputs, [self.value], name=self.name(f"head/{op}"), **attributes
        )
        self._model.graph.node.append(node)
        return self.value


def _add_nodes(model: ModelProto, value: str, kind: TensorType, head: Head) -> None:
    build = _Builder(model, value)
    if kind.dtype is not DType.FLOAT32:
        build.then("Cast", to=TensorProto.FLOAT)
    if kind.rank != 2:
        build.then("Flatten", axis=1)
    if head.normalize:
        _normalize(build, head.weight.shape[0])
    weights = build.constant("weight", head.weight), build.constant("bias", head.bias)
    last = head.activation == "none"
    answer = head.name or ("logits" if last else "probabilities")
    if head.name and head.name in build.name.taken:
        raise InvalidInput(f"the model has a value {head.name!r} already; choose another name")
    build.then("Gemm", *weights, result=answer if last else "head.logits")
    if head.activation == "softmax":
        build.then("Softmax", result=answer, axis=1)
    elif not last:
        _sigmoid(build, head, answer)
    described = _copy(model.graph.output[0])
    described.name = build.value
    described.type.CopyFrom(_rows_of(described, len(head.bias)))
    model.graph.output.insert(0, described)


def _normalize(build: _Builder, width: int) -> None:
    """Divide each row by its length."""
    features = build.value
    build.then("Mul", features)
    build.then("MatMul", build.constant("ones", np.ones((width, 1))))
    build.then("Add", build.constant("least", np.array([LEAST_SQUARE])))
    length = build.then("Sqrt")
    build.value = features
    build.then("Div", length)


def _sigmoid(build: _Builder, head: Head, answer: str) -> None:
    """Let every class have a probability of its own; scaled to a sum of 1 if asked."""
    if head.activation == "sigmoid":
        build.then("Sigmoid", result=answer)
        return
    shares = build.then("Sigmoid")
    total = build.then("MatMul", build.constant("ones", np.ones((len(head.bias), 1))))
    build.value = shares
    build.then("Div", total, result=answer)


def _rows_of(described: ValueInfoProto, classes: int) -> TypeProto:
    """Return the type of the answers: as many rows as the value has, one number per class."""
    answer: TypeProto = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, classes])
    if described.type.tensor_type.shape.dim:
        answer.tensor_type.shape.dim[0].CopyFrom(described.type.tensor_type.shape.dim[0])
    return answer


def _copy(told: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(told)
    return copy


# The rest of the file


def _inline(model: ModelProto, external: ExternalData, limits: Limits) -> None:
    """Take the weights that lie in other files into this one."""
    for tensor in _elsewhere(model):
        dtype = DType.from_onnx(tensor.data_type)
        count = prod(checked_shape(list(tensor.dims), f"tensor {tensor.name!r}"))
        data = external_bytes(tensor, dtype, count, external)
        if len(data) + model.ByteSize() > PROTOBUF_BYTES:
            raise ResourceLimit("the new model", "2 GiB or more", f"{PROTOBUF_BYTES} bytes a file")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = bytes(data)


def _elsewhere(model: ModelProto) -> Iterator[TensorProto]:
    return (t for t in tensors_in(model) if t.data_location == TensorProto.EXTERNAL)


def _set_metadata(model: ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)
