"""Kernels that move and gather data, run with narrower vectors than this machine's own."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.target import Target, target_for
from tests.engine.cpu.harness import skip_where_missing
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal


@pytest.fixture(params=["sse2", "avx2", "neon"])
def target(request: pytest.FixtureRequest) -> Target:
    skip_where_missing(request.param)
    return target_for(request.param)


def test_pictures(target: Target) -> None:
    nodes = [
        node("MaxPool", ["x"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Resize", ["m", "", "s"], ["r"], mode="linear"),
        node("Concat", ["r", "r"], ["c"], axis=1),
        node("Pad", ["c", "p"], ["y"], mode="reflect"),
    ]
    weights = {
        "s": np.array([1, 1, 2, 2], np.float32),
        "p": np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64),
    }
    for channels in (3, 21):
        x = normal(2, channels, 9, 10)
        check(nodes, {"x": x}, [("y", list("nchw"))], weights, target=target, tolerance=1e-6)


def test_arrays(target: Target) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("Concat", ["t", "t"], ["c"], axis=2),
        node("Gather", ["c", "i"], ["y"], axis=1),
    ]
    weights = {"i": np.array([-1, 0, 3], np.int64)}
    check(nodes, {"x": normal(2, 37, 21)}, [("y", [2, 3, 74])], weights, target=target)


@pytest.mark.parametrize("queries", [2, 3, 21])
def test_attention(target: Target, queries: int) -> None:
    feeds = {
        "q": normal(2, queries, 20),
        "k": normal(2, 300, 20, seed=1),
        "v": normal(2, 300, 27, seed=2),
        "m": normal(queries, 300, seed=3),
    }
    scores = "x0:float32; x1:float32; add #0 #1"
    nodes = [node("Attention", list(feeds), ["y"], scores=scores, domain="millrace")]
    out = [("y", [2, queries, 27])]
    check(nodes, feeds, out, domains={"millrace": 1}, target=target, tolerance=2e-6)


def test_recurrent(target: Target) -> None:
    weights = {"w": normal(1, 80, 7) / 3, "r": normal(1, 80, 20, seed=1) / 4}
    nodes = [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=20)]
    out = [("y", list("tdbh"))]
    check(nodes, {"x": normal(5, 6, 7)}, out, weights, target=target, tolerance=2e-6)
