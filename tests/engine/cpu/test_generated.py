"""Generated graphs on the device `cpu`: the reference's values, and the same bits however run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import engine
from engine.cpu.specializing import SpecializingPlan
from tests.engine.passes.generated_graphs import INPUTS, Generated, graphs

ROUNDING = 2e-5  # of the largest value anywhere in the graph: sums may cancel later
SIZES = ((2, 3), (1, 3), (5, 3), (2, 1), (0, 3), (2, 0), (9, 4))  # of N and L; the first fits
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

Arrays = Mapping[str, np.ndarray]


def feeds(count: int, length: int) -> dict[str, np.ndarray]:
    """Inputs for numbers of N and L."""
    rng, sizes = np.random.default_rng(7), {"N": count, "L": length}
    made = {}
    for name, (dims, _) in INPUTS.items():
        shape = [sizes[d] if isinstance(d, str) else int(str(d)) for d in dims]
        made[name] = rng.standard_normal(shape).astype(np.float32)
    return made


def outcome(model: engine.Model, given: Arrays) -> dict[str, np.ndarray] | engine.EngineError:
    """What a run gives once open sizes, where there are any, have got the plan of their own.

    That plan adds up in another order than the general one that serves until it is there.
    """
    try:
        results = model.run(given)
        if not isinstance(model._plan, SpecializingPlan):
            return results
        assert model._plan.wait(100)
        return model.run(given)
    except engine.EngineError as error:
        return error


def check(case: Generated) -> None:
    """Hold one model per number of threads to the reference and to each other."""
    reference = engine.load(case.data, device="reference", outputs=engine.ALL)
    natives = [engine.load(case.data, device="cpu", threads=threads) for threads in (1, 2, 3)]
    for number, sizes in enumerate(SIZES):
        inputs = feeds(*sizes)
        want = outcome(reference, inputs)
        first, *others = (outcome(native, inputs) for native in natives)
        if isinstance(want, engine.EngineError):
            assert number and (isinstance(first, engine.EngineError) or 0 in sizes), want
            continue
        assert isinstance(first, dict), (sizes, first)
        compare(first, {name: want[name] for name in case.outputs}, largest(want))
        for other in others:
            assert isinstance(other, dict)
            assert all(other[name].tobytes() == first[name].tobytes() for name in first), sizes
    check_rows(natives)


def compare(got: Arrays, want: Arrays, most: float) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape, name
        np.testing.assert_allclose(got[name], value, 1e-4, ROUNDING * most, err_msg=name)


def largest(values: Arrays) -> float:
    found = 1.0
    for value in map(np.asarray, values.values()):
        if value.dtype.kind == "f" and value.size:
            finite = value[np.isfinite(value)].astype(np.float64)
            found = max(found, float(np.abs(finite).max(initial=1.0)))
    return found


def check_rows(natives: list[engine.Model]) -> None:
    """A row alone has the bits that it has in a batch, if everything it meets is native."""
    alone, batched = natives[0], natives[1]
    axes = alone.batch
    plan = alone._plan
    assert plan is not None
    if axes is None or any(each.reason for each in plan.coverage):  # type: ignore[attr-defined]
        return
    inputs = feeds(7, 3)
    together = outcome(batched, inputs)
    for i in (0, 3, 6):
        row = {n: x[i : i + 1] if n in axes.inputs else x for n, x in inputs.items()}
        single = outcome(alone, row)
        if isinstance(together, dict) and isinstance(single, dict):
            for name in axes.outputs & single.keys():
                assert single[name].tobytes() == together[name][i : i + 1].tobytes(), (name, i)


@settings(max_examples=12, deadline=None, suppress_health_check=QUIET, derandomize=True)
@given(graphs())
def test_generated_graphs(case: Generated) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
@given(graphs(nodes=24))
def test_generated_graphs_at_length(case: Generated) -> None:
    check(case)
