"""Writing by index, ones by index, and the best along an axis, against the reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.cpu.kernels.one_hot import OneHot
from engine.cpu.kernels.scatter import ScatterElements, ScatterSlices
from engine.cpu.kernels.top_values import TopValues
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel
from tests.engine.cpu.programs import check, lower
from tests.engine.onnx_models import Spec, graph_of, model, node, normal

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.0, 3.0]


def indices(shape: tuple[int, ...], size: int, dtype: type = np.int64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-size, size, shape).astype(dtype)


# ------------------------------------------------------------------ TopK


def expected_top(x: np.ndarray, k: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values and places along the last axis; what is no number counts as larger than all."""
    with np.errstate(invalid="ignore"):  # signals of what is no number
        lines = x.astype(np.float64) if x.dtype.kind != "i" else x.astype(np.int64)
    if largest:
        order = x.shape[-1] - 1 - np.argsort(lines[..., ::-1], -1, "stable")[..., ::-1]
    else:
        order = np.argsort(lines, -1, "stable")
    order = order[..., :k]
    return np.take_along_axis(x, order, -1), order


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 3),
    size=st.integers(1, 200),
    part=st.floats(0, 1),
    largest=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_best_of_rows(rows: int, size: int, part: float, largest: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, size)).astype(np.float32)
    crowded = rng.random(x.shape) < 0.3
    x[crowded] = rng.choice(SPECIAL, int(crowded.sum()))
    k = max(1, round(part * size))
    check_top(x, k, largest)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("size,k", [(1, 1), (64, 64), (65, 1), (5000, 5), (5000, 5000), (257, 100)])
def test_best_of_rows_in_every_order(size: int, k: int, largest: bool) -> None:
    rising = np.arange(size, dtype=np.float32)
    for line in (rising, rising[::-1].copy(), rising * 0, np.roll(rising, size // 3)):
        check_top(line[None], k, largest)


def check_top(x: np.ndarray, k: int, largest: bool) -> None:
    kernel = TopValues(DType.from_numpy(x.dtype), largest, has_rows=True)
    rows, size = x.shape
    empty = [np.zeros((rows, k), x.dtype), np.zeros((rows, k), np.int64)]
    want = expected_top(x, k, largest)
    numbers = (k, size, 1)
    got = run_kernel(kernel, [*empty, x], numbers=numbers, tasks=rows, writes=2, pieces=2)
    np.testing.assert_array_equal(got[1], want[1])
    assert got[0].tobytes() == np.ascontiguousarray(want[0]).tobytes()


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_best_of_narrow_rows_keep_their_bits(dtype: type, largest: bool) -> None:
    """Denormals, and what else a number that is no number says, too."""
    x = np.random.default_rng(3).integers(0, 1 << 16, (2, 301)).astype(np.uint16).view(dtype)
    check_top(x, 301, largest)
    tiny = np.arange(1, 100, dtype=np.uint16).view(dtype)[None]
    check_top(tiny, 50, largest)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.uint32, np.int16, np.uint8, np.int8],
)
def test_best_of_every_type(dtype: type, largest: int) -> None:
    x = (np.random.default_rng(0).standard_normal((3, 70)) * 90).astype(np.int32).astype(dtype)
    nodes = [node("TopK", ["x", "k"], ["v", "i"], largest=largest)]
    kind = int(DType.from_numpy(np.dtype(dtype)).onnx)
    outputs = [("v", [3, 9], kind), ("i", [3, 9], DType.INT64.onnx)]
    check(nodes, {"x": x}, outputs, {"k": np.array([9])}, shapes={"x": ["N", "M"]}, steps=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("outputs", [("v", "i"), ("", "i"), ("v", "")])
def test_best_along_every_axis(axis: int, outputs: tuple[str, str]) -> None:
    x = normal(6, 5, 7)
    nodes = [node("TopK", ["x", "k"], list(outputs), axis=axis)]
    shape = [6, 5, 7]
    shape[axis] = 4
    specs = {"v": ("v", shape, 1), "i": ("i", shape, 7)}
    shapes = {"x": ["A", "B", "C"]}
    wanted = [specs[name] for name in outputs if name]
    check(nodes, {"x": x}, wanted, {"k": np.array([4])}, shapes=shapes)


@pytest.mark.parametrize("k,size", [(0, 3), (3, 3), (4, 3), (1, 0), (0, 0)])
def test_more_than_there_are_end_alike(k: int, size: int) -> None:
    nodes = [node("TopK", ["x", "k"], ["v", "i"])]
    specs = [("v", None), ("i", None, 7)]
    data = model(nodes, [("x", ["N", "M"])], specs, {"k": np.array([k])})
    x = normal(2, size)
    for device in ("reference", "cpu"):
        with engine.load(data, device=device) as loaded:
            if k > size:
                with pytest.raises(engine.RunFailed):
                    loaded.run({"x": x})
            else:
                assert loaded.run({"x": x})["v"].shape == (2, k)


def test_best_of_wide_elements_are_portable() -> None:
    nodes = [node("TopK", ["x", "k"], ["v", "i"])]
    x = normal(2, 5).astype(np.float64)
    with pytest.raises(NoKernel, match="float64"):
        check(nodes, {"x": x}, [("v", [2, 2], 11), ("i", [2, 2], 7)], {"k": np.array([2])})


# ------------------------------------------------------------------ OneHot


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_, np.float16])
def test_ones_by_index(axis: int, kind: type) -> None:
    i = indices((4, 6), 12)  # half of them beyond the depth
    fixed = {"depth": np.array(7), "values": np.array([1, 0], kind)}
    nodes = [node("OneHot", ["i", "depth", "values"], ["y"], axis=axis)]
    shape: list[int | str] = [4, 6]
    shape.insert(axis % 3, 7)
    output = ("y", shape, int(DType.from_numpy(np.dtype(kind)).onnx))
    check(nodes, {"i": i}, [output], fixed, shapes={"i": ["N", "L"]}, steps=1)
    check(nodes, {"i": i[:0].astype(np.int32)}, [output], fixed, shapes={"i": ["N", "L"]})


