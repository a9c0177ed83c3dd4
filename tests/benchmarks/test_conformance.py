"""The conformance run itself: what counts as equal, reading cases, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest

from benchmarks.conformance import __main__ as command
from benchmarks.conformance.cases import SUITES, case_names, read_case
from benchmarks.conformance.compare import Mismatch, compare_all
from benchmarks.conformance.engines import ENGINES
from benchmarks.conformance.ort_values import from_ort, to_ort
from benchmarks.conformance.reasons import reason_for
from benchmarks.conformance.report import (
    SuiteResult,
    read_results,
    report_text,
    unexplained,
    write_report,
)

A = np.array([1.0, 2.0], np.float32)
SLOW = pytest.mark.slow
ON_DISK = [suite for suite in SUITES if suite != "node"]


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (A, A + 1e-4),
        ([A, A], [A, A]),
        (None, None),
        (np.array(["a"], object), np.array(["a"])),
        (A.astype(ml_dtypes.bfloat16), (A * 1.005).astype(ml_dtypes.bfloat16)),
        (A * np.float32("nan"), A * np.float32("nan")),
    ],
)
def test_equal(ours: Any, expected: Any) -> None:
    compare_all([ours], [expected], 1e-3, 1e-7)


@pytest.mark.parametrize(
    ("ours", "expected", "words"),
    [
        (A, A + 1, "2 of 2 elements differ"),
        (A, A[:1], "shape"),
        (A, A.astype(np.float64), "type float32"),
        ([A], [A, A], "a sequence of 1"),
        (A, None, "expected nothing"),
        (None, A, "nothing, expected"),
        (np.array(["a"]), np.array(["b"]), "texts differ"),
    ],
)
def test_different(ours: Any, expected: Any, words: str) -> None:
    with pytest.raises(Mismatch, match=words):
        compare_all([ours], [expected], 1e-3, 1e-7)
    with pytest.raises(Mismatch, match="1 outputs, expected 2"):
        compare_all([ours], [expected, expected], 1e-3, 1e-7)


@pytest.mark.parametrize("suite", ON_DISK)
def test_cases_on_disk_can_be_read(suite: str) -> None:
    names = case_names(suite)
    assert len(names) >= 9
    content = read_case(suite, names[0])
    for inputs, outputs in content.data_sets:
        assert len(inputs) == len(content.inputs) and len(outputs) == len(content.outputs)


WHOLE_FILES = ("simple", "pytorch-operator", "pytorch-converted")
EVERY = 8  # case is tried here, every one where there is time


@pytest.mark.parametrize("suite", WHOLE_FILES)
@pytest.mark.parametrize("start", [0, *(pytest.param(k, marks=SLOW) for k in range(1, EVERY))])
def test_our_engine_passes_what_is_small(suite: str, start: int) -> None:
    """The node cases have a test of their own; these are whole files as tools wrote them."""
    problems = {}
    for name in case_names(suite)[start::EVERY]:
        problem = command.run_case(command.Task("millrace", suite, name))
        if problem and reason_for(name) is None:
            problems[name] = problem
    assert not problems


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_engine_runs_and_failures_say_why(engine: str) -> None:
    assert not command.run_case(command.Task(engine, "simple", "test_single_relu_model"))
    assert command.run_case(command.Task(engine, "simple", "test_gradient_of_add"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_command_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engine", "millrace", "--suite", "simple", "--jobs", "1"]
    assert command.main([*arguments, "--output", str(tmp_path)]) == 0
    assert "21/23" in capsys.readouterr().out
    stored = read_results(tmp_path)["millrace"]["simple"]
    assert stored.total == 23 and stored.failures.keys() == {
        "test_gradient_of_add",
        "test_gradient_of_add_and_mul",
    }
    assert "belongs to training" in (tmp_path / "conformance.md").read_text()


def test_the_report_tells_reasons_and_what_has_none() -> None:
    results = {"millrace": {"node": SuiteResult(3, {"test_gradient_of_x": "a", "test_y": "b|c"})}}
    text = report_text(results)
    assert "1/3 (33.3%)" in text and "belongs to training" in text and "b\\|c" in text
    assert unexplained(results) == {"test_y": "b|c"}


def test_results_survive_the_file(tmp_path: Path) -> None:
    results = {"millrace": {"node": SuiteResult(3, {"test_y": "b"})}}
    write_report(results, tmp_path)
    assert read_results(tmp_path) == results
    assert read_results(tmp_path / "none") == {}


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "int4", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("shape", [(3,), (2, 2), (0,), ()])
def test_narrow_types_go_into_onnxruntime_and_come_out(name: str, shape: tuple[int, ...]) -> None:
    values = np.array([1, 0, 3, -1])[: int(np.prod(shape))].reshape(shape)
    array = np.abs(values).astype(name) if name == "uint4" else values.astype(name)
    back = from_ort(to_ort(onnxruntime, array))
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back.astype(np.float32), array.astype(np.float32))
