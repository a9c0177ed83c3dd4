"""Which values count as different, and how that is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.comparison import Side, Tolerance, compare_sides

NAN, INF = float("nan"), float("inf")


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (floats(1, NAN, INF), floats(1, NAN, INF)),
        (floats(1e6, 1), floats(1e6, 1.5)),  # small beside the largest
        (floats(), floats()),
        (np.array(3), np.array(3)),
        (np.array(["a"], object), np.array(["a"], object)),
        (np.array([1.0], np.float16), np.array([1.002], np.float16)),
        ([floats(1), floats(2, 3)], [floats(1), floats(2, 3)]),
        (None, None),
        ({"a": 1.0}, {"a": 1.0}),
        (np.array([1 + 2j], np.complex64), np.array([1 + 2j], np.complex64)),
    ],
)
def test_same(left: Any, right: Any) -> None:
    assert compare_sides(Side("a", {"x": left}), Side("b", {"x": right})).first is None


@pytest.mark.parametrize(
    ("left", "right", "reason"),
    [
        (floats(1, 2), floats(1, 2.5), "1 of 2 elements; the largest at [1]: 2.0 against 2.5"),
        (floats(1, NAN), floats(1, 2), "nan against 2.0"),
        (floats(INF), floats(-INF), "inf against -inf"),
        (np.array([5]), np.array([6]), "5 against 6"),
        (floats(1), floats(1, 2), "shape [1] against [2]"),
        (floats(1), np.array([1.0]), "type float32 against float64"),
        (np.array(["a"], object), np.array(["b"], object), "texts differ"),
        ([floats(1), floats(2)], [floats(1), floats(3)], "item 1: 1 of 1 elements"),
        ([floats(1)], [floats(1), floats(2)], "list against list"),
        (None, floats(1), "NoneType against ndarray"),
        (np.array([True]), np.array([False]), "True against False"),
    ],
)
def test_different(left: Any, right: Any, reason: str) -> None:
    found = compare_sides(Side("a", {"x": left}), Side("b", {"x": right})).first
    assert found is not None and reason in found.reason


def test_only_shared_names_count_and_the_order_is_that_of_the_left_side() -> None:
    left = Side("a", {"c": floats(1), "mine": floats(1), "b": floats(1), "a": floats(1)})
    right = Side("b", {"a": floats(2), "b": floats(3), "c": floats(1), "other": floats(1)})
    found = compare_sides(left, right)
    assert found.compared == 3 and [d.value for d in found.differences] == ["b", "a"]
    assert found.first is not None and found.first.largest == 2
    assert compare_sides(left, right, Tolerance(rtol=10.0)).first is None
