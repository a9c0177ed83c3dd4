"""Addresses of arrays, however they came about."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from engine.cpu.addresses import address_of


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4), np.float32)[1:, 2:],
        np.array(7, np.int64),
        np.zeros((0, 5), np.float64),
        np.frombuffer(b"12345678", np.uint8)[3:],
        np.frombuffer(mmap.mmap(-1, 4096), np.int32),
        np.ma.masked_array([1.0, 2.0]),
        np.zeros(4, np.float32)[::-1],
    ],
    ids=["view", "scalar", "empty", "bytes", "mapped", "subclass", "backwards"],
)
def test_it_is_what_the_array_says(array: np.ndarray) -> None:
    assert address_of(array) == array.ctypes.data
