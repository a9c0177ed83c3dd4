"""Inputs whose dims are expressions of other dims, and random inputs of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from engine.dtypes import DType
from engine.errors import InvalidInput
from engine.feeds import FeedChecker
from engine.ir.graph import Value
from engine.ir.types import TensorType, symbol
from engine.random_feeds import random_feeds
from engine.session import TensorSpec

N = symbol("N")


def test_dims_that_depend_on_others_are_checked() -> None:
    inputs = [
        Value("a", TensorType(DType.FLOAT32, (N,))),
        Value("b", TensorType(DType.FLOAT32, (2 * N + 1,))),
        Value("c", TensorType(DType.FLOAT32, (symbol("M") * 2,))),
    ]
    check = FeedChecker(inputs)
    feeds = {
        "a": np.zeros(3, np.float32),
        "b": np.zeros(7, np.float32),
        "c": np.zeros(5, np.float32),
    }
    check(feeds)
    with pytest.raises(InvalidInput, match=r"'b': dim 0 must be 2\*N\+1 for .*got 6"):
        check({**feeds, "b": np.zeros(6, np.float32)})


def test_random_inputs_have_the_types_and_sizes_asked_for() -> None:
    specs = [
        TensorSpec("f", "float16", ("N", 3)),
        TensorSpec("i", "int64", (2,)),
        TensorSpec("b", "bool", ()),
        TensorSpec("t", "object", ("M",)),
        TensorSpec("any", "float32", None),
    ]
    feeds = random_feeds(specs, {"N": 4})
    assert {k: (str(v.dtype), v.shape) for k, v in feeds.items()} == {
        "f": ("float16", (4, 3)),
        "i": ("int64", (2,)),
        "b": ("bool", ()),
        "t": ("object", (1,)),
        "any": ("float32", ()),
    }
