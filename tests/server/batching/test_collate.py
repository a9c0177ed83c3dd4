import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batching.collate import OutputNotSeparable, batch_key, collate, cut, join, split

X = frozenset({"x"})
Y = frozenset({"y"})


def rows(count, start=0.0):
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3) + start


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_splitting_undoes_collating(counts):
    members = [{"x": rows(count, 100.0 * i)} for i, count in enumerate(counts)]
    whole = collate(members, X)
    shares = split({"y": whole["x"]}, counts, Y)
    for member, share in zip(members, shares, strict=True):
        np.testing.assert_array_equal(share["y"], member["x"])


@given(st.integers(1, 40), st.integers(1, 9))
def test_joining_undoes_cutting(count, step):
    pieces = cut({"x": rows(count), "t": np.float32(7)}, X, count, step)
    assert all(size <= step and len(piece["x"]) == size for piece, size in pieces)
    assert all(piece["t"] == 7 for piece, _ in pieces)
    np.testing.assert_array_equal(join([{"y": p["x"]} for p, _ in pieces])["y"], rows(count))


def test_a_single_member_is_not_copied():
    array = rows(4)
    assert collate([{"x": array}], X)["x"] is array
    assert split({"y": array}, [4], Y)[0]["y"] is array


def test_a_single_member_that_lies_askew_is_copied():
    body = np.frombuffer(b"x" + rows(2).tobytes(), np.float32, offset=1).reshape(2, 3)
    assert not body.flags.aligned
    array = collate([{"x": body}], X)["x"]
    assert array.flags.aligned
    np.testing.assert_array_equal(array, rows(2))


def test_shares_are_views_of_the_run():
    array = rows(4)
    shares = split({"y": array}, [1, 3], Y)
    assert all(np.shares_memory(share["y"], array) for share in shares)


def test_inputs_outside_the_batch_are_passed_once():
    whole = collate([{"x": rows(1), "t": np.float32(3)}, {"x": rows(2), "t": np.float32(3)}], X)
    assert whole["x"].shape == (3, 3)
    assert whole["t"] == 3


@pytest.mark.parametrize(
    "output",
    [np.zeros((4, 2)), np.float32(0)],
    ids=["other number of rows", "scalar"],
)
def test_outputs_without_one_row_per_row_are_not_shared_out(output):
    with pytest.raises(OutputNotSeparable, match="'y'"):
        split({"y": output}, [1, 2], Y)


def test_outputs_that_the_engine_did_not_prove_are_not_shared_out():
    with pytest.raises(OutputNotSeparable):
        split({"mean": np.zeros(3)}, [1, 2], Y)


SAME = {"x": rows(2), "t": np.array([1, 2])}


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ({"x": rows(5), "t": np.array([1, 2])}, True),
        ({"t": np.array([1, 2]), "x": rows(2)}, True),
        ({"x": rows(2).astype(np.float64), "t": np.array([1, 2])}, False),
        ({"x": rows(2)[:, :2], "t": np.array([1, 2])}, False),
        ({"x": rows(2), "t": np.array([1, 3])}, False),
        ({"x": rows(2), "t": np.array([[1, 2]])}, False),
        ({"x": rows(2)}, False),
        ({"x": rows(2), "t": np.array([1, 2]), "u": np.array(0)}, False),
    ],
    ids=["rows", "order", "dtype", "axis", "value", "shape", "missing", "extra"],
)
def test_what_two_requests_must_have_in_common(other, equal):
    assert (batch_key(SAME, X, None) == batch_key(other, X, None)) is equal


def test_other_fetches_are_another_batch():
    assert batch_key(SAME, X, None) != batch_key(SAME, X, ("y",))


def test_strings_outside_the_batch_compare_by_value():
    def key(text):
        return batch_key({"x": rows(1), "s": np.array([text], object)}, X, None)

    assert key("ab" + "c") == key("abc")
    assert key("abc") != key("abd")
