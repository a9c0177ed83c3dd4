"""Element types: one enum with ONNX's names, their numpy types, and what kind of number each is.

Imports nothing of the engine but errors. The types numpy lacks come from `ml_dtypes`, which onnx
itself uses.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from engine.errors import InvalidModel


class DType(Enum):
    """An element type.

    The value is its ONNX (and numpy) name; `bool` and `string` are BOOL and STRING.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"
    FLOAT8E4M3FN = "float8_e4m3fn"
    FLOAT8E4M3FNUZ = "float8_e4m3fnuz"
    FLOAT8E5M2 = "float8_e5m2"
    FLOAT8E5M2FNUZ = "float8_e5m2fnuz"
    FLOAT8E8M0 = "float8_e8m0fnu"
    FLOAT6E2M3 = "float6_e2m3fn"
    FLOAT6E3M2 = "float6_e3m2fn"
    FLOAT4E2M1 = "float4_e2m1fn"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    INT4 = "int4"
    UINT4 = "uint4"
    INT2 = "int2"
    UINT2 = "uint2"
    BOOL = "bool"
    STRING = "string"
    COMPLEX64 = "complex64"
    COMPLEX128 = "complex128"

    # cached_property, not a table lookup per use: these are read once per node and call.

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type that arrays of this element type have; strings are arrays of object."""
        if self is DType.STRING:
            return np.dtype(object)
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.value, self.value))
        return found

    @cached_property
    def onnx(self) -> int:
        """The number of this type in `TensorProto.DataType`."""
        return _ONNX[self]

    @cached_property
    def itemsize(self) -> int:
        """Bytes per element in memory (4-bit types take a whole byte in arrays)."""
        return self.numpy.itemsize

    @cached_property
    def bits(self) -> int:
        """Bits that carry the value, less than 8 for the packed types."""
        return _NARROW_BITS.get(self, self.itemsize * 8)

    @cached_property
    def is_float(self) -> bool:
        """Whether this is a real floating-point type of any width."""
        return self.value.startswith(("float", "bfloat"))

    @cached_property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type (not bool)."""
        return self.value.startswith(("int", "uint"))

    @cached_property
    def is_signed(self) -> bool:
        """Whether values can be negative."""
        return self.is_float or self.value.startswith("int")

    @cached_property
    def is_narrow_float(self) -> bool:
        """Whether arithmetic happens in float32 and rounds back: fp16, bf16 and smaller."""
        return self.is_float and self not in (DType.FLOAT32, DType.FLOAT64)

    @cached_property
    def compute(self) -> DType:
        """The type in which arithmetic on this type is done."""
        return DType.FLOAT32 if self.is_narrow_float else self

    @classmethod
    def from_onnx(cls, number: int) -> DType:
        """Return the type with this `TensorProto.DataType` number, or raise `InvalidModel`."""
        try:
            return _FROM_ONNX[number]
        except KeyError:
            raise InvalidModel(f"no element type has the number {number} in ONNX") from None

    @classmethod
    def from_numpy(cls, dtype: object) -> DType:
        """Return the element type of a numpy dtype, or raise `TypeError`."""
        as_dtype = np.dtype(dtype)  # type: ignore[call-overload]  # numpy keeps the type private
        if as_dtype.kind in "OUST":
            return cls.STRING
        try:
            return cls(as_dtype.name)
        except ValueError:
            raise TypeError(f"numpy type {as_dtype} is not an ONNX element type") from None

    def __repr__(self) -> str:
        """Read well in shapes and messages."""
        return self.value

    __str__ = __repr__


_ONNX: dict[DType, int] = {
    DType.FLOAT32: 1,
    DType.UINT8: 2,
    DType.INT8: 3,
    DType.UINT16: 4,
    DType.INT16: 5,
    DType.INT32: 6,
    DType.INT64: 7,
    DType.STRING: 8,
    DType.BOOL: 9,
    DType.FLOAT16: 10,
    DType.FLOAT64: 11,
    DType.UINT32: 12,
    DType.UINT64: 13,
    DType.COMPLEX64: 14,
    DType.COMPLEX128: 15,
    DType.BFLOAT16: 16,
    DType.FLOAT8E4M3FN: 17,
    DType.FLOAT8E4M3FNUZ: 18,
    DType.FLOAT8E5M2: 19,
    DType.FLOAT8E5M2FNUZ: 20,
    DType.UINT4: 21,
    DType.INT4: 22,
    DType.FLOAT4E2M1: 23,
    DType.FLOAT8E8M0: 24,
    DType.UINT2: 25,
    DType.INT2: 26,
    DType.FLOAT6E2M3: 27,
    DType.FLOAT6E3M2: 28,
}
_FROM_ONNX = {number: dtype for dtype, number in _ONNX.items()}
_NARROW_BITS = {
    DType.INT4: 4,
    DType.UINT4: 4,
    DType.FLOAT6E2M3: 6,
    DType.FLOAT6E3M2: 6,
    DType.FLOAT4E2M1: 4,
    DType.INT2: 2,
    DType.UINT2: 2,
    DType.BOOL: 1,
}

# The sets of types that operator definitions name.
NARROW_FLOATS = frozenset({DType.FLOAT16, DType.BFLOAT16})
FLOATS = frozenset({DType.FLOAT32, DType.FLOAT64}) | NARROW_FLOATS
FLOAT8S = frozenset(d for d in DType if d.value.startswith("float8"))
SIGNED_INTEGERS = frozenset({DType.INT8, DType.INT16, DType.INT32, DType.INT64})
UNSIGNED_INTEGERS = frozenset({DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64})
INTEGERS = SIGNED_INTEGERS | UNSIGNED_INTEGERS
NUMBERS = FLOATS | INTEGERS
BOOLS = frozenset({DType.BOOL})
STRINGS = frozenset({DType.STRING})
ALL = frozenset(DType)
