"""Pictures in other sizes, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.resize import Resize
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

LANES = host_target().lanes
ERROR = 1e-6

NEAREST = [
    {"coordinate_transformation_mode": c, "nearest_mode": n}
    for c in ("half_pixel", "asymmetric", "align_corners", "tf_half_pixel_for_nn")
    for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if c != "align_corners" or n == "ceil"
]
SMOOTH = [
    {"mode": "linear", "coordinate_transformation_mode": c}
    for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
] + [
    {"mode": "cubic"},
    {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
    {"mode": "linear", "antialias": 1},
]


@pytest.mark.parametrize("how", NEAREST)
def test_nearest(how: dict[str, object]) -> None:
    weights = {"s": np.array([1, 1, 2.0, 1.7], np.float32)}
    nodes = [node("Resize", ["x", "", "s"], ["y"], mode="nearest", **how)]
    x = normal(2, LANES + 3, 5, 7)
    check(nodes, {"x": x}, [("y", ["N", "c", "h", "w"])], weights, borders={"y": 1})


@pytest.mark.parametrize("how", SMOOTH)
@pytest.mark.parametrize("size", [(10, 14), (4, 11)])
def test_smooth(how: dict[str, object], size: tuple[int, int]) -> None:
    weights = {"s": np.array([2, 5, *size], np.int64)}
    nodes = [node("Resize", ["x", "", "", "s"], ["y"], **how)]
    if "antialias" in how and size[0] < 5:
        weights["s"] = np.array([2, 5, 3, 5], np.int64)
    check(nodes, {"x": normal(2, 5, 5, 7)}, [("y", list("nchw"))], weights, tolerance=ERROR)


def test_older_forms() -> None:
    weights = {"s": np.array([1, 1, 2, 3], np.float32)}
    x, out = normal(1, 3, 4, 5), [("y", [1, 3, 8, 15])]
    for mode in ("nearest", "linear"):
        for op, opset in (("Upsample", 9), ("Resize", 10)):
            nodes = [node(op, ["x", "s"], ["y"], mode=mode)]
            check(nodes, {"x": x}, out, weights, opset=opset, tolerance=ERROR)
        nodes = [node("Upsample", ["x"], ["y"], mode=mode, scales=[1.0, 1.0, 2.0, 3.0])]
        check(nodes, {"x": x}, out, opset=7, tolerance=ERROR)


def test_some_axes_of_an_open_batch() -> None:
    weights = {"s": np.array([2, 0.5], np.float32)}
    nodes = [node("Resize", ["x", "", "s"], ["y"], axes=[-1, 2], mode="linear")]
    shapes = {"x": ["N", LANES, 8, 5]}
    out = [("y", ["N", LANES, 4, 10])]
    check(nodes, {"x": normal(3, LANES, 8, 5)}, out, weights, shapes=shapes, tolerance=ERROR)


def test_what_has_no_kernel() -> None:
    nodes = [node("Resize", ["x", "", "s"], ["y"], mode="linear")]
    weights = {"s": np.array([1, 2, 1, 1], np.float32)}
    with pytest.raises(NoKernel, match="more than"):
        check(nodes, {"x": normal(1, 3, 4, 5)}, [("y", list("nchw"))], weights)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(20)
    source, result = ImageLayout(4, 4, 20, held, held), ImageLayout(9, 9, 20, held, held, 1)
    assert compile_kernel(Resize(result, source, 2, 2), "kernel", target)
