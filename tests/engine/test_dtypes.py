"""Element types agree with onnx and numpy on names, numbers and widths."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from engine.dtypes import DType
from engine.errors import InvalidModel


@pytest.mark.parametrize("dtype", list(DType), ids=str)
def test_each_type_has_onnx_s_number_and_numpy_s_type(dtype: DType) -> None:
    assert DType.from_onnx(dtype.onnx) is dtype
    assert DType.from_numpy(dtype.numpy) is dtype
    assert TensorProto.DataType.Name(dtype.onnx) == {
        DType.FLOAT32: "FLOAT",
        DType.FLOAT64: "DOUBLE",
    }.get(dtype, dtype.name)
    if dtype is not DType.STRING:  # onnx.helper says object for it as well
        assert helper.tensor_dtype_to_np_dtype(dtype.onnx) == dtype.numpy


def test_every_type_of_onnx_is_there() -> None:
    names = set(TensorProto.DataType.keys()) - {"UNDEFINED"}
    assert {DType.from_onnx(TensorProto.DataType.Value(name)) for name in names} == set(DType)


def test_facts() -> None:
    assert DType.BFLOAT16.compute is DType.FLOAT32
    assert DType.FLOAT64.compute is DType.FLOAT64
    assert (DType.INT4.bits, DType.INT4.itemsize, DType.BOOL.bits) == (4, 1, 1)
    assert DType.UINT8.is_integer
    assert not DType.UINT8.is_signed
    assert not DType.BOOL.is_integer
    assert str(DType.INT64) == "int64"


def test_strings_of_any_numpy_kind_are_strings() -> None:
    for array in (np.array(["a"]), np.array([b"a"]), np.array(["a"], dtype=object)):
        assert DType.from_numpy(array.dtype) is DType.STRING


def test_what_is_no_element_type() -> None:
    with pytest.raises(InvalidModel, match="number 77"):
        DType.from_onnx(77)
    with pytest.raises(TypeError, match="datetime64"):
        DType.from_numpy("datetime64[s]")
