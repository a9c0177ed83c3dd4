"""Random numbers cannot be compared one by one: their moments are, and what seeds promise."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, check_node, floats, int64, row_states

MANY = 20_000
FLAT = np.zeros(MANY, np.float32)


def draw(op: str, *inputs: np.ndarray, **attributes: Any) -> np.ndarray:
    return NodeCase(op, inputs, attributes, opset=22).run_engine("symbolic")[0]


DRAWS: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("RandomNormal", [], {"shape": [4, 5]}),
    ("RandomUniform", [], {"shape": [4, 5]}),
    ("RandomNormalLike", [floats(4, 5)], {}),
    ("RandomUniformLike", [floats(4, 5)], {}),
    ("Bernoulli", [np.full((40, 5), 0.5, np.float32)], {}),
    ("Multinomial", [floats(4, 50)], {"sample_size": 5}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), DRAWS)
def test_seeds_repeat_and_their_absence_does_not(op, inputs, attributes):
    seeded = NodeCase(op, inputs, {**attributes, "seed": 7.0}, opset=22)
    plan = GraphPlan(seeded.graph())
    first, second = (plan.run(seeded.feeds())["y0"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = draw(op, *inputs, **attributes, seed=8.0)
    assert other.shape == first.shape
    assert (other != first).any()
    open_ = NodeCase(op, inputs, attributes, opset=22)
    plan = GraphPlan(open_.graph())
    first, second = (plan.run(open_.feeds())["y0"] for _ in range(2))
    assert (first != second).any()


def test_moments():
    normal = draw("RandomNormal", shape=[MANY], mean=3.0, scale=2.0, seed=1.0)
    assert abs(normal.mean() - 3) < 0.1
    assert abs(normal.std() - 2) < 0.1
    uniform = draw("RandomUniformLike", FLAT, low=-1.0, high=3.0, seed=1.0)
    assert -1 <= uniform.min() < uniform.max() <= 3
    assert abs(uniform.mean() - 1) < 0.1
    chances = np.repeat(np.array([0.0, 0.2, 1.0], np.float32), MANY)
    hits = draw("Bernoulli", chances, seed=1.0).reshape(3, MANY).mean(axis=1)
    np.testing.assert_allclose(hits, [0, 0.2, 1], atol=0.02)


def test_multinomial_follows_the_probabilities():
    chances = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        logs = (np.log(chances) + 5).astype(np.float32)
    drawn = draw("Multinomial", logs, sample_size=MANY, seed=1.0, dtype=7)
    assert drawn.dtype == np.int64
    shares = np.stack([(drawn == k).mean(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(shares, chances, atol=0.02)
    assert draw("Multinomial", logs[:0]).shape == (0, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_types(dtype):
    assert draw("RandomNormalLike", floats(3).astype(dtype)).dtype == dtype
    assert draw("RandomUniformLike", int64(1, 2), dtype=11).dtype == np.float64
    assert draw("Bernoulli", np.full(3, 0.5, dtype), dtype=9).dtype == bool


@pytest.mark.parametrize("mode", ["plain", "ratio", "off"])
def test_dropout_that_drops_nothing(mode):
    x = floats(3, 4)
    inputs = [x, np.float32(0.3).reshape(()), np.array(False)]
    given = inputs[: {"plain": 1, "ratio": 2, "off": 3}[mode]]
    for opset in (13, 22):
        for dims in ("static", "symbolic"):
            y, mask = NodeCase("Dropout", given, opset=opset, outputs=2).run_engine(dims)
            np.testing.assert_array_equal(y, x)
            assert mask.all()
    check_node("Dropout", x, opset=7, atol=0, ratio=0.3)


def test_dropout_in_training():
    x = np.full(MANY, 3, np.float32)
    inputs = [x, np.float32(0.25).reshape(()), np.array(True)]
    y, mask = NodeCase("Dropout", inputs, {"seed": 5}, opset=13, outputs=2).run_engine()
    assert set(np.unique(y)) == {0, 4}
    np.testing.assert_array_equal(y != 0, mask)
    assert abs(mask.mean() - 0.75) < 0.02
    again, _ = NodeCase("Dropout", inputs, {"seed": 5}, opset=13, outputs=2).run_engine()
    np.testing.assert_array_equal(again, y)
    with pytest.raises(RunFailed, match="ratio"):
        NodeCase("Dropout", [x, np.float32(1).reshape(()), np.array(True)]).run_engine()


def test_rows():
    like = NodeCase("RandomNormalLike", [floats(3, 2)])
    assert row_states(like, (0,))[0].is_rows
    seeded = NodeCase("RandomNormalLike", [floats(3, 2)], {"seed": 1.0})
    assert not row_states(seeded, (0,))[0].is_rows
    inputs = [floats(3, 2), np.float32(0.25).reshape(()), np.array(True)]
    for attributes, fixed, apart in (
        ({}, (1, 2), True),
        ({"seed": 1}, (1, 2), False),
        ({"seed": 1}, (), False),
    ):
        case = NodeCase("Dropout", inputs, attributes, fixed=fixed)
        assert row_states(case, (0,))[0].is_rows == apart
    still = NodeCase("Dropout", [*inputs[:2], np.array(False)], {"seed": 1}, fixed=(1, 2))
    assert row_states(still, (0,))[0].is_rows


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "match"),
    [
        ("RandomNormal", [], {"shape": [-1]}, "shape"),
        ("RandomNormal", [], {"shape": [2], "dtype": 7}, "float"),
        ("RandomNormal", [], {"shape": [2], "seed": float("nan")}, "seed"),
        ("RandomUniformLike", [int64(1)], {}, "float"),
        ("Multinomial", [floats(3)], {}, r"\[N, C\]"),
        ("Multinomial", [floats(3, 2)], {"sample_size": 0}, "0 samples"),
        ("Multinomial", [floats(3, 2)], {"dtype": 1}, "int32"),
    ],
)
def test_models_that_do_not_fit(op, inputs, attributes, match):
    with pytest.raises(InvalidModel, match=match):
        NodeCase(op, inputs, attributes).graph()


def test_a_huge_draw_is_refused_before_it_is_made():
    case = NodeCase("RandomNormal", [], {"shape": [1 << 40]})
    with pytest.raises(ResourceLimit):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20)).run({})


def test_rows_without_a_chance():
    with pytest.raises(RunFailed, match="finite"):
        draw("Multinomial", np.full((1, 3), -np.inf, np.float32))
