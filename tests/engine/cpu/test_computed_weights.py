"""Convolutions whose weights are computed, against the portable definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import engine
from engine.cpu.lower.rules import NoKernel
from tests.engine.cpu.programs import check, lower
from tests.engine.onnx_models import graph_of, model, node, normal, ort_run

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "whole panels": ((2, 5, 9, 8), (64, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "a tail": ((1, 16, 6, 6), (40, 16, 1, 1), {}),
    "a few filters": ((2, 3, 11, 7), (3, 3, 2, 3), {"strides": [2, 1]}),
    "one of each": ((1, 1, 4, 4), (1, 1, 1, 1), {}),
    "lanes to spare": ((1, 7, 5, 9), (71, 7, 3, 2), {"dilations": [1, 2], "pads": [0, 2, 1, 0]}),
    "groups": ((1, 12, 8, 8), (64, 6, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "wide groups": ((2, 9, 5, 5), (144, 3, 1, 1), {"group": 3}),
    "a signal": ((2, 6, 30), (20, 6, 5), {"pads": [2, 2]}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bias", [False, True])
def test_packed_by_the_run(name: str, bias: bool) -> None:
    shape, weights, attributes = CASES[name]
    feeds = {"x": normal(*shape), "w": normal(*weights, seed=1)}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    fixed = {"b": normal(weights[0], seed=2)} if bias else {}
    nodes = [node("Conv", inputs, ["y"], **attributes), node("Relu", ["y"], ["z"])]
    check(
        nodes,
        feeds,
        [("z", None)],
        fixed,
        shapes={"x": ["N", *shape[1:]]},
        tolerance=1e-4,
    )


def test_weights_that_other_nodes_make() -> None:
    """A modulated convolution: one set of filters per picture, as groups of one wide picture."""
    nodes = [
        node("Mul", ["w", "style"], ["m"]),  # (2, 16, 4, 3, 3)
        node("ReduceSumSquare", ["m", "axes"], ["s"], keepdims=1),
        node("Sqrt", ["s"], ["norm"]),
        node("Div", ["m", "norm"], ["d"]),
        node("Reshape", ["d", "filters"], ["f"]),
        node("Reshape", ["x", "wide"], ["xs"]),
        node("Conv", ["xs", "f"], ["c"], group=2, pads=[1, 1, 1, 1]),
        node("Reshape", ["c", "apart"], ["y"]),
    ]
    fixed = {
        "w": normal(1, 16, 4, 3, 3),
        "axes": np.array([2, 3, 4]),
        "filters": np.array([32, 4, 3, 3]),
        "wide": np.array([1, 8, 10, 10]),
        "apart": np.array([2, 16, 10, 10]),
    }
    data = model(nodes, [("x", [2, 4, 10, 10]), ("style", [2, 1, 4, 1, 1])], [("y", None)], fixed)
    feeds = {"x": normal(2, 4, 10, 10, seed=1), "style": normal(2, 1, 4, 1, 1, seed=2)}
    with engine.load(data, device="cpu") as loaded:
        (want,) = ort_run(data, feeds).values()
        np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-4, 1e-5)
        plan: Any = loaded._plan
        assert all(each.reason is None for each in plan.coverage)


def test_other_types_and_empty_weights_stay_portable() -> None:
    made = [node("Conv", ["x", "w"], ["y"])]
    half = model(made, [("x", [1, 8, 6, 6], 10), ("w", [4, 8, 1, 1], 10)], [("y", None, 10)])
    with pytest.raises(NoKernel, match="float32"):
        lower(graph_of(half))
    empty = model(made, [("x", [1, 8, 6, 6]), ("w", [0, 8, 1, 1])], [("y", None)])
    with pytest.raises(NoKernel, match="no kernel"):
        lower(graph_of(empty))


@pytest.mark.parametrize(
    ("shape", "attributes", "reason"),
    [
        ((8, 1, 3, 3), {"group": 8}, "groups of 1 filters"),
        (("F", 8, 3, 3), {}, "known only at run time"),
    ],
)
def test_what_stays_portable(
    shape: tuple[int | str, ...], attributes: dict[str, Any], reason: str
) -> None:
    nodes = [node("Conv", ["x", "w"], ["y"], **attributes)]
    data = model(nodes, [("x", ["N", 8, 6, 6]), ("w", shape)], [("y", None)])
    with pytest.raises(NoKernel, match=reason):
        lower(graph_of(data))
