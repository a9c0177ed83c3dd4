"""Pooling over windows, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.pooling import Pool, Taps
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

LANES = host_target().lanes

WINDOWS: list[dict[str, object]] = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 1, 2, 0], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [1, 2], "dilations": [2, 3], "pads": [2, 1, 3, 4]},
    {"kernel_shape": [7, 5], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [1, 1], "strides": [3, 3]},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [3, 3, 3, 3]},
]


@pytest.mark.parametrize("window", WINDOWS)
def test_max(window: dict[str, object]) -> None:
    channels = LANES + 3
    x = normal(2, channels, 9, 11)
    x[0, 1, 4, 4], x[1, 2, 8, 10], x[0, 0, :2, :2] = np.nan, np.nan, -np.inf
    nodes = [node("MaxPool", ["x"], ["y"], **window)]
    check(nodes, {"x": x}, [("y", ["N", channels, "h", "w"])], borders={"y": 1})


@pytest.mark.parametrize(("window", "counts"), [(w, k % 2) for k, w in enumerate(WINDOWS[:-1])])
def test_mean(window: dict[str, object], counts: int) -> None:
    x = normal(2, LANES + 3, 9, 11)
    nodes = [node("AveragePool", ["x"], ["y"], count_include_pad=counts, **window)]
    shapes = {"x": ["N", LANES + 3, 9, 11]}
    check(nodes, {"x": x}, [("y", ["N", LANES + 3, "h", "w"])], shapes=shapes, tolerance=1e-6)


def test_windows_on_windows() -> None:
    """The second reads a picture with a border and channels that mean nothing."""
    nodes = [
        node("MaxPool", ["x"], ["m"], kernel_shape=[2, 2]),
        node("AveragePool", ["m"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    check(nodes, {"x": normal(1, 5, 6, 6)}, [("y", [1, 5, 5, 5])], borders={"m": 2}, tolerance=1e-6)


def test_signals() -> None:
    nodes = [
        node("MaxPool", ["x"], ["m"], kernel_shape=[3], strides=[2], pads=[1, 0], dilations=[2]),
        node("AveragePool", ["m"], ["y"], kernel_shape=[2], auto_pad="SAME_UPPER"),
    ]
    shapes = {"x": ["N", 20, 33]}
    check(nodes, {"x": normal(2, 20, 33)}, [("y", ["N", 20, "l"])], shapes=shapes, tolerance=1e-6)


def test_what_has_no_kernel() -> None:
    pool = {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}
    for kind, x in ((2, np.zeros((1, 3, 4, 5), np.uint8)), (1, normal(1, 3, 4, 5))):
        out = [("y", [1, 3, "h", "w"], kind)]
        with pytest.raises(NoKernel, match="known size"):
            nodes = [node("MaxPool", ["x"], ["y"], **pool)]
            check(nodes, {"x": x}, out, shapes={"x": [1, 3, "H", "W"]})


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(20)
    source, result = ImageLayout(9, 9, 20, held, held), ImageLayout(4, 4, 20, held, held, 1)
    taps = Taps(3, 2, 1, 0, 0)
    for mean in (False, True):
        assert compile_kernel(Pool(result, source, taps, taps, mean), "kernel", target)
