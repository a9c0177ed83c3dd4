"""ONNX's own node tests, as the installed package carries them: each, or a reason why not.

Here the graph is run as it is written, without passes, and inferred types are held to the results.
`make conformance` runs the whole suite through `engine.load`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.conformance.cases import case_names, read_case
from benchmarks.conformance.compare import compare_value
from benchmarks.conformance.reasons import reason_for
from engine.errors import UnsupportedOp
from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import REGISTRY

SHARDS = 8
FEWEST_PASSED = 1500  # of all shards together

EXCLUDED = {
    # Training is not what this engine is for.
    r"test_training_dropout": "draws random numbers",
    # ONNX's text and every runtime divide by the integer size, the reference by the fractional one.
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": "disagrees with ONNX's text",
    # NaN is the only value of this type that has no counterpart in ml_dtypes' comparison.
    r"test_cast_e8m0_": "compares NaN of a type without infinities",
}


# Making the cases takes most of the time, and a shared machine stretches it.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_onnx_node_tests(shard: int) -> None:
    outcome: Counter[str] = Counter()
    failures = []
    for name in case_names("node")[shard::SHARDS]:
        if reason_for(name) or any(re.match(pattern, name) for pattern in EXCLUDED):
            outcome["excluded"] += 1
            continue
        problem = run_case(name)
        outcome[problem if problem in ("passed", "missing operator") else "failed"] += 1
        if problem not in ("passed", "missing operator"):
            failures.append(f"{name}: {problem}")
    print(f"ONNX node tests, shard {shard}: {dict(outcome)}")
    assert not failures, "\n".join(failures)
    assert outcome["passed"] >= FEWEST_PASSED / SHARDS * 0.9


def run_case(name: str) -> str:
    """Return "passed", "missing operator" or what went wrong."""
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
    except UnsupportedOp as error:
        return f"{error}" if is_known(error) else "missing operator"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()[:300]}"
    return "passed"


def is_known(error: UnsupportedOp) -> bool:
    """Whether the engine has the operator, so that refusing it is a fault rather than a gap."""
    return any(
        operator.name == error.op and operator.domain == error.domain
        for operator in REGISTRY.operators()
    )


def check_inferred(inferred: Any, result: Any) -> None:
    """A tensor has the rank and the known dims that were inferred before anything ran."""
    shape = getattr(inferred, "shape", None)
    if shape is None or not isinstance(result, np.ndarray):
        return
    assert len(shape) == result.ndim, f"inferred {inferred}, is {result.shape}"
    for dim, size in zip(shape, result.shape, strict=True):
        assert not isinstance(dim, int) or dim == size, f"inferred {inferred}, is {result.shape}"
