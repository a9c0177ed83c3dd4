"""Plans of the device `cpu`: regions between portable nodes, shapes, bodies, threads, reports."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as h

import engine
from engine.compiler import compile_model
from engine.cpu.plan import CpuPlan
from engine.cpu.runtime.pool import shared_pool
from engine.device import CompileOptions, get_device

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    fixed: dict[str, np.ndarray] | None = None,
) -> bytes:
    graph = h.make_graph(
        nodes,
        "net",
        [h.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [h.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(a, name) for name, a in (fixed or {}).items()],
    )
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def both(source: bytes, threads: int = 2) -> tuple[engine.Model, engine.Model]:
    return (
        engine.load(source, device="cpu", threads=threads),
        engine.load(source, device="reference"),
    )


def plan_of(loaded: engine.Model) -> CpuPlan:
    plan = loaded._plan
    assert isinstance(plan, CpuPlan)
    return plan


def portable(loaded: engine.Model) -> list[str]:
    return [each.node.op for each in plan_of(loaded).coverage if each.reason is not None]


def agree(pair: tuple[engine.Model, engine.Model], feeds: dict[str, np.ndarray]) -> None:
    got, want = (each.run(feeds) for each in pair)
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def perceptron(seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    fixed = {
        "w": rng.standard_normal((12, 20)).astype(np.float32),
        "b": rng.standard_normal(20).astype(np.float32),
        "v": rng.standard_normal((20, 5)).astype(np.float32),
    }
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"]),
        h.make_node("Add", ["a", "b"], ["c"]),
        h.make_node("Relu", ["c"], ["d"]),
        h.make_node("MatMul", ["d", "v"], ["e"]),
        h.make_node("Softmax", ["e"], ["y"], axis=-1),
    ]
    return model(nodes, {"x": ["N", 12]}, {"y": ["N", 5]}, fixed)


def rows(count: int, width: int = 12, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_one_compiled_plan_serves_every_batch() -> None:
    pair = both(perceptron())
    for count in (1, 7, 2, 64, 3, 0, 129, 1):
        agree(pair, {"x": rows(count)})


def test_a_row_is_the_same_alone_and_in_a_batch_bit_for_bit() -> None:
    loaded = engine.load(perceptron(), device="cpu")
    batch = rows(37)
    together = loaded.run({"x": batch})["y"]
    for i in (0, 1, 13, 36):
        np.testing.assert_array_equal(together[i : i + 1], loaded.run({"x": batch[i : i + 1]})["y"])


def test_threads_change_no_bit() -> None:
    x = rows(50)
    results = [
        engine.load(perceptron(), device="cpu", threads=threads).run({"x": x})["y"]
        for threads in (1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_many_threads_run_one_model_at_once() -> None:
    pair = both(perceptron())
    inputs = [rows(count, seed=count) for count in range(1, 25)]
    want = [pair[1].run({"x": x})["y"] for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda x: pair[0].run({"x": x})["y"], inputs * 8))
    for y, expected in zip(got, want * 8, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_portable_nodes_run_between_regions() -> None:
    """NonZero has sizes that only values tell: a region before it, one after."""
    nodes = [
        h.make_node("Relu", ["x"], ["a"]),
        h.make_node("NonZero", ["a"], ["places"]),
        h.make_node("Cast", ["places"], ["b"], to=FLOAT),
        h.make_node("Sigmoid", ["b"], ["y"]),
        h.make_node("Exp", ["a"], ["z"]),
    ]
    source = model(nodes, {"x": ["N", 12]}, {"y": [2, "M"], "z": ["N", 12]})
    pair = both(source)
    assert portable(pair[0]) == ["NonZero"]
    for count in (1, 5, 0):
        agree(pair, {"x": rows(count)})


def test_bodies_are_compiled_too() -> None:
    body = h.make_graph(
        [
            h.make_node("MatMul", ["s", "w"], ["m"]),
            h.make_node("Tanh", ["m"], ["t"]),
            h.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            h.make_tensor_value_info("i", INT64, []),
            h.make_tensor_value_info("go", TensorProto.BOOL, []),
            h.make_tensor_value_info("s", FLOAT, ["N", 12]),
        ],
        [
            h.make_tensor_value_info("on", TensorProto.BOOL, []),
            h.make_tensor_value_info("t", FLOAT, ["N", 12]),
        ],
    )
    fixed = {
        "trips": np.array(4, np.int64),
        "w": np.random.default_rng(3).standard_normal((12, 12)).astype(np.float32),
    }
    nodes = [h.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    pair = both(model(nodes, {"x": ["N", 12]}, {"y": ["N", 12]}, fixed))
    native = [c.node.op for c in plan_of(pair[0]).coverage if c.reason is None]
    assert "MatMul" in native or "Tanh" in native
    agree(pair, {"x": rows(3)})


def test_the_profile_names_the_nodes_of_regions() -> None:
    with engine.load(perceptron(), device="cpu") as loaded:
        report = loaded.profile({"x": rows(64)}, repeat=3)
    assert {"Softmax", "MatMul"} <= {node.op for node in report.nodes}
    assert all(node.seconds >= 0 for node in report.nodes)
    product = next(n for n in report.nodes if n.op == "MatMul")
    assert product.flops and product.peak_share
    assert product.kernel == "Gemm"


def test_fetches_take_a_part_of_the_outputs() -> None:
    nodes = [
        h.make_node("Relu", ["x"], ["a"]),
        h.make_node("Exp", ["a"], ["b"]),
    ]
    source = model(nodes, {"x": ["N", 12]}, {"a": ["N", 12], "b": ["N", 12]})
    x = rows(3)
    with engine.load(source, device="cpu") as loaded:
        assert set(loaded.run({"x": x}, ["b"])) == {"b"}
        np.testing.assert_allclose(loaded.run({"x": x}, ["b"])["b"], np.exp(np.maximum(x, 0)), 1e-6)


def test_inputs_need_not_lie_densely() -> None:
    pair = both(perceptron())
    wide = rows(9, 24)
    agree(pair, {"x": wide[:, ::2]})
    agree(pair, {"x": np.asfortranarray(wide[:, :12])})


def test_a_run_beyond_the_limit_is_refused() -> None:
    limits = engine.Limits(run_bytes=1 << 16)
    with (
        engine.load(perceptron(), device="cpu", limits=limits) as loaded,
        pytest.raises(engine.ResourceLimit),
    ):
        loaded.run({"x": rows(100_000)})


def test_memory_is_reported() -> None:
    with engine.load(perceptron(), device="cpu") as loaded:
        found = loaded.memory()
    assert found.weights_bytes >= (12 * 20 + 20 + 20 * 5) * 4
    assert found.code_bytes > 0


def test_memory_is_told_as_it_is_now() -> None:
    """Arenas are made by runs; a closed model tells what it held."""
    with engine.load(perceptron(), device="cpu") as loaded:
        before = loaded.memory()
        loaded.run({"x": rows(1000)})
        after = loaded.memory()
    assert after.weights_bytes == before.weights_bytes > 0
    assert after.arena_bytes > before.arena_bytes
    assert after.scratch_bytes >= before.scratch_bytes == 0
    assert loaded.memory() == after


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_of_the_cores_is_told(threads: int) -> None:
    """A convolution gathers rows in memory that each core has for itself."""
    rng = np.random.default_rng(0)
    nodes = [h.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    weights = {"w": rng.standard_normal((32, 32, 3, 3)).astype(np.float32)}
    shape: list[int | str] = ["N", 32, 24, 24]
    data = model(nodes, {"x": shape}, {"y": shape}, weights)
    with engine.load(data, device="cpu", threads=threads) as loaded:
        assert loaded.memory().scratch_bytes == 0
        loaded.run({"x": np.zeros((2, 32, 24, 24), np.float32)})
        taken = loaded.memory().scratch_bytes
        assert 0 < taken <= shared_pool().size_bytes
        loaded.run({"x": np.zeros((1, 32, 24, 24), np.float32)})
        assert loaded.memory().scratch_bytes >= taken


def test_coverage_is_told_before_anything_is_compiled() -> None:
    graph = compile_model(perceptron()).graph
    cpu = get_device("cpu")
    found = cpu.coverage(graph, CompileOptions())  # type: ignore[attr-defined]
    assert "Softmax" in {each.node.op for each in found}
    assert len(found) == len(graph.nodes)
