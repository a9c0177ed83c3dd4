"""Arrays of the types that numpy lacks, into ONNX Runtime and out of it.

Its Python interface takes such arrays only as `OrtValue`s, and gives them back only as memory.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
from onnx import helper

NUMPYS_OWN = 1  # `isbuiltin` of its types; those of ml_dtypes were registered later
NARROW_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}


def to_ort(runtime: Any, value: Any) -> Any:
    """Return an array as an OrtValue, whatever its type."""
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.isbuiltin == NUMPYS_OWN:
        return runtime.OrtValue.ortvalue_from_numpy(array)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    bits = NARROW_BITS.get(array.dtype.name)
    data = array if bits is None else _packed(array, bits)
    made = runtime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), number)
    ctypes.memmove(made.data_ptr(), data.ctypes.data, data.nbytes)
    return made


def from_ort(value: Any) -> Any:
    """Return an OrtValue's array."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.element_type()))
    if dtype.isbuiltin == NUMPYS_OWN:
        return value.numpy()
    shape, bits = value.shape(), NARROW_BITS.get(dtype.name, dtype.itemsize * 8)
    count = prod(shape)
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), (count * bits + 7) // 8), np.uint8)
    if bits >= 8:
        return raw.view(dtype).reshape(shape)
    fields = np.unpackbits(raw, count=count * bits, bitorder="little").reshape(count, bits)
    codes = (fields @ np.left_shift(1, np.arange(bits))).astype(np.int16)
    if dtype.name.startswith("int"):
        codes = np.where(codes >> (bits - 1), codes - (1 << bits), codes)
        return codes.astype(np.int8).astype(dtype).reshape(shape)
    is_float = dtype.name.startswith("float")
    plain = codes.astype(np.uint8)
    return (plain.view(dtype) if is_float else plain.astype(dtype)).reshape(shape)


def _packed(array: np.ndarray, bits: int) -> np.ndarray:
    """Return elements of few bits side by side, the first in the lowest bits."""
    is_float = array.dtype.name.startswith("float")
    codes = array.reshape(-1).view(np.uint8) if is_float else array.reshape(-1).astype(np.int8)
    fields = np.unpackbits(codes.view(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits]
    return np.packbits(fields.reshape(-1), bitorder="little")
