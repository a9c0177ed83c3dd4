"""The window arithmetic by itself: what no whole operator reaches."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ir.types import evaluate, symbol
from engine.ops.cores.convolution import convolve
from engine.ops.cores.pool import lowest
from engine.ops.cores.windows import output_size, pad_spatial, resolve_window, same_padding
from tests.engine.ops.single_node import floats


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("extent", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_sizes_are_the_same_for_numbers_and_symbols(extent, stride, ceil_mode):
    n = symbol("n")
    symbolic = output_size(n, extent, stride, 1, 2, ceil_mode)
    for size in range(1, 20):
        if size + 3 >= extent:
            expected = output_size(size, extent, stride, 1, 2, ceil_mode)
            assert evaluate(symbolic, {"n": size}) == expected


def test_same_padding_makes_as_many_outputs_as_strides():
    for size in range(1, 12):
        for stride in range(1, 4):
            begin, end = same_padding(size, 3, stride, upper=True)
            assert output_size(size, 3, stride, begin, end) == -(-size // stride)
            assert same_padding(size, 3, stride, upper=False) == (end, begin)


def test_negative_padding_crops():
    x = floats(2, 5, 6)
    np.testing.assert_array_equal(pad_spatial(np, x, (-1, 2), (-2, -3))[:, :, 2:], x[:, 1:3, :3])
    assert pad_spatial(np, x, (-9, 0), (0, 0)).shape == (2, 0, 6)


def test_lowest_loses_every_maximum():
    assert lowest(np, np.float32) == -np.inf
    assert lowest(np, np.uint8) == 0
    assert lowest(np, np.int8) == -128
    assert lowest(np, bool) is False


def test_an_image_is_convolved_the_same_alone_and_in_a_batch():
    x, w = floats(5, 8, 11, 9), floats(6, 8, 3, 3, seed=1)
    window = resolve_window((11, 9), (3, 3), pads=(1, 1, 1, 1))
    together = convolve(np, x, w, window)
    for k in range(5):
        np.testing.assert_array_equal(together[k], convolve(np, x[k : k + 1], w, window)[0])
