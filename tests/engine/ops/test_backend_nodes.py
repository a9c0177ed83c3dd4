"""ONNX's own node tests, as the installed package carries them: each, or a reason why not.

Here the graph is run as it is written, without passes, and inferred types are held to the results.
`make conformance` runs the whole suite through `engine.load`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.conformance.cases import case_names, read_case
from benchmarks.conformance.compare import compare_value
from benchmarks.conformance.reasons import reason_for
from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import REGISTRY

SHARDS = 8
FEWEST = 1800  # node cases that the installed package carries
MOST_EXCLUDED = 4  # of a shard, each with a reason


# Making the cases takes most of the time, and a shared machine stretches it.
@pytest.mark.parametrize("shard", range(SHARDS))
def test_onnx_node_tests(shard: int) -> None:
    names = case_names("node")
    assert len(names) >= FEWEST
    left_out = [name for name in names[shard::SHARDS] if reason_for(name)]
    problems = {n: run_case(n) for n in names[shard::SHARDS] if n not in left_out}
    failures = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    assert not failures, "\n".join(failures)
    assert len(left_out) <= MOST_EXCLUDED, left_out


def run_case(name: str) -> str:
    """Return "" when the case passes, or what went wrong."""
    content = read_case("node", name)
    try:
        graph = import_model(content.model, limits=Limits(), registry=REGISTRY)
        plan = GraphPlan(graph)
        for inputs, expected in content.data_sets:
            feeds = dict(zip(graph.input_names, inputs, strict=True))
            results = plan.run(feeds).values()
            for value, result, wanted in zip(graph.outputs, results, expected, strict=True):
                check_inferred(value.type, result)
                compare_value(result, wanted, content.rtol, content.atol, value.name)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()[:300]}"
    return ""


def check_inferred(inferred: Any, result: Any) -> None:
    """A tensor has the rank and the known dims that were inferred before anything ran."""
    shape = getattr(inferred, "shape", None)
    if shape is None or not isinstance(result, np.ndarray):
        return
    assert len(shape) == result.ndim, f"inferred {inferred}, is {result.shape}"
    for dim, size in zip(shape, result.shape, strict=True):
        assert not isinstance(dim, int) or dim == size, f"inferred {inferred}, is {result.shape}"
