"""Precision "auto": the fastest that agrees with float32 on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

import engine
from engine.choosing import Bound, choose
from engine.compiler import STORED_INT8
from engine.errors import DeviceUnavailable, InvalidInput, RunFailed
from engine.ir.graph import Graph
from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.test_integer_weights import IDS, tied
from tests.engine.quantized_models import Qdq

WANT = {"y": np.array([1.0, -2.0, np.nan], np.float32)}
SAMPLES = [{"x": np.zeros(3, np.float32)}]


class Clock:
    """Time that passes where a test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


clock = Clock()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.choosing.time", clock)


class Fake:
    """A model that takes a while and gives what it is told to give."""

    kept = ("y",)

    def __init__(self, seconds: float, gives: Mapping[str, Any] | Exception = WANT) -> None:
        self.seconds, self.gives, self.closed = seconds, gives, False
        self.precision, self.choice = "fp32", None

    @property
    def graph(self) -> Graph:
        return BYTES

    def run(self, feeds: object, fetches: Sequence[str] | None = None) -> Mapping[str, Any]:
        clock.now += self.seconds
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    def close(self) -> None:
        self.closed = True


BYTES = engine.load(tied(), device="reference", precision="int8").graph
SLOW, FAST = 0.02, 0.001


def chosen(bound: Bound = Bound(), **models: Fake) -> engine.Model:  # noqa: B008 - frozen
    """Choose among these; every one but the chosen must be closed, and the others are missing."""
    offered = {STORED_INT8 if name == "int8" else name: fake for name, fake in models.items()}

    def load(name: str) -> engine.Model:
        if name not in offered:
            raise DeviceUnavailable(f"no {name} here")
        return cast(engine.Model, offered[name])

    found = choose(load, SAMPLES, bound)
    assert found.choice is not None and found.choice.precision == found.precision
    assert [fake for fake in models.values() if not fake.closed] == [found]
    return found


@pytest.mark.usefixtures("still")
def test_the_fastest_that_agrees_is_kept() -> None:
    found = chosen(fp32=Fake(SLOW), bf16=Fake(SLOW / 2), int8=Fake(FAST))
    assert found.precision == "int8"
    assert found.choice is not None
    assert {c.precision for c in found.choice.candidates} == {"fp32", "bf16", "int8"}
    assert all(c.seconds is not None and not c.reason for c in found.choice.candidates)


@pytest.mark.usefixtures("still")
def test_what_disagrees_is_not() -> None:
    near = {"y": np.array([1.009, -2.0, np.nan], np.float32)}
    models = {"fp32": Fake(SLOW), "bf16": Fake(SLOW / 2), "int8": Fake(FAST, near)}
    found = chosen(**models)
    assert found.precision == "bf16" and found.choice is not None
    (reason,) = [c.reason for c in found.choice.candidates if c.precision == "int8"]
    assert reason == "1 of 3 values of output 'y' are too far"
    models = {"fp32": Fake(SLOW), "bf16": Fake(SLOW / 2), "int8": Fake(FAST, near)}
    assert chosen(Bound(rtol=0.01), **models).precision == "int8"


@pytest.mark.parametrize(
    "gives",
    [
        {"y": np.array([1.0, -2.0, 3.0], np.float32)},
        {"y": np.zeros((3, 1), np.float32)},
        {"y": [1, 2]},
        RunFailed("y", "Gather", "an index is out of range"),
    ],
)
def test_other_shapes_and_failures_are_no_agreement(gives: Any) -> None:
    assert chosen(fp32=Fake(SLOW), bf16=Fake(FAST, gives)).precision == "fp32"


@pytest.mark.usefixtures("still")
def test_a_gain_too_small_is_not_worth_it() -> None:
    found = chosen(fp32=Fake(SLOW), bf16=Fake(SLOW * 0.99))
    assert found.precision == "fp32" and found.choice is not None
    assert found.choice.reason == "nothing that agrees is faster"


def test_samples_that_cannot_be_run_are_told_and_nothing_stays_open() -> None:
    fake = Fake(0, InvalidInput("x is missing"))
    with pytest.raises(InvalidInput, match="x is missing"):
        choose(lambda _: cast(engine.Model, fake), SAMPLES, Bound())
    assert fake.closed


def test_without_samples_it_is_float32() -> None:
    loaded = engine.load(tied(), precision="auto", device="reference")
    assert loaded.precision == "fp32" and loaded.choice is not None
    assert loaded.choice.reason == "there are no samples to compare by"


def test_stored_bytes_are_tried_and_judged_by_the_bound() -> None:
    for rtol, agrees in ((1e-6, False), (1e3, True)):
        bound = engine.Bound(rtol=rtol, atol=rtol)
        found = engine.load(
            tied(), device="reference", precision="auto", samples=[IDS], bound=bound
        )
        assert found.choice is not None
        (int8,) = [c for c in found.choice.candidates if c.precision == "int8"]
        assert (int8.seconds is not None) is agrees and bool(int8.reason) is not agrees
        if not agrees:
            assert found.precision == "fp32"
        assert found.run(IDS)


def test_floats_are_not_quantized_unasked() -> None:
    weights = {"w": np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    data = model(nodes, [("x", ["N", 64])], [("y", ["N", 8])], weights)
    loose, samples = engine.Bound(rtol=10, atol=10), [{"x": normal(3, 64)}]
    found = engine.load(data, device="reference", precision="auto", samples=samples, bound=loose)
    assert found.choice is not None
    (int8,) = [c for c in found.choice.candidates if c.precision == "int8"]
    assert int8.reason == "no product has weights that are stored as bytes"
    assert engine.load(data, device="reference", precision="int8").precision == "int8"


def test_a_model_that_is_quantized_whole_has_nothing_to_try() -> None:
    q = Qdq(1)
    y = q.pair(q.add("MatMul", q.pair("x", 0.05, 9), q.fixed((64, 8), 1)), 0.5, 3)
    data = q.build([("x", ["N", 64])], [(y, ["N", 8])])
    found = engine.load(data, device="reference", precision="auto", samples=[{"x": normal(2, 64)}])
    assert found.precision == "fp32"
