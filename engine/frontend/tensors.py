"""Turns an ONNX TensorProto into an array, whatever way it holds its data, checking sizes before
allocating.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from engine.dtypes import DType
from engine.errors import InvalidModel, ResourceLimit
from engine.frontend.safety import ExternalData
from engine.limits import MAX_RANK

MAX_HIDDEN = 1 << 28  # elements that the other dims of an empty tensor would stand for
# Which field holds the elements when they are not raw, and the elements of it per element of the
# tensor.
TYPED_FIELDS: dict[DType, tuple[str, int]] = {
    DType.FLOAT32: ("float_data", 1),
    DType.COMPLEX64: ("float_data", 2),
    DType.FLOAT64: ("double_data", 1),
    DType.COMPLEX128: ("double_data", 2),
    DType.INT64: ("int64_data", 1),
    DType.UINT32: ("uint64_data", 1),
    DType.UINT64: ("uint64_data", 1),
}
DEFAULT_FIELD = ("int32_data", 1)  # every narrower type
EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


def read_tensor(
    tensor: TensorProto, external: ExternalData, max_bytes: int, raw: np.ndarray | None = None
) -> np.ndarray:
    """Return the array that `tensor` describes; read-only unless it had to be converted.

    `raw` are its bytes, where they were taken out of its `raw_data`.
    """
    where = f"tensor {tensor.name!r}"
    dtype = DType.from_onnx(tensor.data_type)
    shape = checked_shape(list(tensor.dims), where)
    count = prod(shape)
    if count * dtype.itemsize > max_bytes:
        raise ResourceLimit(where, f"{count * dtype.itemsize} bytes", f"model_bytes={max_bytes}")
    check_text(tensor.name)
    if tensor.HasField("segment"):
        raise InvalidModel(f"{where}: segmented tensors are not part of ONNX any more")
    if dtype is DType.STRING:
        return _strings(tensor, count, where).reshape(shape)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _from_raw(
            external_bytes(tensor, dtype, count, external), dtype, count, where
        ).reshape(shape)
    if tensor.HasField("raw_data"):
        data = tensor.raw_data if raw is None else raw.data
        return _from_raw(data, dtype, count, where).reshape(shape)
    return _typed(tensor, dtype, count, where).reshape(shape)


def checked_shape(dims: list[int], where: str) -> tuple[int, ...]:
    """Return dims as a shape, refusing negative ones and absurd ranks."""
    if len(dims) > MAX_RANK:
        raise InvalidModel(f"{where}: rank {len(dims)} is above {MAX_RANK}")
    if any(d < 0 for d in dims):
        raise InvalidModel(f"{where}: dims {dims} must not be negative")
    if 0 in dims and prod(max(d, 1) for d in dims) > MAX_HIDDEN:
        raise InvalidModel(f"{where}: dims {dims} are absurdly large for no element at all")
    return tuple(dims)


def raw_byte_count(dtype: DType, count: int) -> int:
    """Return the bytes that `count` elements take in a file, where narrow types are packed."""
    return (count * dtype.bits + 7) // 8 if _is_packed(dtype) else count * dtype.itemsize


def read_sparse_tensor(
    sparse: onnx.SparseTensorProto, external: ExternalData, max_bytes: int
) -> np.ndarray:
    """Return a sparse tensor as a dense array."""
    where = f"sparse tensor {sparse.values.name!r}"
    shape = checked_shape(list(sparse.dims), where)
    values = read_tensor(sparse.values, external, max_bytes)
    indices = read_tensor(sparse.indices, external, max_bytes)
    if prod(shape) * values.itemsize > max_bytes:
        raise ResourceLimit(
            where, f"{prod(shape) * values.itemsize} bytes", f"model_bytes={max_bytes}"
        )
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        limits = np.asarray(shape, np.int64)
        if indices.size and (indices.min() < 0 or (indices >= limits).any()):
            raise InvalidModel(f"{where}: an index lies outside its shape {list(shape)}")
        indices = (
            np.ravel_multi_index(tuple(indices.T), shape) if shape else indices[:, :0].sum(axis=1)
        )
    if indices.ndim != 1 or values.shape != indices.shape or indices.dtype != np.int64:
        raise InvalidModel(f"{where}: expected one int64 index per value")
    if indices.size and (indices.min() < 0 or indices.max() >= prod(shape)):
        raise InvalidModel(f"{where}: an index lies outside its {prod(shape)} elements")
    dense = np.zeros(prod(shape), values.dtype)
    dense[indices] = values
    return dense.reshape(shape)


def external_bytes(
    tensor: TensorProto, dtype: DType, count: int, external: ExternalData
) -> bytearray:
    """Return the bytes of a tensor that lies in another file."""
    where = f"tensor {tensor.name!r}"
    for entry in tensor.external_data:
        check_text(entry.key, entry.value)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = entries.keys() - EXTERNAL_KEYS
    if unknown:
        raise InvalidModel(f"{where}: unknown external data keys {sorted(unknown)}")
    if not entries.get("location"):
        raise InvalidModel(f"{where}: external data names no location")
    needed = raw_byte_count(dtype, count)
    offset = _whole_number(entries.get("offset", "0"), "offset", where)
    length = _whole_number(entries.get("length", str(needed)), "length", where)
    if length != needed:
        raise InvalidModel(
            f"{where}: external length {length}, its type and shape need {needed} bytes"
        )
    return external.read(tensor.name, entries["location"], offset, length)


def _whole_number(text: str, what: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModel(f"{where}: external {what} {text[:40]!r} is not a whole number")
    return int(text)


def _from_raw(
    raw: bytes | bytearray | memoryview, dtype: DType, count: int, where: str
) -> np.ndarray:
    needed = raw_byte_count(dtype, count)
    if len(raw) != needed:
        raise InvalidModel(f"{where}: {len(raw)} bytes of data, its type and shape need {needed}")
    if _is_packed(dtype):
        return _unpack(np.frombuffer(raw, np.uint8), dtype, count)
    array = np.frombuffer(raw, dtype.numpy)
    if dtype is DType.BOOL:  # any byte but 0 and 1 would be a value that numpy does not know
        array = np.frombuffer(raw, np.uint8) != 0
    return array.byteswap() if sys.byteorder == "big" else array  # files are little-endian


def _typed(tensor: TensorProto, dtype: DType, count: int, where: str) -> np.ndarray:
    field, per_element = TYPED_FIELDS.get(dtype, DEFAULT_FIELD)
    data = getattr(tensor, field)
    shares_bytes = _is_packed(dtype) and 8 % dtype.bits == 0  # 6 bits stand alone in this field
    needed = raw_byte_count(dtype, count) if shares_bytes else count * per_element
    if len(data) != needed:
        raise InvalidModel(
            f"{where}: {len(data)} elements in {field}, its type and shape need {needed}"
        )
    if _is_packed(dtype) and not shares_bytes:
        return _from_codes(np.asarray(list(data), np.int64) & ((1 << dtype.bits) - 1), dtype)
    if _is_packed(dtype):
        return _unpack(np.asarray(list(data), np.int64).astype(np.uint8), dtype, count)
    return numpy_helper.to_array(tensor).reshape(-1).astype(dtype.numpy, copy=False)


def _strings(tensor: TensorProto, count: int, where: str) -> np.ndarray:
    if len(tensor.string_data) != count:
        raise InvalidModel(f"{where}: {len(tensor.string_data)} strings, its shape needs {count}")
    texts: list[Any] = [decode_text(item, where) for item in tensor.string_data]
    return np.array(texts, object)


def decode_text(data: bytes, where: str) -> str:
    """Return bytes as text, or raise `InvalidModel` when they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{where}: text is not UTF-8: {error.reason}") from None


def check_text(*fields: object) -> None:
    """Refuse text fields that are not UTF-8: protobuf hands those out as bytes."""
    for text in fields:
        if not isinstance(text, str):
            raise InvalidModel(f"text {text!r} is not UTF-8")


def _is_packed(dtype: DType) -> bool:
    return dtype.bits < 8 and dtype is not DType.BOOL


def _unpack(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Spread elements of fewer than 8 bits, lowest bits first, over a byte each."""
    bits = np.unpackbits(data, count=count * dtype.bits, bitorder="little")
    places = np.left_shift(1, np.arange(dtype.bits))
    codes = bits.reshape(count, dtype.bits) @ places  # (count,)
    return _from_codes(codes, dtype)


def _from_codes(codes: np.ndarray, dtype: DType) -> np.ndarray:
    if dtype.is_float:
        return codes.astype(np.uint8).view(dtype.numpy)
    if dtype.is_signed:
        codes = np.where(codes >> (dtype.bits - 1), codes - (1 << dtype.bits), codes)
    return codes.astype(np.int8).astype(dtype.numpy)
