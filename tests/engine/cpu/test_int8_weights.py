"""Models whose products compute in bytes: native code gives what the definitions give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine
from tests.engine.onnx_models import normal
from tests.engine.passes.test_integer_weights import IDS, tied
from tests.engine.quantized_models import Qdq


def gated(width: int = 70) -> bytes:
    """Products whose widths are no whole vectors, a residual and an activation joined to them."""
    q = Qdq(3)
    x = q.add("Add", "x", q.constant("one", np.ones(width, np.float32)))
    gate = q.add("Sigmoid", q.add("MatMul", x, q.fixed((width, width), 1, spread=0.01)))
    wide = q.add("Mul", gate, q.add("MatMul", x, q.fixed((width, width), 1, spread=0.01)))
    y = q.add("Add", x, q.add("MatMul", wide, q.fixed((width, width), None, np.uint8, 120)))
    return q.build([("x", ["N", "S", width])], [(y, ["N", "S", width])])


def test_a_tied_table_against_the_reference() -> None:
    want = engine.load(tied(), device="reference", precision="int8").run(IDS)
    native = engine.load(tied(), device="cpu", precision="int8", threads=1)
    for name, value in native.run(IDS).items():
        np.testing.assert_array_equal(value, want[name])
    (whole,) = native.run(IDS).values()
    for row in range(3):  # a row alone gives the same bits
        (alone,) = native.run({"ids": IDS["ids"][row : row + 1]}).values()
        assert alone.tobytes() == whole[row : row + 1].tobytes()


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (2, 3), (5, 17)])
def test_any_rows_against_the_reference(shape: tuple[int, int]) -> None:
    feeds = {"x": normal(*shape, 70, seed=shape[1])}
    (want,) = engine.load(gated(), device="reference", precision="int8").run(feeds).values()
    (got,) = engine.load(gated(), device="cpu", precision="int8", threads=2).run(feeds).values()
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * np.abs(want).max(initial=1))


def test_a_child_and_a_cache_keep_the_precision(tmp_path: Path) -> None:
    results = {}
    for precision in ("int8", "fp32", "int8"):
        loaded = engine.load(tied(), precision=precision, isolate=True, cache_dir=tmp_path)
        (value,) = loaded.run(IDS).values()
        np.testing.assert_array_equal(value, results.setdefault(precision, value))
    assert np.abs(results["int8"] - results["fp32"]).max() > 0
