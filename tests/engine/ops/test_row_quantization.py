"""Rows as bytes: each row by its own range, zero exact, what is no number still seen behind."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel
from engine.ops.fused import FUSED_DOMAIN
from engine.ops.row_quantization import SMALLEST
from tests.engine.onnx_models import FLOAT, model, node, normal
from tests.engine.passes.comparing import compiled, run


def quantize(x: np.ndarray, dtype: int = FLOAT) -> tuple[np.ndarray, np.ndarray]:
    nodes = [node("QuantizeRows", ["x"], ["q", "s"], domain=FUSED_DOMAIN)]
    shape: list[int | str] = ["N", *x.shape[1:]]
    outputs = [("q", None, 2), ("s", None)]
    data = model(nodes, [("x", shape, dtype)], outputs, domains={FUSED_DOMAIN: 1})
    found = run(compiled(data, 0), {"x": x})
    return found["q"], found["s"]


@pytest.mark.parametrize("shape", [(3, 1), (4, 17), (2, 3, 64), (0, 5)])
def test_a_row_comes_back_within_half_a_step(shape: tuple[int, ...]) -> None:
    x = normal(*shape, seed=len(shape)) * np.logspace(-3, 3, max(shape[0], 1))[: shape[0]].reshape(
        -1, *[1] * (len(shape) - 1)
    ).astype(np.float32)
    q, s = quantize(x)
    assert q.dtype == np.uint8 and q.shape == x.shape and s.shape == (*x.shape[:-1], 1)
    if x.size:
        np.testing.assert_allclose(s[..., 0], np.abs(x).max(-1) / 127, rtol=1e-6)
        assert np.abs((q - np.float32(128)) * s - x).max() <= 0.501 * s.max()
        assert (np.abs(q.astype(int) - 128).max(-1) == 127).all()


def test_rows_do_not_depend_on_each_other() -> None:
    x = normal(5, 40, seed=1)
    q, s = quantize(x)
    x[[0, 2, 4]] *= 1000
    again, scales = quantize(x)
    np.testing.assert_array_equal(again[[1, 3]], q[[1, 3]])
    np.testing.assert_array_equal(scales[[1, 3]], s[[1, 3]])


def test_zeros_and_what_is_hardly_more() -> None:
    x = np.array([[0, 0, 0], [SMALLEST / 2, 0, -SMALLEST / 2], [SMALLEST * 2, 0, 1e-40]])
    q, s = quantize(x.astype(np.float32))
    np.testing.assert_array_equal(q, [[128] * 3, [128] * 3, [255, 128, 128]])
    assert np.isfinite(s).all()


def test_what_is_no_number_stays_visible() -> None:
    x = np.array([[1, np.nan, 2], [1, np.inf, -1], [3, 2, 1]], np.float32)
    q, s = quantize(x)
    assert np.isnan(s[0]) and np.isinf(s[1]) and np.isfinite(s[2])
    assert q[1].tolist() == [128, 0, 128]  # so that 0 * inf is no number either


def test_an_empty_row_has_no_range() -> None:
    q, s = quantize(np.zeros((3, 0), np.float32))
    assert q.shape == (3, 0) and s.tolist() == [[0], [0], [0]]


def test_other_types_are_refused() -> None:
    with pytest.raises(InvalidModel, match="rows of float64, expected float32"):
        quantize(np.zeros((2, 3)), 11)
