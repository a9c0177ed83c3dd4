from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.errors import InvalidInput
from server.tasks import values
from server.tasks.values import to_array


def read(value, dtype: str) -> np.ndarray:
    return to_array(value, np.dtype(dtype), "tensors.x")


FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["int8", "uint8", "int16", "int32", "int64", "uint64"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [[1, 2], [1.5, 2], [[0.25], [4]], 3, 0.5, [[]], []])
def test_numbers_become_floats(value, dtype):
    got = read(value, dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.array(value, dtype))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_keep_their_values(dtype):
    bounds = np.iinfo(dtype)
    got = read([bounds.min, 0, bounds.max], dtype)
    assert got.dtype == dtype
    assert got.tolist() == [bounds.min, 0, bounds.max]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_out_of_range_are_refused(dtype):
    bounds = np.iinfo(dtype)
    for value in (bounds.min - 1, bounds.max + 1):
        with pytest.raises(InvalidInput):
            read([0, value], dtype)


def test_the_message_names_field_value_and_range():
    with pytest.raises(InvalidInput, match=r"tensors\.x: 300 does not fit uint8") as caught:
        read([1, 300], "uint8")
    assert caught.value.extra == {"field": "tensors.x", "expected": "0..255", "got": 300}


@pytest.mark.parametrize("value", [[1.0], [1, 2.5], np.array([1.0])])
def test_floats_never_become_integers(value):
    with pytest.raises(InvalidInput, match=r"expected integers \(int64\), got"):
        read(value, "int64")


def test_nan_and_infinity_pass_where_the_type_has_them():
    got = read([float("nan"), float("inf"), -float("inf"), 1], "float32")
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, -np.inf, 1], np.float32))


def test_null_is_nan_in_floats_only():
    np.testing.assert_array_equal(
        read([[1, None], [None, 2.5]], "float16"), [[1, np.nan], [np.nan, 2.5]]
    )
    with pytest.raises(InvalidInput):
        read([1, None], "int64")


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e39, "float32"), (70_000, "float16"), (10**400, "float64")]
)
def test_what_would_become_infinite_is_refused(value, dtype):
    with pytest.raises(InvalidInput, match="does not fit"):
        read([0.0, float("inf") if value < 1e300 else 0.0, value], dtype)


@pytest.mark.parametrize(
    "value", [["1.5"], [[1.0, "2"]], "3", [True], [{"a": 1}], [1.5, [1]], {"a": 1}, None]
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_what_is_no_number_is_refused(value, dtype):
    with pytest.raises(InvalidInput) as caught:
        read(value, dtype)
    assert caught.value.extra["field"] == "tensors.x"


def test_booleans():
    np.testing.assert_array_equal(read([True, False], "bool"), [True, False])
    with pytest.raises(InvalidInput, match="true and false"):
        read([1, 0], "bool")


def test_strings():
    got = read([["a", "bc"]], "object")
    assert got.dtype == object
    assert got.tolist() == [["a", "bc"]]
    assert read(np.array([b"x"]), "object").tolist() == [b"x"]
    for wrong in ([1], ["a", 1, None], [None]):
        with pytest.raises(InvalidInput):
            read(wrong, "object")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([[1, 2], [3]], r"\[1\] \(a list of 1 beside a list of 2\)"),
        ([[[1], [2]], [[3], [4, 5]]], r"\[1\]\[1\] \(a list of 2 beside a list of 1\)"),
        ([[1], 2], r"\[1\] \(no list beside a list of 1\)"),
    ],
)
def test_ragged_lists_are_named(value, where):
    with pytest.raises(InvalidInput, match=f"lists of different lengths at {where}"):
        read(value, "float32")


def test_nesting_without_end_is_refused():
    value: list = [1.0]
    for _ in range(200):
        value = [value]
    with pytest.raises(InvalidInput, match="nested lists"):
        read(value, "float32")


def test_arrays_of_the_right_type_are_not_copied():
    array = np.ones(3, np.float32)
    assert read(array, "float32") is array


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(max_dims=4, max_side=5),
        elements=st.floats(-60_000, 60_000, width=16),
    ),
    st.sampled_from(FLOATS),
)
def test_lists_and_arrays_of_the_same_numbers_read_the_same(array, dtype):
    np.testing.assert_array_equal(read(array.tolist(), dtype), array.astype(dtype))
    np.testing.assert_array_equal(read(array, dtype), array.astype(dtype))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from([*FLOATS, *INTEGERS, "bool", "object"]))
def test_any_json_is_read_or_refused(value, dtype):
    try:
        got = read(value, dtype)
    except InvalidInput as error:
        assert error.extra["field"] == "tensors.x"
    else:
        assert got.dtype == dtype


def python_calls(values: list[float]) -> int:
    """Return how many calls, of Python or C, reading the values takes."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        to_array(values, np.dtype("float32"), "x")
    finally:
        sys.setprofile(None)
    return count


def test_no_python_runs_for_each_element():
    assert python_calls([0.5] * 784) == python_calls([0.5] * 8) < 30


_numbers = st.floats(allow_nan=True) | st.integers(-(2**70), 2**70) | st.booleans()
_elements = _numbers | st.none() | st.text(max_size=2) | st.lists(st.floats(), max_size=2)
_rows = st.lists(st.floats(), max_size=6) | st.lists(_elements, max_size=6)


@example([0.0, -(2**63) - 1, False])  # an integer of more than 64 bits: no quick way
@given(_rows | st.lists(_rows, max_size=2))
def test_the_quick_way_for_rows_of_floats_agrees_with_the_general_way(value):
    quick = _outcome(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_plain_row", lambda value: None)
        assert _outcome(value) == quick


def _outcome(value):
    try:
        array = to_array(value, np.dtype(np.float32), "x")
    except InvalidInput as error:
        return error.body()
    return array.dtype, array.shape, array.tobytes()
