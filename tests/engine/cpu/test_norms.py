"""Normalizations and softmax as programs, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from engine.cpu.kernels.normalize import Normalize, RowInput
from engine.cpu.kernels.softmax import Softmax
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import skip_where_missing
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

LANES = host_target().lanes
WIDTHS = (1, 3, LANES, LANES + 1, 5 * LANES, 9 * LANES - 1, 768)


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_normalization(width: int) -> None:
    x = normal(7, 3, width) * 5 + 2
    weights = {"s": normal(width), "b": normal(1, width)}
    nodes = [node("LayerNormalization", ["x", "s", "b"], ["y", "m", "i"], epsilon=1e-3)]
    outputs = [("y", ["N", 3, width]), ("m", ["N", 3, 1]), ("i", ["N", 3, 1])]
    shapes: dict[str, list[int | str]] = {"x": ["N", 3, width]}
    check(nodes, {"x": x}, outputs, weights, shapes=shapes, tolerance=2e-5, steps=1)


def test_a_large_mean_costs_no_digits() -> None:
    """The variance is taken around the mean, not as a difference of squares."""
    x = normal(4, 300) + 1000
    nodes = [node("LayerNormalization", ["x", "s"], ["y"])]
    check(nodes, {"x": x}, [("y", [4, 300])], {"s": np.ones(300, np.float32)}, tolerance=2e-4)


def test_several_axes_of_symbolic_size() -> None:
    feeds = {"x": normal(3, 5, 7), "s": normal(5, 7), "b": normal(5, 7)}
    shapes: dict[str, list[int | str]] = {"x": ["N", "H", "W"], "s": ["H", "W"], "b": ["H", "W"]}
    nodes = [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=1)]
    program = check(nodes, feeds, [("y", ["N", "H", "W"])], shapes=shapes, tolerance=1e-5)
    assert program.steps[0].in_place
    check(nodes, {**feeds, "x": normal(0, 5, 7)}, [("y", ["N", "H", "W"])], shapes=shapes)


@pytest.mark.parametrize("dtype", [np.float16, DType.BFLOAT16.numpy], ids=str)
def test_narrow_floats(dtype: np.dtype) -> None:
    kind = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.BFLOAT16
    feeds = {"x": normal(4, 37).astype(dtype), "s": normal(37).astype(dtype)}
    nodes = [
        node("LayerNormalization", ["x", "s"], ["a"]),
        node("RMSNormalization", ["a", "s"], ["b"]),
        node("Softmax", ["b"], ["c"]),
        node("LogSoftmax", ["c"], ["y"], axis=0),
    ]
    check(nodes, feeds, [("y", [4, 37], kind)], opset=23, tolerance=2e-2)


def test_root_mean_square() -> None:
    weights = {"s": normal(6, 50)}
    nodes = [
        node("RMSNormalization", ["x", "s"], ["y"], axis=1),
        node("SimplifiedLayerNormalization", ["y", "t"], ["z", "i"], axis=-1),
    ]
    weights["t"] = normal(50)
    outputs = [("z", [3, 6, 50]), ("i", [3, 6, 1])]
    check(nodes, {"x": normal(3, 6, 50)}, outputs, weights, opset=23, tolerance=1e-5)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_with_a_residual(op: str) -> None:
    is_full = op == "SkipLayerNormalization"
    inputs = ["x", "skip", "s", *(["b"] if is_full else []), "before"]
    weights = {"s": normal(40), "b": normal(40), "before": normal(40)}
    nodes = [node(op, inputs, ["y", "", "i", "sum"], domain="com.microsoft", epsilon=1e-5)]
    feeds = {"x": normal(2, 9, 40), "skip": normal(2, 9, 40)}
    outputs = [("y", [2, 9, 40]), ("i", [2, 9, 1]), ("sum", [2, 9, 40])]
    weights = {k: v for k, v in weights.items() if k in inputs}
    domains = {"com.microsoft": 1}
    check(nodes, feeds, outputs, weights, domains=domains, tolerance=1e-5, steps=1)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [*(((5, w), -1) for w in WIDTHS[:-1]), ((2, 4, 16, 333), 2), ((3, 5), 0), ((2, 3, 1), 1)],
    ids=str,
)
def test_softmax(op: str, shape: tuple[int, ...], axis: int) -> None:
    x = normal(*shape) * 20
    shapes: dict[str, list[int | str]] = {"x": [f"d{k}" for k in range(len(shape))]}
    for stated in ({}, {"shapes": shapes}):
        y = [("y", [f"d{k}" for k in range(len(shape))])]
        check([node(op, ["x"], ["y"], axis=axis)], {"x": x}, y, tolerance=3e-6, **stated)


def test_softmax_of_what_is_no_number() -> None:
    x = normal(6, 20)
    x[0, 3], x[1, :], x[2, 5], x[3, 1:], x[4, :] = np.nan, -np.inf, np.inf, -np.inf, 1e30
    for op, axis in (("Softmax", 1), ("LogSoftmax", 1), ("Softmax", 0)):
        with np.errstate(all="ignore"):
            nodes = [node(op, ["x"], ["y"], axis=axis)]
            check(nodes, {"x": x}, [("y", [6, 20])], tolerance=1e-6)


def test_softmax_of_old_opsets_and_of_nothing() -> None:
    nodes = [node("Softmax", ["x"], ["y"], axis=1)]
    check(nodes, {"x": normal(3, 4, 5)}, [("y", [3, 4, 5])], opset=11, tolerance=1e-6)
    check(nodes, {"x": normal(3, 0, 5)}, [("y", [3, 0, 5])])


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 6, 33), (1, 12, 2, 3, 4)], ids=str)
def test_groups_of_channels(shape: tuple[int, ...]) -> None:
    x, channels = normal(*shape), shape[1]
    weights = {"s": normal(channels), "b": normal(channels)}
    given = [f"d{k}" for k in range(len(shape))]
    for stated in (list(shape), ["N", channels, *given[2:]]):
        shapes = {"x": stated}
        nodes = [node("InstanceNormalization", ["x", "s", "b"], ["y"])]
        check(nodes, {"x": x}, [("y", given)], weights, shapes=shapes, tolerance=2e-5, steps=2)
        nodes = [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)]
        check(nodes, {"x": x}, [("y", given)], weights, shapes=shapes, tolerance=2e-5)
        few = {name: value[:3] for name, value in weights.items()}
        check(nodes, {"x": x}, [("y", given)], few, shapes=shapes, opset=18, tolerance=2e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_local_response(size: int) -> None:
    x = normal(2, 6, 5, 7)
    shapes: dict[str, list[int | str]] = {"x": ["N", "C", "H", "W"]}
    for beta in (0.75, 0.6):
        nodes = [node("LRN", ["x"], ["y"], size=size, alpha=0.3, beta=beta, bias=2.0)]
        check(nodes, {"x": x}, [("y", ["N", "C", "H", "W"])], shapes=shapes, tolerance=1e-6)


def test_rarer_normalizations() -> None:
    x = normal(3, 4, 5, 6)
    x[1, :, 2, 3] = 0
    shapes: dict[str, list[int | str]] = {"x": ["N", 4, "H", "W"]}
    y = [("y", ["N", 4, "H", "W"])]
    for p in (1, 2):
        for axis in (1, -1):
            nodes = [node("LpNormalization", ["x"], ["y"], axis=axis, p=p)]
            check(nodes, {"x": x}, y, shapes=shapes, tolerance=1e-6)
    for axes in ([0, 2, 3], [1]):
        nodes = [node("MeanVarianceNormalization", ["x"], ["y"], axes=axes)]
        x[1, :, 2, 3] = [1, 2, 3, 4]
        check(nodes, {"x": x}, y, shapes=shapes, tolerance=2e-5)
    x = np.round(x)  # equal ones
    for opset, axis in ((21, 1), (21, -1), (11, 1)):
        nodes = [node("Hardmax", ["x"], ["y"], axis=axis)]
        check(nodes, {"x": x}, y, opset=opset)
    half = x[0, 0].astype(np.float16)
    check([node("Hardmax", ["x"], ["y"])], {"x": half}, [("y", half.shape, TensorProto.FLOAT16)])


@pytest.mark.parametrize("isa", ["avx2", "sse2", "neon"])
def test_scalar_ends_where_there_are_no_masks(isa: str) -> None:
    skip_where_missing(isa)
    nodes = [
        node("LayerNormalization", ["x", "s"], ["a"]),
        node("Softmax", ["a"], ["b"]),
        node("Softmax", ["b"], ["y"], axis=0),
    ]
    weights = {"s": normal(45)}
    check(
        nodes,
        {"x": normal(5, 45)},
        [("y", [5, 45])],
        weights,
        tolerance=1e-5,
        target=target_for(isa),
    )


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    f32 = DType.FLOAT32
    for width in (None, 768, 50):
        norm = Normalize("x0:float32", (RowInput(f32),), f32, width, 1e-5, scale=f32, bias=f32)
        assert compile_kernel(norm, "kernel", target_for(isa))
    for has_rows in (False, True):
        assert compile_kernel(Softmax(f32, False, has_rows), "kernel", target_for(isa))
