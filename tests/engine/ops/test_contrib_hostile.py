"""Wrong nodes of com.microsoft, and quantized ones, end in errors of the engine's own."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import engine
from engine.errors import EngineError, GraphInvalid
from engine.limits import Limits
from tests.engine.ops import (
    test_contrib,
    test_contrib_attention,
    test_contrib_layers,
    test_contrib_misc,
    test_contrib_weights,
    test_quantization,
)
from tests.engine.ops.single_node import NodeCase

EXAMPLES = 250
MANY = 12_000
LIMITS = Limits(run_bytes=1 << 26)  # what asks for more is refused
HUGE = (-1, 0, 3, 17, 1 << 31, 1 << 62, -(1 << 62))


def seeds() -> list[NodeCase]:
    """Nodes that are right, from all of the tests of this domain."""
    found = []
    for module in (test_contrib_attention, test_contrib_layers, test_contrib_misc):
        found += [row[0] for row in module.ROWS]
    for rows in (test_contrib_weights.ROWS, test_quantization.ROWS):
        found += [row[0] for row in rows]
    for op, inputs, attributes, *_ in test_contrib.ROWS:
        found.append(NodeCase(op, inputs, attributes, domain="com.microsoft"))
    group = test_contrib_attention
    found.append(group.case("GroupQueryAttention", *group.group_inputs(1, 4, 6), **group.GROUPS))
    return found


def mutated(case: NodeCase, rng: random.Random) -> NodeCase:
    inputs, attributes = list(case.inputs), dict(case.attributes)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(inputs))
        x = inputs[i]
        match rng.randrange(7):
            case 0:
                inputs[i] = None
            case 1 if x is not None:
                inputs[i] = x[None]
            case 2 if x is not None and x.ndim:
                inputs[i] = np.ascontiguousarray(x[:, :-1] if x.ndim > 1 else x[:-1])
            case 3 if x is not None and x.ndim:
                inputs[i] = np.concatenate([x, x])
            case 4 if x is not None and x.size and x.dtype.kind in "iu":
                inputs[i] = np.where(x > x.min(), x, np.iinfo(x.dtype).max).astype(x.dtype)
            case 5:
                j = rng.randrange(len(inputs))
                inputs[i], inputs[j] = inputs[j], inputs[i]
            case _ if attributes:
                name = rng.choice(sorted(attributes))
                attributes[name] = rng.choice([*HUGE, 2.5, "word", [1, 2], [-3], ["a"]])
    fixed = [i for i, x in enumerate(inputs) if x is not None and rng.random() < 0.4]
    return replace(case, inputs=inputs, attributes=attributes, fixed=fixed)


def run(case: NodeCase, dims: str) -> bool:
    """Load and run; whether both went well. Any error but the engine's own is raised."""
    try:
        with engine.load(case.model(dims), device="reference", limits=LIMITS) as model:
            model.run(case.feeds())
    except GraphInvalid:  # would be a fault of the engine
        raise
    except EngineError:
        return False
    case.run_engine(dims)  # holds the inferred types to the results
    return True


def check(count: int) -> None:
    rng, known, fine = random.Random(5), seeds(), 0
    for _ in range(count):
        case = mutated(rng.choice(known), rng)
        dims = rng.choice(["static", "symbolic"])
        try:
            fine += run(case, dims)
        except Exception as error:
            shapes = [None if x is None else (x.dtype, x.shape) for x in case.inputs]
            facts: Any = (case.op, shapes, case.attributes, case.fixed, dims)
            raise AssertionError(f"{type(error).__name__}: {error} from {facts}") from error
    assert 0 < fine < count  # some changes do no harm, most do


def test_wrong_nodes() -> None:
    check(EXAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_wrong_nodes() -> None:
    check(MANY)
