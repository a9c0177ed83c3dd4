"""Weights stored as bytes, and products in bytes where the model may."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.compiler import CompileRequest, compile_model
from engine.errors import ResourceLimit
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.request_json import read_request, write_request
from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.comparing import ops, run
from tests.engine.quantized_models import Qdq

INT64 = 7
LIMITS = Limits()
Feeds = dict[str, np.ndarray]


def graph_of(data: bytes, precision: str = "int8", limits: Limits = LIMITS) -> Graph:
    request = CompileRequest(precision=precision, limits=limits)
    return compile_model(data, read_request(write_request(request))).graph


def likeness(data: bytes, feeds: Feeds, precision: str = "int8") -> float:
    """The least cosine between what the model states and what the precision makes of it."""
    want = run(compile_model(data, CompileRequest(level=0)).graph, feeds)
    got = run(graph_of(data, precision), feeds)
    pairs = [(want[n].ravel().astype(float), got[n].ravel().astype(float)) for n in want]
    return min(a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs)


def tied(seed: int = 0, words: int = 50, width: int = 48) -> bytes:
    """A table that words are picked from and scored with, and a layer between."""
    q = Qdq(seed)
    table = q.fixed((words, width), 0, spread=0.01)
    x = q.add("Gather", table, "ids", axis=0)
    wide = q.add("MatMul", x, q.fixed((width, 3 * width), 1, spread=0.01))
    bias = q.constant("bias", q.rng.standard_normal(3 * width).astype(np.float32))
    wide = q.add("Relu", q.add("Add", wide, bias))
    x = q.add("Add", x, q.add("MatMul", wide, q.fixed((3 * width, width), 1, spread=0.01)))
    scores = q.add("MatMul", x, q.add("Transpose", table, perm=[1, 0]))
    return q.build([("ids", ["N", "S"], INT64)], [(scores, ["N", "S", words])])


IDS = {"ids": np.arange(21, dtype=np.int64).reshape(3, 7) * 7 % 50}


def test_a_tied_table_is_stored_once_and_products_sum_integers() -> None:
    graph = graph_of(tied())
    found = ops(graph)
    assert found.count("MatMulInteger*") == 3 and found.count("QuantizeRows*") == 3
    assert "MatMul" not in found and "DequantizeLinear" not in found
    (picked, *_) = [n for n in graph.nodes if n.op == "Gather"]
    table = graph.constant(picked.inputs[0])
    assert table is not None and table.dtype == np.int8
    assert likeness(tied(), IDS) > 0.999


def test_fp32_keeps_the_table_and_is_exact() -> None:
    graph = graph_of(tied(), "fp32")
    found = ops(graph)
    assert "QuantizeRows*" not in found and found.count("Gather") == 2  # entries and scales
    assert not any("DequantizeLinear" in op for op in found)
    want = run(compile_model(tied(), CompileRequest(level=0)).graph, IDS)
    for name, value in run(graph, IDS).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, atol=1e-4)


def test_products_of_one_value_share_its_bytes() -> None:
    q = Qdq(1)
    parts = [q.add("MatMul", "x", q.fixed((64, 40), 1)) for _ in range(3)]
    data = q.build([("x", ["N", 64])], [(p, ["N", 40]) for p in parts])
    assert ops(graph_of(data)).count("QuantizeRows*") == 1
    assert likeness(data, {"x": normal(5, 64)}) > 0.9995


@pytest.mark.parametrize(
    ("dtype", "zero", "axis"), [(np.int8, 0, None), (np.uint8, 131, 1), (np.int8, -7, 1)]
)
def test_weights_of_any_quantization(dtype: type, zero: int, axis: int | None) -> None:
    q = Qdq(2)
    y = q.add("MatMul", "x", q.fixed((64, 24), axis, dtype, zero))
    data = q.build([("x", ["N", 3, 64])], [(y, ["N", 3, 24])])
    assert "MatMulInteger*" in ops(graph_of(data))
    assert likeness(data, {"x": normal(2, 3, 64)}) > 0.9995


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_keeps_what_it_adds(turned: int) -> None:
    rng = np.random.default_rng(3)
    shape = (24, 64) if turned else (64, 24)
    fixed = {
        "w": rng.standard_normal(shape).astype(np.float32),
        "b": rng.standard_normal(24).astype(np.float32) * 9,
    }
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], transB=turned)]
    data = model(nodes, [("x", ["N", 64])], [("y", ["N", 24])], fixed)
    assert ops(graph_of(data)) == ["QuantizeRows*", "MatMulInteger*"]
    assert likeness(data, {"x": normal(9, 64)}) > 0.9995


def test_floats_become_integers_that_come_back() -> None:
    """Weights that are whole steps already lose nothing."""
    rng = np.random.default_rng(4)
    integers = rng.integers(-127, 128, (64, 8)).astype(np.int8)
    integers[0] = 127
    scale = rng.random(8).astype(np.float32)
    data = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [("x", ["N", 64])],
        [("y", ["N", 8])],
        {"w": integers * scale},
    )
    graph = graph_of(data)
    (product,) = [n for n in graph.nodes if n.op == "MatMulInteger"]
    np.testing.assert_array_equal(graph.constant(product.inputs[1]), integers)


def test_what_stays_float() -> None:
    rng = np.random.default_rng(5)
    fixed = {
        "short": rng.standard_normal((8, 24)).astype(np.float32),
        "bad": np.full((64, 3), np.nan, np.float32),
        "c": rng.standard_normal((1, 24)).astype(np.float32),
    }
    nodes = [
        node("MatMul", ["a", "short"], ["y"]),
        node("MatMul", ["b", "bad"], ["z"]),
        node("MatMul", ["b", "d"], ["u"]),
        node("Gemm", ["a", "short", "c"], ["v"], beta=0.5),
    ]
    inputs = [("a", ["N", 8]), ("b", ["N", 64]), ("d", [64, 2])]
    data = model(nodes, inputs, [(n, None) for n in "yzuv"], fixed)
    assert not any("Integer" in op for op in ops(graph_of(data)))


def test_a_scale_along_the_sum_stays_float() -> None:
    q = Qdq(6)
    y = q.add("MatMul", "x", q.fixed((64, 24), 0))
    data = q.build([("x", ["N", 64])], [(y, ["N", 24])])
    assert ops(graph_of(data, "fp32")) == ["MatMul"]
    assert likeness(data, {"x": normal(4, 64)}) > 0.9995  # floats again, then a scale per column


def picking(axis: int, along: int | None, zero: int = 0, dtype: type = np.int8) -> bytes:
    q = Qdq(7)
    y = q.add("Gather", q.fixed((9, 5, 4), along, dtype, zero), "ids", axis=axis)
    return q.build([("ids", ["N"], INT64)], [(y, None)])


@pytest.mark.parametrize(
    ("axis", "along", "zero", "moves"),
    [
        (0, None, 3, True),
        (0, 0, 0, True),
        (0, 2, -4, True),
        (1, 1, 0, True),
        (-1, -1, 0, True),
        (1, 0, 0, False),
        (0, 0, 5, False),
    ],
)
def test_tables_of_any_quantization(axis: int, along: int | None, zero: int, moves: bool) -> None:
    data = picking(axis, along, zero)
    feeds = {"ids": np.array([3, 0, -1, 2], np.int64)}
    want = run(compile_model(data, CompileRequest(level=0)).graph, feeds)
    graph = graph_of(data, "fp32")
    for name, value in run(graph, feeds).items():
        np.testing.assert_array_equal(value, want[name])
    kinds = [graph.constant(n.inputs[0]) for n in graph.nodes if n.op == "Gather"]
    assert any(k is not None and k.dtype == np.int8 for k in kinds) is moves


def test_large_weights_are_unpacked_once() -> None:
    q = Qdq(8)
    y = q.add("MatMul", "x", q.add("Transpose", q.fixed((300, 64), 0), perm=[1, 0]))
    data = q.build([("x", ["N", 64])], [(y, ["N", 300])])
    small = Limits(fold_bytes=1 << 10)
    found = ops(graph_of(data, "fp32", small))
    assert not any(op.startswith(("Dequantize", "Elementwise")) for op in found)
    graph_of(data, "int8", Limits(fold_bytes=1 << 10, run_bytes=1000))  # unpacks nothing
    with pytest.raises(ResourceLimit, match=r"run_bytes=1000"):
        graph_of(data, "fp32", Limits(fold_bytes=1 << 10, run_bytes=1000))


def test_rows_stay_apart() -> None:
    data = tied(9)
    slow = engine.load(data, device="reference", precision="int8")
    assert slow.batch is not None and slow.batch.inputs == {"ids"}
    (want,) = slow.run(IDS).values()
    (alone,) = slow.run({"ids": IDS["ids"][1:2]}).values()
    np.testing.assert_array_equal(alone, want[1:2])
