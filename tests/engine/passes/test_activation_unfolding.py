"""What ONNX Runtime has fused comes apart, and means the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import engine
from tests.engine.onnx_models import model, node, normal, ort_run
from tests.engine.passes.comparing import compiled, ops

DOMAINS = {"com.microsoft": 1}
CONV = {"pads": [1, 1, 1, 1], "strides": [2, 1], "group": 2}
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "": (),
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": (0.2,),
    "HardSigmoid": (0.3, 0.4),
    "Clip": (-0.5, 0.7),
}


def conv(activation: str, numbers: tuple[float, ...], residual: bool, bias: bool = True) -> bytes:
    own: dict[str, Any] = dict(CONV)
    if activation:
        own["activation"] = activation
    if numbers:
        own["activation_params"] = list(numbers)
    inputs = ["x", "w", "b" if bias else "", "z" if residual else ""]
    while not inputs[-1]:
        inputs.pop()
    made = node("FusedConv", inputs, ["y"], domain="com.microsoft", **own)
    given = [("x", ["N", 4, 7, 6]), *([("z", ["N", 32, 4, 6])] if residual else [])]
    weights = {"w": normal(32, 2, 3, 3, seed=1), "b": normal(32, seed=2)}
    return model([made], given, [("y", None)], weights, domains=DOMAINS)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions(activation: str, residual: bool) -> None:
    data = conv(activation, ACTIVATIONS[activation], residual)
    assert "FusedConv" not in ops(compiled(data, 2))
    feeds = {"x": normal(3, 4, 7, 6)}
    if residual:
        feeds["z"] = normal(3, 32, 4, 6, seed=4)
    (want,) = ort_run(data, feeds).values()
    with engine.load(data, device="cpu") as loaded:
        np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-4, 1e-5)
        plan: Any = loaded._plan
        assert all(each.reason is None for each in plan.coverage)


def test_absent_inputs_stay_absent() -> None:
    data = conv("Relu", (), residual=True, bias=False)
    feeds = {"x": normal(1, 4, 7, 6), "z": normal(1, 32, 4, 6, seed=4)}
    (want,) = ort_run(data, feeds).values()
    with engine.load(data, device="reference") as loaded:
        np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("activation", "own"),
    [
        ("", {}),
        ("Relu", {}),
        ("LeakyRelu", {"activation_alpha": 0.3}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
        ("Elu", {"activation_alpha": 0.7}),
    ],
)
def test_products(activation: str, own: dict[str, float]) -> None:
    more: dict[str, Any] = {**own, **({"activation": activation} if activation else {})}
    made = node(
        "FusedGemm", ["x", "w", "c"], ["y"], domain="com.microsoft", transB=1, alpha=0.5, **more
    )
    weights = {"w": normal(6, 5, seed=1), "c": normal(6, seed=2)}
    data = model([made], [("x", ["N", 5])], [("y", None)], weights, domains=DOMAINS)
    assert "FusedGemm" not in ops(compiled(data, 2))
    feeds = {"x": normal(4, 5)}
    with (
        engine.load(data, device="reference", outputs=engine.ALL) as plain,
        engine.load(data, device="cpu") as native,
    ):
        want = plain.run(feeds)["y"]
        np.testing.assert_allclose(native.run(feeds)["y"], want, 1e-5, 1e-6)


def test_what_relies_on_defaults_or_has_no_operator_stays() -> None:
    for activation, numbers in (("LeakyRelu", ()), ("ScaledTanh", (1.0, 0.5)), ("Selu", ())):
        data = conv(activation, numbers, residual=False)
        assert ops(compiled(data, 2)) == ["FusedConv"]


def test_narrow_floats_stay() -> None:
    made = node("FusedGemm", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu")
    weights = {"w": normal(5, 6).astype(np.float16)}
    data = model([made], [("x", ["N", 5], 10)], [("y", None, 10)], weights, domains=DOMAINS)
    assert ops(compiled(data, 2)) == ["FusedGemm"]
