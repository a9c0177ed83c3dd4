"""A request of the Open Inference Protocol v2, JSON with or without binary tensors, as arrays.

Sizes are computed in Python's integers, so that a product of dims cannot overflow, and compared
with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from server.errors import InvalidInput, MalformedRequest
from server.routes.bodies import parse_object
from server.tasks.values import to_array
from server.tensors import TensorInfo

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "BYTES": "object",
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()} | {"str": "BYTES", "string": "BYTES"}
MAX_RANK = 64
SHORT = reprlib.Repr()
Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class WantedOutput:
    """One output that the request names."""

    name: str
    binary: bool
    classes: int = 0  # the classification extension: this many best classes instead of the values


@dataclass(slots=True)
class V2Request:
    """A decoded request."""

    arrays: dict[str, Array]
    outputs: list[WantedOutput] | None  # None: all of the model's
    binary: bool  # what outputs are that do not say
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def header_length(headers: Mapping[bytes, bytes], body_bytes: int) -> int | None:
    """Return the length of the JSON in front of binary tensors; None: the body is all JSON."""
    given = headers.get(b"inference-header-content-length")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18 or int(given) > body_bytes:
        raise MalformedRequest(
            f"Inference-Header-Content-Length must be 0 to {body_bytes} (the length of the body), "
            f"got {given.decode('latin-1')[:40]!r}"
        )
    return int(given)


def decode_request(body: bytes, json_bytes: int | None) -> V2Request:
    """Decode a request whose first `json_bytes` are JSON (None: all of it)."""
    view = memoryview(body)
    head = parse_object(view if json_bytes is None else view[:json_bytes])
    tail = _Tail(view[len(body) if json_bytes is None else json_bytes :])
    parameters = _object(head.get("parameters"), "parameters")
    inputs = head.get("inputs")
    if not isinstance(inputs, list):
        raise _wrong("inputs", "a list of tensors", inputs)
    arrays: dict[str, Array] = {}
    for place, tensor in enumerate(inputs):
        name, array = _tensor(tensor, f"inputs[{place}]", tail)
        if name in arrays:
            raise InvalidInput(f"input {name[:200]!r} is there twice", field=name[:200])
        arrays[name] = array
    tail.finish()
    binary = parameters.get("binary_data_output", False) is True
    request_id = head.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise _wrong("id", "a string", request_id)
    return V2Request(arrays, _outputs(head.get("outputs"), binary), binary, request_id, parameters)


def decode_raw(body: bytes, specs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Decode a body that is one tensor and nothing else, for a model with one input."""
    if len(specs) != 1:
        raise InvalidInput(
            f"a raw tensor is for models with one input, this one has {len(specs)}; "
            "send JSON in front of the tensors",
            field="inputs",
        )
    [spec] = specs
    if NAMES.get(spec.dtype) == "BYTES":
        text = np.array([body.decode("utf-8", "replace")], dtype=object)
        return {spec.name: text}
    dtype = np.dtype(spec.dtype)
    dims: list[int | None] = [dim if isinstance(dim, int) else None for dim in spec.shape]
    if dims and dims[0] is None and dims.count(None) > 1:
        dims[0] = 1  # a raw tensor is one row of a batch
    fixed = math.prod(dim for dim in dims if dim is not None) * dtype.itemsize
    if (
        dims.count(None) > 1
        or fixed == 0
        or len(body) % fixed
        or (None not in dims and len(body) != fixed)
    ):
        raise InvalidInput(
            f"input {spec.name!r} is {spec.dtype} of shape {list(spec.shape)}; "
            f"{len(body)} bytes are not such a tensor",
            field=spec.name,
            expected=f"a multiple of {fixed} bytes",
            got=len(body),
        )
    shape = [len(body) // fixed if dim is None else dim for dim in dims]
    return {spec.name: np.frombuffer(body, _little(dtype)).reshape(shape)}


class _Tail:
    """The binary tensors behind the JSON, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, where: str) -> memoryview:
        left = len(self._data) - self._at
        if count > left:
            raise MalformedRequest(
                f"{where}: binary_data_size is {count}, but only {left} bytes are left in the body"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def finish(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise MalformedRequest(
                f"{left} bytes behind the last binary tensor; check binary_data_size and "
                "Inference-Header-Content-Length"
            )


def _tensor(tensor: Any, where: str, tail: _Tail) -> tuple[str, Array]:
    if not isinstance(tensor, dict):
        raise _wrong(where, "an object", tensor)
    name = tensor.get("name")
    if not isinstance(name, str):
        raise _wrong(f"{where}.name", "a string", name)
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise _wrong(f"{where}.datatype", " or ".join(DATATYPES), datatype)
    shape = _shape(tensor.get("shape"), where)
    size = _object(tensor.get("parameters"), f"{where}.parameters").get("binary_data_size")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _wrong(f"{where}.parameters.binary_data_size", "an integer from 0", size)
        return name, _from_bytes(tail.take(size, where), datatype, shape, where)
    if "data" not in tensor:
        raise _wrong(f"{where}.data", "numbers, or binary_data_size", None)
    return name, _from_list(tensor["data"], datatype, shape, where)


def _shape(shape: Any, where: str) -> list[int]:
    good = isinstance(shape, list) and len(shape) <= MAX_RANK
    if not good or any(type(dim) is not int or dim < 0 for dim in shape):
        raise _wrong(f"{where}.shape", f"up to {MAX_RANK} integers from 0", shape)
    result: list[int] = shape
    return result


def _from_list(data: Any, datatype: str, shape: list[int], where: str) -> Array:
    array = to_array(data, _dtype(datatype, where), f"{where}.data")
    wanted = math.prod(shape)
    if array.size != wanted:
        raise InvalidInput(
            f"{where}: shape {shape} has {wanted} elements, data has {array.size}",
            field=f"{where}.data",
            expected=wanted,
            got=array.size,
        )
    return array.reshape(shape)


def _from_bytes(data: memoryview, datatype: str, shape: list[int], where: str) -> Array:
    wanted = math.prod(shape)
    if datatype == "BYTES":
        return _texts(data, wanted, where).reshape(shape)
    dtype = _little(_dtype(datatype, where))
    if len(data) != wanted * dtype.itemsize:
        raise InvalidInput(
            f"{where}: shape {shape} of {datatype} has {wanted * dtype.itemsize} bytes, "
            f"binary_data_size is {len(data)}",
            field=f"{where}.parameters.binary_data_size",
            expected=wanted * dtype.itemsize,
            got=len(data),
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _texts(data: memoryview, wanted: int, where: str) -> Array:
    """Read elements of the form length (uint32) + bytes."""
    texts: list[str] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise MalformedRequest(f"{where}: a BYTES element ends within its length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > len(data) - at:
            raise MalformedRequest(f"{where}: a BYTES element is longer than the tensor")
        texts.append(bytes(data[at : at + length]).decode("utf-8", "surrogateescape"))
        at += length
    if len(texts) != wanted:
        raise InvalidInput(
            f"{where}: the shape has {wanted} elements, the tensor {len(texts)}",
            field=where,
            expected=wanted,
            got=len(texts),
        )
    return np.array(texts, dtype=object)


def _outputs(outputs: Any, binary: bool) -> list[WantedOutput] | None:
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise _wrong("outputs", "a list", outputs)
    wanted: dict[str, WantedOutput] = {}
    for place, output in enumerate(outputs):
        where = f"outputs[{place}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise _wrong(f"{where}.name", "a string", output)
        name = output["name"]
        if name in wanted:
            raise InvalidInput(f"output {name[:200]!r} is named twice", field=where)
        parameters = _object(output.get("parameters"), f"{where}.parameters")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise _wrong(f"{where}.parameters.classification", "an integer from 0", classes)
        chosen = parameters.get("binary_data", binary)
        wanted[name] = WantedOutput(name, chosen is True, classes)
    return list(wanted.values())


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def _dtype(datatype: str, where: str) -> np.dtype[Any]:
    try:
        return np.dtype(DATATYPES[datatype])
    except TypeError:  # bfloat16 is known to numpy only once a model that uses it is loaded
        raise InvalidInput(f"{where}: no loaded model takes {datatype}", field=where) from None


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<") if dtype.kind in "iufc" else dtype


def _wrong(where: str, expected: str, got: Any) -> InvalidInput:
    shown = SHORT.repr(got)
    return InvalidInput(
        f"{where}: expected {expected}, got {shown}", field=where, expected=expected, got=shown
    )