# ------------------------------------------------------------------ Scatter


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_scatter_elements(axis: int, how: str, kind: type) -> None:
    shape = [4, 5, 6]
    shape[axis] = 9
    x, updates = (normal(4, 5, 6) * 9).astype(kind), (normal(*shape, seed=2) * 9).astype(kind)
    i = indices(tuple(shape), x.shape[axis])
    nodes = [node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis, reduction=how)]
    output = ("y", [4, 5, 6], int(DType.from_numpy(np.dtype(kind)).onnx))
    dims = [["A", "B", "C"], ["A", "B", "C"]]
    dims[1][axis] = "D"
    shapes = {"x": dims[0], "i": dims[1], "u": dims[1]}
    check(nodes, {"x": x, "i": i, "u": updates}, [output], shapes=shapes)
    i.flat[5] = x.shape[axis]
    with pytest.raises(IndexError, match="outside of"):
        check(nodes, {"x": x, "i": i, "u": updates}, [output], shapes=shapes)


@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_slices(depth: int, how: str) -> None:
    x = normal(4, 5, 2500 if depth < 3 else 6)
    i = np.stack([indices((2, 7), x.shape[k], seed=k) for k in range(depth)], axis=-1)
    updates = normal(2, 7, *x.shape[depth:], seed=3)
    if how in ("max", "min"):
        updates.flat[::11] = np.nan
    nodes = [node("ScatterND", ["x", "i", "u"], ["y"], reduction=how)]
    shapes = {"x": ["A", "B", "C"], "u": ["R", "S", *"ABC"[depth:]], "i": ["R", "S", depth]}
    feeds = {"x": x, "i": i, "u": updates}
    check(nodes, feeds, [("y", list(x.shape))], shapes=shapes)
    i[1, 3, depth - 1] = -9999
    with pytest.raises(IndexError, match="out of range"):
        check(nodes, feeds, [("y", list(x.shape))], shapes=shapes)


