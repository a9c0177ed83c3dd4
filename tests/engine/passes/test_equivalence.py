"""O1 and O2 give what O0 gives, and what ONNX Runtime gives, on generated graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import engine
from engine.compiler import ALL, CompileRequest, compile_model
from tests.engine.onnx_models import ort_run
from tests.engine.passes.comparing import run, verdict_and_graph
from tests.engine.passes.generated_graphs import Generated, graphs

ROUNDING = 2e-5  # of the largest value anywhere in the graph: sums may cancel later
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check(case: Generated, ort: bool) -> None:
    everything = compile_model(case.data, CompileRequest(outputs=ALL, level=0)).graph
    values = run(everything, case.feeds)
    largest = max((_largest(v) for v in values.values()), default=1.0)
    want = {name: values[name] for name in case.outputs}
    before, _ = verdict_and_graph(case.data, 0)
    for level in (1, 2):
        verdict, graph = verdict_and_graph(case.data, level)
        assert list(graph.output_names) == case.outputs
        got = run(graph, case.feeds)
        for name, right in want.items():
            same(got[name], right, ROUNDING * largest, f"O{level} {name}")
        if before.axes is not None:
            assert verdict.axes == before.axes, verdict.reason
    if ort:
        theirs = ort_run(case.data, case.feeds)
        for name, right in want.items():
            same(right, theirs[name], 10 * ROUNDING * largest, f"ONNX Runtime {name}")


def _largest(value: object) -> float:
    array = np.asarray(value)
    if array.dtype.kind != "f" or not array.size:
        return 1.0
    finite = array[np.isfinite(array)].astype(np.float64)
    return max(1.0, float(np.abs(finite).max(initial=1.0)))


def same(got: np.ndarray, want: np.ndarray, bound: float, name: str) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape, name
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=bound, err_msg=name)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET, derandomize=True)
@given(graphs())
def test_optimised_graphs_give_the_same(case: Generated) -> None:
    check(case, ort=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=1500, deadline=None, suppress_health_check=QUIET)
@given(graphs(nodes=24))
def test_optimised_graphs_give_the_same_at_length(case: Generated) -> None:
    check(case, ort=False)


def test_a_fetched_value_that_was_fused_away_is_said_to_be_missing() -> None:
    from tests.engine.onnx_models import load, mlp

    with load(mlp()) as net, pytest.raises(engine.InvalidInput, match="fetches"):
        net.run({"x": np.zeros((1, 8), np.float32)}, fetches=["h"])
    with load(mlp(), outputs=["h", "y"]) as net:
        assert set(net.run({"x": np.zeros((1, 8), np.float32)})) == {"h", "y"}
