from __future__ import annotations

import numpy as np
import pytest

from server.errors import InvalidInput, LoadFailed
from server.tasks import TensorItem
from server.tasks.inputs import HEAVY_ELEMENTS, TensorReader
from tests.server.tasks.models import FLAT, Axes, Spec

TWO = (Spec("ids", "int64", ("N", "L")), Spec("mask", "float32", ("N", "L")))
WITH_SCALAR = (Spec("x", "float32", ("N", 2)), Spec("threshold", "float32", ()))


def read(specs, tensors, batch=None):
    return TensorReader(specs, batch).read(TensorItem(tensors))


def test_one_row_without_its_axis():
    prepared = read(FLAT, {"input": [1, 2, 3, 4]})
    assert prepared.single and prepared.rows == 1
    np.testing.assert_array_equal(prepared.inputs["input"], [[1, 2, 3, 4]])


def test_several_rows():
    prepared = read(FLAT, {"input": [[1, 2, 3, 4], [5, 6, 7, 8]]})
    assert not prepared.single and prepared.rows == 2


def test_one_row_with_its_axis_keeps_it():
    prepared = read(FLAT, {"input": [[1, 2, 3, 4]]})
    assert not prepared.single and prepared.rows == 1


def test_several_inputs_of_dynamic_length():
    prepared = read(TWO, {"ids": [1, 2, 3], "mask": [1, 1, 0.5]})
    assert prepared.single
    assert {name: value.shape for name, value in prepared.inputs.items()} == {
        "ids": (1, 3),
        "mask": (1, 3),
    }


def test_scalars_have_no_rows():
    prepared = read(WITH_SCALAR, {"x": [[1, 2]] * 3, "threshold": 0.5})
    assert prepared.rows == 3
    assert prepared.inputs["threshold"].shape == ()


def test_what_the_engine_proved_is_used():
    axes = Axes(frozenset({"ids"}), frozenset())
    prepared = read(TWO, {"ids": [[1], [2]], "mask": [[1, 2]]}, axes)
    assert prepared.rows == 2
    assert prepared.inputs["mask"].shape == (1, 2)


def test_a_model_fixed_to_one_row_takes_it_with_or_without_its_axis():
    fixed = (Spec("x", "float32", (1, 2)),)
    assert read(fixed, {"x": [1, 2]}).single
    assert not read(fixed, {"x": [[1, 2]]}).single
    with pytest.raises(InvalidInput, match="expected shape"):
        read(fixed, {"x": [[1, 2], [3, 4]]})


def test_a_model_without_rows_takes_whole_tensors():
    fixed = (Spec("x", "float32", (3, 2)),)
    prepared = read(fixed, {"x": [[1, 2]] * 3})
    assert prepared.rows == 1 and not prepared.single
    with pytest.raises(InvalidInput, match=r"expected shape \[3, 2\], got \[2\]"):
        read(fixed, {"x": [1, 2]})


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, 2, 3]], 5, [[[1, 2, 3, 4]]]])
def test_wrong_shapes_say_what_was_expected(value):
    with pytest.raises(InvalidInput) as caught:
        read(FLAT, {"input": value})
    assert caught.value.message == (
        f"tensors.input: expected shape [N, 4] or, for one row, [4], got {list(np.shape(value))}"
    )
    assert caught.value.extra["field"] == "tensors.input"


def test_missing_and_unknown_names_are_listed():
    with pytest.raises(InvalidInput) as caught:
        read(TWO, {"ids": [1], "maks": [1]})
    message = caught.value.message
    assert message == "tensors: the model's inputs are ids, mask; missing: mask; unknown: maks"


def test_rows_must_agree():
    with pytest.raises(InvalidInput, match="has 2 rows, the inputs before it 1"):
        read(TWO, {"ids": [[1]], "mask": [[1], [2]]})


def test_no_rows_are_refused():
    with pytest.raises(InvalidInput, match="has no rows"):
        read(FLAT, {"input": np.zeros((0, 4), np.float32)})


def test_the_field_is_that_of_the_item():
    item = TensorItem({"input": ["a"]}, "inputs[3].tensors")
    with pytest.raises(InvalidInput) as caught:
        TensorReader(FLAT).read(item)
    assert caught.value.extra["field"] == "inputs[3].tensors.input"


def test_large_lists_are_heavy_and_arrays_are_not():
    reader = TensorReader(FLAT)
    assert not reader.is_heavy(TensorItem({"input": [0.0] * 784}))
    assert reader.is_heavy(TensorItem({"input": [[0.0] * 4] * (HEAVY_ELEMENTS // 2)}))
    assert not reader.is_heavy(TensorItem({"input": np.zeros((HEAVY_ELEMENTS, 4), np.float32)}))


def test_a_type_that_numpy_does_not_have_is_found_at_load():
    with pytest.raises(LoadFailed, match="complex4"):
        TensorReader((Spec("x", "complex4", ("N",)),))