def test_nothing_to_write_leaves_the_data() -> None:
    nodes = [node("ScatterND", ["x", "i", "u"], ["y"])]
    feeds = {"x": normal(3, 4), "i": np.zeros((0, 1), np.int64), "u": normal(0, 4)}
    check(nodes, feeds, [("y", [3, 4])], shapes={"i": ["N", 1], "u": ["N", 4]})


def test_data_stays_for_others_who_read_it() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("ScatterND", ["r", "i", "u"], ["s"]),
        node("Add", ["s", "r"], ["y"]),
    ]
    feeds = {"x": normal(6, 4), "i": indices((3, 1), 6), "u": normal(3, 4, seed=5)}
    check(nodes, feeds, [("y", [6, 4])])


def test_updates_of_another_shape_are_refused_alike() -> None:
    nodes = [node("ScatterND", ["x", "i", "u"], ["y"])]
    inputs = [("x", ["N", 4]), ("i", ["R", 1], 7), ("u", ["S", 4])]
    data = model(nodes, inputs, [("y", None)])
    feeds = {"x": normal(5, 4), "i": indices((3, 1), 5), "u": normal(2, 4)}
    for device in ("reference", "cpu"):
        with engine.load(data, device=device) as loaded, pytest.raises(engine.RunFailed):
            loaded.run(feeds)


def test_what_has_no_kernel_is_portable() -> None:
    narrow = [node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")]
    half = {"x": normal(5).astype(np.float16), "u": normal(3).astype(np.float16)}
    with pytest.raises(NoKernel, match="float16"):
        check(narrow, {**half, "i": indices((3, 1), 5)}, [("y", [5], 10)])
    smaller = [node("ScatterElements", ["x", "i", "u"], ["y"])]
    feeds = {"x": normal(5, 4), "i": indices((3, 2), 5), "u": normal(3, 2)}
    with pytest.raises(NoKernel, match="cover"):
        check(smaller, feeds, [("y", [5, 4])])


def refused(made: onnx.NodeProto, inputs: list[Spec], reason: str, **fixed: np.ndarray) -> None:
    graph = graph_of(model([made], inputs, [(made.output[0], None)], fixed))
    with pytest.raises(NoKernel, match=reason):
        lower(graph)


def test_forms_that_only_a_run_knows_are_portable() -> None:
    hot = node("OneHot", ["i", "d", "v"], ["y"])
    depth, pair = np.array(3), np.zeros(2, np.float32)
    refused(hot, [("i", [4])], "indices of type float32", d=depth, v=pair)
    refused(hot, [("i", [4], 7), ("v", ["V"])], "no pair", d=depth)
    slices = node("ScatterND", ["x", "i", "u"], ["y"])
    refused(slices, [("x", [4, 5]), ("i", [3, "D"], 7), ("u", [3, 5])], "tuples of D")
    refused(slices, [("x", [4, 5]), ("i", [3, 1], 7), ("u", [3, 5, 1])], "updates have")
    elements = node("ScatterElements", ["x", "i", "u"], ["y"])
    refused(elements, [("x", [4, 5]), ("i", [3], 7), ("u", [3])], "different ranks")


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    for kernel in (
        TopValues(DType.FLOAT32, True, has_rows=True),
        TopValues(DType.UINT8, False),
        OneHot(DType.INT32, DType.INT32),
        ScatterElements(DType.INT64, DType.FLOAT32, "max"),
        ScatterSlices(DType.INT64, 2, DType.FLOAT32, "add"),
    ):
        assert compile_kernel(kernel, "kernel", target_for(isa))
