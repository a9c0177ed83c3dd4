"""ONNX's own backend suite on the device `cpu`: a sample every time, all of it in the full gate."""

from __future__ import annotations

import pytest

from benchmarks.conformance.__main__ import Task, run_case
from benchmarks.conformance.cases import case_names
from benchmarks.conformance.reasons import reason_for

SHARDS = 16
SAMPLED = 5  # of the shards: together with the networks it has every family of kernels


def failures(suite: str, names: list[str]) -> list[str]:
    """Run cases as users run models; name those that fail without a known reason."""
    problems = {n: run_case(Task("millrace", suite, n)) for n in names if not reason_for(n)}
    return [f"{name}: {problem}" for name, problem in problems.items() if problem]


def test_a_sample_of_the_node_cases() -> None:
    found = failures("node", case_names("node")[SAMPLED::SHARDS])
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_node_cases(shard: int) -> None:
    found = failures("node", case_names("node")[shard::SHARDS])
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", ["simple", "pytorch-converted", "pytorch-operator"])
def test_other_cases(suite: str) -> None:
    found = failures(suite, case_names(suite))
    assert not found, "\n".join(found)
