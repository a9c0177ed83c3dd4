"""Which steps take a batch one picture at a time."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.itemwise import FEW_WEIGHT_BYTES
from engine.cpu.plan import CpuPlan
from tests.engine.onnx_models import model

CHANNELS = 64


def squeezing(narrow: int) -> bytes:
    """A convolution whose channels are scaled by what two products make of their means."""
    rng = np.random.default_rng(narrow)

    def weights(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[1]), np.float32)

    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["a"]),
        make("GlobalAveragePool", ["a"], ["mean"]),
        make("Conv", ["mean", "down"], ["d"]),
        make("Relu", ["d"], ["r"]),
        make("Conv", ["r", "up"], ["u"]),
        make("Sigmoid", ["u"], ["gate"]),
        make("Mul", ["a", "gate"], ["m"]),
        make("Conv", ["m", "out"], ["y"]),
    ]
    fixed = {
        "w": weights(CHANNELS, 16, 1, 1),
        "down": weights(narrow, CHANNELS, 1, 1),
        "up": weights(CHANNELS, narrow, 1, 1),
        "out": weights(16, CHANNELS, 1, 1),
    }
    return model(nodes, [("x", ("N", 16, 9, 9))], [("y", None)], fixed)


def cut_of(loaded: engine.Model) -> tuple[int, int]:
    """Steps that take one picture at a time, and all steps."""
    plan = loaded._plan
    assert isinstance(plan, CpuPlan)
    (region,) = plan._regions
    return region.binder._cut, len(region.program.steps)


@pytest.mark.parametrize("narrow", [16, FEW_WEIGHT_BYTES // 8 // CHANNELS])
def test_weights_of_single_pixels_do_not_end_the_cut(narrow: int) -> None:
    """They are many times the means that they are multiplied with, and still next to nothing."""
    loaded = engine.load(squeezing(narrow), device="cpu")
    cut, steps = cut_of(loaded)
    assert cut >= steps - 1  # all but what writes the output, a plain array


def test_large_weights_are_shared_by_the_batch() -> None:
    loaded = engine.load(squeezing(2 * FEW_WEIGHT_BYTES // 4 // CHANNELS), device="cpu")
    cut, steps = cut_of(loaded)
    assert 0 < cut < steps - 3


@pytest.mark.parametrize("narrow", [16, 2 * FEW_WEIGHT_BYTES // 4 // CHANNELS])
def test_a_picture_is_the_same_alone_and_in_a_batch(narrow: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, 16, 9, 9), dtype=np.float32)
    source = squeezing(narrow)
    loaded = engine.load(source, device="cpu", threads=2)
    whole = loaded.run({"x": x})["y"]
    for i in range(len(x)):
        assert loaded.run({"x": x[i : i + 1]})["y"].tobytes() == whole[i].tobytes()
    expected = engine.load(source, device="reference").run({"x": x})["y"]
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)
