"""Networks as exporters write them, with some wires moved: patterns that are almost there.

A recogniser must not take for its pattern what only looks like it, and must leave what somebody
else reads. Everything is in float64, so that rounding cannot pass for an error, or hide one.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from engine.compiler import ALL, CompileRequest, compile_model
from engine.errors import EngineError
from engine.ir.types import TensorType
from engine.ir.value_types import ValueType
from tests.engine.onnx_models import normal
from tests.engine.passes import exported
from tests.engine.passes.comparing import compiled, run
from tests.engine.passes.exported import DOUBLE

NETS: dict[str, Callable[[], bytes]] = {
    "torchscript": lambda: exported.bert_torchscript(14, kind=DOUBLE),
    "torchscript tanh": lambda: exported.bert_torchscript(11, kind=DOUBLE, tanh=True),
    "dynamo": lambda: exported.bert_dynamo(kind=DOUBLE, safe=True),
    "llama": lambda: exported.llama(DOUBLE),
}
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
FEEDS = {"x": normal(3, 5, 8).astype(np.float64), "mask": MASK}
NEAREST = 8  # values before a node among which another input is picked
ROUNDING = 1e-7  # of the largest value anywhere
LARGEST = 1e6
Types = Mapping[str, ValueType]


@functools.cache
def types_of(name: str) -> Types:
    return compile_model(NETS[name](), CompileRequest(outputs=ALL, level=0)).graph.types


def rewired(name: str, seed: int) -> bytes:
    """The net with one to three float inputs moved to another value of their type, and up to two
    values more as outputs.
    """
    dice, types = random.Random(seed), types_of(name)
    model = onnx.load_from_string(NETS[name]())
    for _ in range(dice.randint(1, 3)):
        move_a_wire(model.graph, types, dice)
    given = {value.name for value in model.graph.output}
    values = [o for node in model.graph.node for o in node.output if o not in given]
    for value in dice.sample(values, dice.randint(0, 2)):
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    return bytes(model.SerializeToString())


def move_a_wire(graph: onnx.GraphProto, types: Types, dice: random.Random) -> None:
    places = [(k, i) for k, node in enumerate(graph.node) for i in range(len(node.input))]
    dice.shuffle(places)
    for k, i in places:
        kind = types.get(graph.node[k].input[i])
        if not isinstance(kind, TensorType) or not kind.dtype.is_float:
            continue
        before = [o for node in graph.node[:k] for o in node.output]
        before += [tensor.name for tensor in graph.initializer]
        others = [n for n in before if types.get(n) == kind and n != graph.node[k].input[i]]
        if others:
            graph.node[k].input[i] = dice.choice(others[-NEAREST:])
            return


def check(name: str, seed: int) -> bool:
    """Whether the net still means something; if so, O2 must mean the same."""
    data = rewired(name, seed)
    feeds = {n: FEEDS[n] for n in ("x", "mask") if name != "llama" or n == "x"}
    try:
        plain = compile_model(data, CompileRequest(outputs=ALL, level=0)).graph
        want = run(plain, feeds)
    except EngineError:
        return False
    floats = [v[np.isfinite(v)] for v in want.values() if v.dtype.kind == "f"]
    largest = max(float(np.abs(v).max(initial=1.0)) for v in floats)
    if largest > LARGEST:  # it divides by almost nothing, and shows how that was rounded
        return False
    bound = ROUNDING * largest
    for value, got in run(compiled(data, 2), feeds).items():
        where = f"{value} of {name!r}, seed {seed}"
        assert got.dtype == want[value].dtype, where
        np.testing.assert_allclose(got, want[value], rtol=ROUNDING, atol=bound, err_msg=where)
    return True


@pytest.mark.parametrize("name", NETS)
def test_rewired_networks_mean_the_same(name: str) -> None:
    assert sum(check(name, seed) for seed in range(12)) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETS)
def test_rewired_networks_mean_the_same_at_length(name: str) -> None:
    assert sum(check(name, seed) for seed in range(100, 1100)) >= 800
