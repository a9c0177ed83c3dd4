"""Reductions as programs, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from engine.cpu.builder import MEMORY
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.extremes import ArgExtreme
from engine.cpu.kernels.image_reduction import ImageReduce
from engine.cpu.kernels.reduction import Reduce, Stages
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from engine.ops import REGISTRY
from engine.ops.define_reduction import Reduction
from engine.ops.registry import Operator
from tests.engine.cpu.harness import skip_where_missing
from tests.engine.cpu.programs import check
from tests.engine.generated import tensor
from tests.engine.onnx_models import node, normal

LANES = host_target().lanes
OPERATORS = [op for op in REGISTRY.operators() if isinstance(op.definition, Reduction)]
MEAN = Stages(DType.FLOAT32, "x0:float32", "add", "x0:float32; x1:float32; div #0 #1")


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_operators_and_types(op: Operator) -> None:
    rng = np.random.default_rng(len(op.name))
    types = [d for d in MEMORY if d in op.definition.types]
    for k, dtype in enumerate(dict.fromkeys([DType.FLOAT32, *rng.permutation(types)[:1]])):
        x = tensor(dtype, (3, 41), rng, special=False)
        if dtype.is_float or "Log" in op.name:
            x = (np.abs(x) + 1).astype(dtype.numpy)
        out = [("y", [3, 1], helper.np_dtype_to_tensor_dtype(dtype.numpy))]
        nodes = [node(op.name, ["x"], ["y"], axes=[1])]
        if k or len(op.name) % 2:
            nodes, x = [node(op.name, ["x"], ["y"], axes=[0])], np.ascontiguousarray(x.T)
            out = [("y", [1, 3], out[0][2])]
        narrow = {DType.FLOAT16: 2e-3, DType.BFLOAT16: 1e-2}
        tolerance = narrow.get(dtype, 3e-6 if dtype.is_float else 0.0)
        check(nodes, {"x": x}, out, opset=11, tolerance=tolerance)


SHAPES: list[tuple[tuple[int, ...], list[int]]] = [
    ((7, 5), [1]),
    ((7, 5), [0]),
    ((2, 3, 4, 5), [0, 2]),
    ((2, 3, 4, 5), [1, 3]),
    ((2, 3, 4, 5), [1, 2]),
    ((3, 1, 70), [1]),
    ((5, 600), [0]),
    ((4, 5 * LANES + 3), [-1]),
    ((3, 17, 9 * LANES), [0, 2]),
    ((40, 2, 300), [2]),
    ((0, 4), [0]),
    ((4, 0), [0]),
    ((6,), [0]),
]


@pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=str)
def test_axes(shape: tuple[int, ...], axes: list[int]) -> None:
    x, keep = normal(*shape), len(shape) % 2
    out = [("y", None)]
    for op in ("ReduceSum", "ReduceMax", "ReduceLogSumExp"):
        if op == "ReduceSum":
            weights = {"axes": np.array(axes, np.int64)}
            nodes = [node(op, ["x", "axes"], ["y"], keepdims=keep)]
            shapes: dict[str, list[int | str]] = {"x": [f"d{k}" for k in range(len(shape))]}
            check(nodes, {"x": x}, out, weights, shapes=shapes, tolerance=1e-5)
        else:
            nodes = [node(op, ["x"], ["y"], keepdims=keep, axes=axes)]
            with np.errstate(all="ignore"):
                check(nodes, {"x": x}, out, opset=13, tolerance=1e-5)


def test_of_everything_and_of_what_is_no_number() -> None:
    x = normal(30, 33)
    check([node("ReduceMean", ["x"], ["y"])], {"x": x}, [("y", [1, 1])], opset=13, tolerance=1e-6)
    x[3, 4], x[5, 0], x[6, 1] = np.nan, np.inf, -np.inf
    for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceLogSumExp"):
        for axis in (0, 1):
            with np.errstate(all="ignore"):
                nodes = [node(op, ["x"], ["y"], axes=[axis], keepdims=0)]
                check(nodes, {"x": x}, [("y", [33 if axis == 0 else 30])], opset=11, tolerance=1e-5)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse2", "neon"])
def test_long_sums_are_accurate(isa: str) -> None:
    """As many partial sums side by side on every processor: the error grows with their length."""
    skip_where_missing(isa)
    x = np.full((1, 1 << 20), 0.1, np.float32)
    nodes = [node("ReduceSum", ["x"], ["y"], axes=[1])]
    outputs = [("y", [1, 1])]
    check(nodes, {"x": x}, outputs, opset=11, tolerance=3e-4, target=target_for(isa))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_places_of_extremes(op: str, last: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-3, 4, (4, 9, 21)).astype(np.float32)
    x[0, 3, 2], x[0, 5, 2], x[1, :, 3], x[2, :, 4] = np.nan, np.nan, -np.inf, np.inf
    for values in (x, x.astype(np.float64), rng.integers(0, 9, (4, 9, 21)).astype(np.uint8)):
        for axis in (0, 1, -1):
            for keep in (0, 1):
                nodes = [node(op, ["x"], ["y"], axis=axis, keepdims=keep, select_last_index=last)]
                shapes: dict[str, list[int | str]] = {"x": ["A", "B", "C"]}
                check(nodes, {"x": values}, [("y", None, 7)], shapes=shapes, opset=13)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon"])
def test_places_of_extremes_in_rows(op: str, isa: str) -> None:
    """Ties and NaN anywhere: in any lane, any partial result, and the rest."""
    skip_where_missing(isa)
    rng = np.random.default_rng(7)
    for width in (1, 3, LANES, 4 * LANES, 9 * LANES + 5):
        x = rng.integers(-4, 5, (40, width)).astype(np.float32)
        for row in range(0, 40, 3):
            x[row, rng.integers(0, width, 1 + row % 4)] = np.nan
        x[1], x[4] = -np.inf, np.inf
        for last in (0, 1):
            for values in (x, np.clip(np.nan_to_num(x), -9, 9).astype(np.int64)):
                nodes = [node(op, ["x"], ["y"], axis=1, select_last_index=last)]
                check(nodes, {"x": values}, [("y", [40, 1], 7)], opset=13, target=target_for(isa))


@pytest.mark.parametrize("channels", [1, 5, LANES, 3 * LANES + 2, 9 * LANES])
@pytest.mark.parametrize("border", [0, 1])
def test_over_pixels(channels: int, border: int) -> None:
    as_picture = node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1])
    x = normal(2, channels, 7, 5)
    shapes: dict[str, list[int | str]] = {"x": ["N", channels, 7, 5]}
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        nodes = [as_picture, node(op, ["p"], ["y"])]
        y = [("y", ["N", channels, 1, 1])]
        borders = {"p": border, "y": border}
        program = check(nodes, {"x": x}, y, shapes=shapes, borders=borders, tolerance=1e-6)
        assert any(isinstance(step.kernel, ImageReduce) for step in program.steps)
    for op, keep in (("ReduceMean", 0), ("ReduceL2", 1)):
        nodes = [as_picture, node(op, ["p"], ["y"], axes=[-1, 2], keepdims=keep)]
        check(nodes, {"x": x}, [("y", None)], shapes=shapes, opset=13, tolerance=1e-6)


def test_pooling_of_plain_arrays() -> None:
    x = normal(2, 3, 50)
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        check([node(op, ["x"], ["y"])], {"x": x}, [("y", [2, 3, 1])], tolerance=1e-6)


@pytest.mark.parametrize("isa", ["avx2", "sse2", "neon"])
def test_scalar_ends_where_there_are_no_masks(isa: str) -> None:
    skip_where_missing(isa)
    for axis in (0, 1):
        nodes = [
            node("ReduceMean", ["x"], ["m"], axes=[axis]),
            node("ReduceMax", ["x"], ["k"], axes=[axis]),
            node("Sub", ["m", "k"], ["y"]),
        ]
        feeds = {"x": normal(19, 45)}
        check(nodes, feeds, [("y", None)], opset=13, tolerance=1e-5, target=target_for(isa))


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(70)
    layout, one = ImageLayout(9, 9, 70, held, held, 1), ImageLayout(1, 1, 70, 70, 70)
    kernels = [
        Reduce(MEAN, True, 1, 1),
        Reduce(MEAN, False, 2, 1),
        ImageReduce(MEAN, one, layout),
        ArgExtreme(DType.FLOAT64, True, True),
        ArgExtreme(DType.INT8, True, False, has_rows=True),
    ]
    for kernel in kernels:
        assert compile_kernel(kernel, "kernel", target)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_totals(exclusive: int, reverse: int) -> None:
    attributes = {"exclusive": exclusive, "reverse": reverse}
    shapes: dict[str, list[int | str]] = {"x": ["A", "B", "C"]}
    values = [normal(3, 5, 21), normal(2, 9, 1), np.arange(24).reshape(2, 3, 4), normal(2, 0, 3)]
    values += [normal(3, 4, 5).astype(np.float16)]
    for k, x in enumerate(values):
        for axis in (0, -2, 2)[: 3 if k == 0 else 2]:
            weights = {"axis": np.array(axis, np.int64)}
            nodes = [node("CumSum", ["x", "axis"], ["y"], **attributes)]
            out = [("y", ["A", "B", "C"], helper.np_dtype_to_tensor_dtype(x.dtype))]
            tolerance = 2e-3 if x.dtype == np.float16 else 1e-6
            check(nodes, {"x": x}, out, weights, shapes=shapes, tolerance=tolerance)
    weights = {"axis": np.array(1, np.int64)}
    nodes = [node("CumSum", ["x", "axis"], ["y"], **attributes)]
    wide = normal(2, 6, 5 * LANES + 1)
    check(nodes, {"x": wide}, [("y", wide.shape)], weights, tolerance=1e-6)
    nodes = [node("CumProd", ["x", "axis"], ["y"], **attributes)]
    weights = {"axis": np.array([1], np.int32)}
    check(nodes, {"x": normal(3, 6)}, [("y", [3, 6])], weights, opset=26, tolerance=1e-6)
