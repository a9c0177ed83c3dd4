"""Floats that are rounded to bytes next have the reference's bits, so the bytes are the same.

Without that one byte in some hundred thousand differs by a step, and a deep network spreads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

import engine
from engine.cpu.kernels.softmax import ROOM
from tests.engine.onnx_models import model, node
from tests.engine.quantized_models import transformer_block

Feeds = dict[str, np.ndarray]
BYTES = onnx.TensorProto.UINT8
RARE = 1e-4  # share of floats that may differ: both sides round numbers known to some 1e-12


def both(data: bytes, feeds: Feeds) -> tuple[Feeds, Feeds]:
    """What the device gives, and the reference."""
    with engine.load(data, device="cpu", threads=1) as native:
        got = dict(native.run(feeds))
    with engine.load(data, device="reference") as reference:
        return got, dict(reference.run(feeds))


def quantized(
    op: str, inputs: list[str], shape: Sequence[object], scale: float, **options: object
) -> bytes:
    """An operator whose result is rounded to bytes; both are outputs. `w` and `b` are fixed."""
    rng = np.random.default_rng(3)
    width = shape[-1] if isinstance(shape[-1], int) else 1
    weights = {
        "scale": np.float32(scale).reshape(()),
        "zero": np.array(120, np.uint8),
        "w": rng.standard_normal(width).astype(np.float32),
        "b": rng.standard_normal(width).astype(np.float32),
    }
    nodes = [
        node(op, inputs, ["f"], **options),
        node("QuantizeLinear", ["f", "scale", "zero"], ["y"]),
    ]
    return model(nodes, [("x", shape)], [("f", shape), ("y", shape, BYTES)], weights, opset=17)


def check(data: bytes, x: np.ndarray) -> None:
    got, want = both(data, {"x": x})
    np.testing.assert_array_equal(got["y"], want["y"])
    same = (got["f"] == want["f"]) | (np.isnan(got["f"]) & np.isnan(want["f"]))
    assert (~same).mean() <= RARE


@pytest.mark.parametrize("width", [1, 33, 768])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_layer_normalization(width: int, mean: float) -> None:
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((70, width)) * 3 + mean).astype(np.float32)
    check(quantized("LayerNormalization", ["x", "w", "b"], ["N", width], 0.013), x)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("width", [7, 128, ROOM + 1])
def test_softmax_of_rows(width: int, is_open: bool) -> None:
    """Rows of known and of open width, those too long to keep their exponentials, and masks."""
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((60, width)) * 4).astype(np.float32)
    x[::3, 1::2] = -1e4
    x[::5, 2::3] = -np.inf
    shape = ["N", "L" if is_open else width]
    check(quantized("Softmax", ["x"], shape, 1 / 255 / 8), x)


def test_softmax_across_rows() -> None:
    x = np.random.default_rng(1).standard_normal((9, 21, 37)).astype(np.float32) * 5
    check(quantized("Softmax", ["x"], ["N", 21, 37], 1 / 255 / 4, axis=1), x)


def test_softmax_of_what_is_no_number() -> None:
    x = np.array([[np.nan, 0, 1], [-np.inf] * 3, [np.inf, 0, 1], [1e30, -1e30, 0]], np.float32)
    got, want = both(quantized("Softmax", ["x"], ["N", 3], 1 / 255), {"x": x})
    np.testing.assert_array_equal(got["f"], want["f"])


@pytest.mark.parametrize("op", ["Erf", "Tanh", "Sigmoid", "Gelu", "Softplus", "Elu", "Mish"])
def test_functions(op: str) -> None:
    """65,536 steps, so that last bits of some hundred thousand values would show."""
    x = np.random.default_rng(2).standard_normal((4000, 50)).astype(np.float32) * 3
    weights = {"scale": np.float32(2e-4).reshape(()), "zero": np.array(16_000, np.uint16)}
    nodes = [node(op, ["x"], ["f"]), node("QuantizeLinear", ["f", "scale", "zero"], ["y"])]
    kind = onnx.TensorProto.UINT16
    data = model(nodes, [("x", ["N", 50])], [("y", ["N", 50], kind)], weights, opset=21)
    got, want = both(data, {"x": x})
    np.testing.assert_array_equal(got["y"], want["y"])


def test_a_deep_transformer_keeps_to_the_reference() -> None:
    """Twelve blocks, each fed with what the one before gave: no byte goes astray on the way."""
    rng = np.random.default_rng(5)
    items, length = 8, 31
    x = rng.standard_normal((items, length, 24)).astype(np.float32)
    mask = np.where(np.arange(length) < 27, 0.0, -1e4).astype(np.float32)
    mask = np.broadcast_to(mask, (items, 1, 1, length)).copy()
    data = transformer_block(2)
    with engine.load(data, device="cpu") as native, engine.load(data, device="reference") as oracle:
        got = want = x
        for _ in range(12):
            got = native.run({"x": got, "mask": mask})["y"]
            want = oracle.run({"x": want, "mask": mask})["y"]
    np.testing.assert_array_equal(got, want)
