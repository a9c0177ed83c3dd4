"""Tensors in every form that a file can hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.dtypes import DType
from engine.errors import InvalidModel, ResourceLimit
from engine.frontend.safety import ExternalData
from engine.frontend.tensors import read_sparse_tensor, read_tensor

NONE = ExternalData(None, 0)
LIMIT = 1 << 20
NUMBERS = [d for d in DType if d is not DType.STRING]


def read(tensor: TensorProto, external: ExternalData = NONE) -> np.ndarray:
    return read_tensor(tensor, external, LIMIT)


def sample(dtype: DType) -> np.ndarray:
    values = np.array([[0, 1, 1], [0, 1, 0], [1, 1, 1]])
    if dtype.is_integer and dtype.is_signed:
        values = -values
    return values.astype(dtype.numpy)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_raw_and_typed(dtype: DType, raw: bool) -> None:
    array = sample(dtype)
    tensor = numpy_helper.from_array(array, "t")
    if not raw:
        tensor = helper.make_tensor("t", dtype.onnx, array.shape, array.reshape(-1).tolist())
    got = read(tensor)
    assert got.dtype == dtype.numpy and got.shape == (3, 3)
    assert got.tobytes() == numpy_helper.to_array(tensor).astype(dtype.numpy).tobytes()


def test_strings() -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, [2], ["grüß", ""])
    assert read(tensor).tolist() == ["grüß", ""]
    tensor.string_data[0] = b"\xff"
    with pytest.raises(InvalidModel, match="not UTF-8"):
        read(tensor)
    tensor.dims[0] = 3
    with pytest.raises(InvalidModel, match="2 strings, its shape needs 3"):
        read(tensor)


def test_bools_are_zero_or_one() -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.BOOL, dims=[3], raw_data=b"\0\7\1")
    assert read(tensor).view(np.uint8).tolist() == [0, 1, 1]


def test_scalar_and_empty() -> None:
    assert read(numpy_helper.from_array(np.float32(3), "t")).shape == ()
    assert read(numpy_helper.from_array(np.zeros((0, 4), np.int64), "t")).shape == (0, 4)


@given(data=st.binary(max_size=40), dims=st.lists(st.integers(-3, 6), max_size=3))
def test_raw_data_of_another_size_is_refused(data: bytes, dims: list[int]) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, raw_data=data)
    if all(d >= 0 for d in dims) and len(data) == 4 * int(np.prod(dims)):
        assert read(tensor).shape == tuple(dims)
        return
    with pytest.raises(InvalidModel, match="'t'"):
        read(tensor)


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    huge = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    with pytest.raises(ResourceLimit, match="tensor 't'"):
        read(huge)
    with pytest.raises(InvalidModel, match="rank 100"):
        read(TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1] * 100))


def test_missing_data_and_wrong_fields() -> None:
    missing = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2])
    with pytest.raises(InvalidModel, match="0 elements in float_data"):
        read(missing)
    other = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], int64_data=[1, 2])
    with pytest.raises(InvalidModel, match="float_data"):
        read(other)
    with pytest.raises(InvalidModel, match="no element type has the number 99"):
        read(TensorProto(name="t", data_type=99, dims=[1]))
    segmented = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], float_data=[1])
    segmented.segment.begin = 0
    with pytest.raises(InvalidModel, match="segmented"):
        read(segmented)


def external(dims: list[int], **entries: str) -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


@pytest.fixture
def folder(tmp_path: Path) -> ExternalData:
    np.arange(8, dtype=np.float32).tofile(tmp_path / "w.bin")
    return ExternalData(tmp_path, 1000)


def test_external_data(folder: ExternalData) -> None:
    assert read(external([2], location="w.bin", offset="8", length="8"), folder).tolist() == [2, 3]
    assert read(external([8], location="w.bin"), folder).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({}, "no location"),
        ({"location": "w.bin", "length": "4"}, "external length 4"),
        ({"location": "w.bin", "offset": "-8"}, "not a whole number"),
        ({"location": "w.bin", "offset": "1e3"}, "not a whole number"),
        ({"location": "w.bin", "offset": "9" * 30}, "not a whole number"),
        ({"location": "w.bin", "offset": "32"}, "beyond"),
        ({"location": "w.bin", "__class__": "x"}, "unknown external data keys"),
        ({"location": "../w.bin"}, "plain relative path"),
    ],
)
def test_external_data_that_is_wrong(
    folder: ExternalData, entries: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidModel, match=reason):
        read(external([2], **entries), folder)


def sparse(values: list[float], indices: np.ndarray, dims: list[int]) -> np.ndarray:
    made = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), "s"),
        numpy_helper.from_array(indices, "i"),
        dims,
    )
    return read_sparse_tensor(made, NONE, LIMIT)


def test_sparse_tensors_become_dense() -> None:
    want = [[0, 5, 0], [0, 0, 7]]
    assert sparse([5, 7], np.array([1, 5]), [2, 3]).tolist() == want
    assert sparse([5, 7], np.array([[0, 1], [1, 2]]), [2, 3]).tolist() == want


@pytest.mark.parametrize(
    ("values", "indices", "dims"),
    [
        ([5], np.array([6]), [2, 3]),
        ([5], np.array([-1]), [2, 3]),
        ([5], np.array([[0, 3]]), [2, 3]),
        ([5], np.array([0, 1]), [2, 3]),
        ([5], np.array([0], np.int32), [2, 3]),
    ],
)
def test_sparse_tensors_that_are_wrong(
    values: list[float], indices: np.ndarray, dims: list[int]
) -> None:
    with pytest.raises(InvalidModel, match="sparse tensor 's'"):
        sparse(values, indices, dims)


def test_a_huge_sparse_tensor_is_refused() -> None:
    with pytest.raises(ResourceLimit):
        sparse([5], np.array([0]), [2**30, 2**30])
