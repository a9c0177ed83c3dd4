"""Without a GPU: every portable definition on arrays that refuse what CuPy's refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import engine
from benchmarks.conformance.compare import compare_all
from engine.cuda.plan import CudaPlan
from engine.device import CompileOptions, get_device
from engine.errors import DeviceUnavailable, ResourceLimit
from engine.frontend.onnx_importer import import_model
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.ops import REGISTRY
from engine.ops.portable import combine_at, reducer
from engine.random_feeds import random_feeds
from engine.session import tensor_spec
from engine.transfers import to_device, to_host
from tests.engine.cuda.node_cases import graph_of, sampled
from tests.engine.cuda.strict_namespace import STRICT, Strict

MODELS = sorted((Path(__file__).parents[3] / "model_repo").glob("*/*/model.onnx"))
FEWEST = 300


def plan_of(graph: Graph) -> CudaPlan:
    return CudaPlan(graph, xp=STRICT, registry=REGISTRY, limits=Limits())


def test_onnx_node_tests_run_on_device_arrays() -> None:
    failures, passed = [], 0
    for case, content in sampled(per_family=1):
        graph = graph_of(content)
        if graph is None:
            continue
        try:
            plan = plan_of(graph)
            for inputs, expected in content.data_sets:
                feeds = dict(zip(graph.input_names, inputs, strict=True))
                results = plan.run(feeds, graph.output_names)
                ours = [results[name] for name in graph.output_names]
                compare_all(ours, expected, content.rtol, content.atol)
            passed += 1
        except Exception as error:
            cause = error.__cause__ or error
            failures.append(f"{case}: {type(cause).__name__}: {str(cause)[:200]}")
    print(f"{passed} ONNX node tests on device arrays")
    assert not failures, "\n".join(failures)
    assert passed >= FEWEST


@pytest.mark.parametrize("path", MODELS, ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_shipped_models_give_the_same_answers(path: Path) -> None:
    graph = import_model(path, limits=Limits(), registry=REGISTRY)
    feeds = random_feeds([tensor_spec(v) for v in graph.inputs], {"N": 3})
    want = engine.load(path, device="reference").run(feeds)
    got = plan_of(graph).run(feeds, graph.output_names)
    for name, value in want.items():
        assert isinstance(got[name], np.ndarray)
        assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_the_strict_arrays_refuse_what_cupy_refuses() -> None:
    x = STRICT.asarray(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        STRICT.add(x, np.ones(3, np.float32))
    with pytest.raises(TypeError, match="Unsupported dtype"):
        STRICT.asarray(np.asarray(["text"], object))
    with pytest.raises(AttributeError, match="frompyfunc"):
        STRICT.frompyfunc  # noqa: B018


@pytest.mark.parametrize("how", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int8])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 4)])
def test_reductions_are_numpys(how: str, kind: type, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    for axes, keep in [((1,), True), ((0, 1), False), ((0, 1, 2), False)]:
        ours = reducer(STRICT, how, np.dtype(kind), 1)(to_device(STRICT, x), axes, keep)
        want = reducer(np, how, np.dtype(kind), 1)(x, axes, keep)
        assert isinstance(ours, Strict)
        assert ours.dtype == want.dtype
        assert_array_equal(to_host(STRICT, ours), want)


@pytest.mark.parametrize("how", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_updates_of_one_place_are_all_combined(how: str, kind: type) -> None:
    index, updates = np.asarray([1, 1, 0]), np.asarray([5, 7, 2], kind)
    want = np.full(3, 3, kind)
    combine_at(np, how, want, (index,), updates)
    ours = STRICT.asarray(np.full(3, 3, kind))
    combine_at(STRICT, how, ours, (STRICT.asarray(index),), STRICT.asarray(updates))
    assert_array_equal(to_host(STRICT, ours), want)


def test_sequences_and_maps_cross_element_by_element() -> None:
    there = to_device(STRICT, [np.ones(2), {"a": np.zeros(1)}, None])
    assert isinstance(there[0], Strict)
    assert isinstance(there[1]["a"], Strict)
    back = to_host(STRICT, there)
    assert isinstance(back[0], np.ndarray)
    assert back[2] is None


def test_gpu_memory_that_runs_out_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = import_model(MODELS[0], limits=Limits(), registry=REGISTRY)
    plan = plan_of(graph)
    feeds = random_feeds([tensor_spec(v) for v in graph.inputs])

    def refuse(*_: object) -> None:
        raise MemoryError("out of memory allocating 4,096 bytes")

    monkeypatch.setattr("engine.cuda.plan.to_device", refuse)
    with pytest.raises(ResourceLimit, match=r"the inputs: needs out of memory.* GPU memory"):
        plan.run(feeds, graph.output_names)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = import_model(MODELS[0], limits=Limits(), registry=REGISTRY)
    cuda = get_device("cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceUnavailable, match=r"'cuda' is missing the package cupy.* use 'cpu'"):
        cuda.compile(graph, CompileOptions())
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(DeviceUnavailable, match=r"missing a GPU: CuPy 14\.2\.0 finds no driver"):
        cuda.compile(graph, CompileOptions())
    cupy.cuda.is_available = lambda: True
    with pytest.raises(DeviceUnavailable, match="precision 'int8' yet"):
        cuda.compile(graph, CompileOptions(precision="int8"))
