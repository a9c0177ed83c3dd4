"""ONNX's own node tests, as the installed package carries them: each, or a reason why not."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

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
    # The operator's schema allows unsigned integers only, up to the opsets that exporters write.
    r"test_bitshift_.*_int(8|16|32|64)": "signed shifts",
    # ONNX's text and every runtime divide by the integer size, the reference by the fractional one.
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": "disagrees with ONNX's text",
    # NaN is the only value of this type that has no counterpart in ml_dtypes' comparison.
    r"test_cast_e8m0_": "compares NaN of a type without infinities",
}

TOLERANCE = {"bfloat16": 2.0**-6, "float16": 2.0**-9}


@cache
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package computes its cases as it goes
        return sorted(load_model_tests(kind="node"), key=lambda case: str(case.name))


# Making the cases takes most of the time, and a shared machine stretches it.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_onnx_node_tests(shard):
    outcome: Counter[str] = Counter()
    failures = []
    for case in cases()[shard::SHARDS]:
        if any(re.match(pattern, case.name) for pattern in EXCLUDED):
            outcome["excluded"] += 1
            continue
        problem = run_case(case)
        outcome[problem if problem in ("passed", "missing operator") else "failed"] += 1
        if problem not in ("passed", "missing operator"):
            failures.append(f"{case.name}: {problem}")
    print(f"ONNX node tests, shard {shard}: {dict(outcome)}")
    assert not failures, "\n".join(failures)
    assert outcome["passed"] >= FEWEST_PASSED / SHARDS * 0.9


def run_case(case: Any) -> str:
    """Return "passed", "missing operator" or what went wrong."""
    model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
    try:
        graph = import_model(model.SerializeToString(), limits=Limits(), registry=REGISTRY)
        plan = GraphPlan(graph)
        for inputs, expected in case.data_sets or read_data_sets(Path(case.model_dir)):
            arrays = [as_array(x) for x in inputs]
            results = plan.run(dict(zip(graph.input_names, arrays, strict=True)))
            for value, result, reference in zip(
                graph.outputs, results.values(), expected, strict=True
            ):
                compare(value.type, result, as_array(reference), case.rtol, case.atol)
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


def compare(inferred: Any, result: Any, reference: Any, rtol: float, atol: float) -> None:
    ours = np.asarray(result)
    assert inferred.shape is None or len(inferred.shape) == reference.ndim, f"inferred {inferred}"
    for dim, size in zip(inferred.shape or (), reference.shape, strict=False):
        assert not isinstance(dim, int) or dim == size, f"inferred {inferred}, is {reference.shape}"
    assert ours.shape == reference.shape, f"shape {ours.shape}, expected {reference.shape}"
    if reference.dtype.kind in "OUST":
        np.testing.assert_array_equal(ours.astype(str), reference.astype(str))
        return
    assert ours.dtype == reference.dtype, f"type {ours.dtype}, expected {reference.dtype}"
    rtol = max(rtol, TOLERANCE.get(ours.dtype.name, 0.0))
    atol = max(atol, TOLERANCE.get(ours.dtype.name, 1e-7))
    wide = complex if ours.dtype.kind == "c" else np.float64
    np.testing.assert_allclose(ours.astype(wide), reference.astype(wide), rtol=rtol, atol=atol)


def as_array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value)


def read_data_sets(folder: Path) -> list[tuple[list[Any], list[Any]]]:
    """Read inputs and outputs that lie in files."""
    return [
        (read_tensors(each, "input"), read_tensors(each, "output"))
        for each in sorted(folder.glob("test_data_set_*"))
    ]


def read_tensors(folder: Path, kind: str) -> list[Any]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
    return [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
