"""With a GPU: ONNX's node tests and the shipped models on the device called "cuda"."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import engine
from benchmarks.conformance.compare import compare_all
from engine.random_feeds import random_feeds
from tests.engine.cuda.node_cases import graph_of, sampled

pytestmark = pytest.mark.cuda
MODELS = sorted((Path(__file__).parents[3] / "model_repo").glob("*/*/model.onnx"))
EVERY = 10_000
# Products in float32 are rounded otherwise than on the host.
RTOL, ATOL = 2e-3, 1e-4


def test_onnx_node_tests() -> None:
    failures, passed = [], 0
    for case, content in sampled(per_family=EVERY):
        if graph_of(content) is None:
            continue
        rtol, atol = max(content.rtol, RTOL), max(content.atol, ATOL)
        try:
            with engine.load(content.model, device="cuda") as loaded:
                for inputs, expected in content.data_sets:
                    results = loaded.run(dict(zip(content.inputs, inputs, strict=True)))
                    compare_all([results[name] for name in content.outputs], expected, rtol, atol)
            passed += 1
        except Exception as error:
            cause = error.__cause__ or error
            failures.append(f"{case}: {type(cause).__name__}: {str(cause)[:200]}")
    print(f"{passed} ONNX node tests on the GPU, {len(failures)} failed")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_shipped_models_agree_with_the_reference(path: Path) -> None:
    with engine.load(path, device="cuda") as model, engine.load(path, device="reference") as other:
        for n in (1, 7):
            feeds = random_feeds(model.inputs, {"N": n})
            want = other.run(feeds)
            for name, value in model.run(feeds).items():
                assert_allclose(value, want[name], rtol=RTOL, atol=ATOL)


def test_runs_may_overlap() -> None:
    with engine.load(MODELS[0], device="cuda") as model:
        feeds = [random_feeds(model.inputs, {"N": n}, seed=n) for n in range(1, 9)]
        want = [model.run(each) for each in feeds]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(model.run, feeds))
        for ours, alone in zip(got, want, strict=True):
            for name, value in ours.items():
                assert_allclose(value, alone[name], rtol=1e-5, atol=1e-6)


def test_weights_lie_on_the_gpu() -> None:
    with engine.load(MODELS[-1], device="cuda") as model:
        weights = sum(p.nbytes for p in model.graph.initializers.values())
        assert model.memory().weights_bytes >= weights
        assert isinstance(next(iter(model.run(random_feeds(model.inputs)).values())), np.ndarray)
