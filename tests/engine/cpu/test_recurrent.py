"""Recurrent layers, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.kernels.recurrent import Given, Recurrent
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, target_for
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ERROR = 3e-6


def layer(
    op: str,
    steps: int,
    batch: int,
    *,
    inputs: int = 7,
    hidden: int = 20,
    direction: str = "forward",
    lengths: bool = False,
    states: bool = False,
    peepholes: bool = False,
    outputs: tuple[str, ...] = ("y", "h", "c"),
    **attributes: object,
) -> None:
    gates, directions = GATES[op], 2 if direction == "bidirectional" else 1
    weights = {
        "w": normal(directions, gates * hidden, inputs, seed=1) / 3,
        "r": normal(directions, gates * hidden, hidden, seed=2) / 4,
        "b": normal(directions, 2 * gates * hidden, seed=3) / 4,
    }
    batch_first = attributes.get("layout", 0)
    feeds = {"x": normal(*((batch, steps) if batch_first else (steps, batch)), inputs)}
    shapes: dict[str, list[int | str]] = {"x": ["A", "B", inputs]}
    names = ["x", "w", "r", "b", "", "", "", ""]
    if lengths:
        names[4] = "l"
        feeds["l"] = (np.arange(batch, dtype=np.int32) * 5 + 2) % (steps + 1)
        shapes["l"] = ["A" if batch_first else "B"]
    if states:
        names[5] = "h0"
        names[6] = "c0" if op == "LSTM" else ""
        first = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
        feeds.update({name: normal(*first, seed=5) for name in names[5:7] if name})
    if peepholes:
        names[7] = "p"
        weights["p"] = normal(directions, 3 * hidden, seed=7)
    outputs = outputs[: 3 if op == "LSTM" else 2]
    while not names[-1]:
        names.pop()
    nodes = [
        node(op, names, outputs, hidden_size=hidden, direction=direction, name="n", **attributes)
    ]
    if op == "GRU":
        nodes[0].attribute.append(node("Z", [], [], linear_before_reset=1).attribute[0])
    out = [(name, list("tdbh") if name == "y" else list("dbh")) for name in outputs if name]
    check(nodes, feeds, out, weights, shapes=shapes, tolerance=ERROR)


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_layers(op: str, direction: str) -> None:
    for steps, batch in ((5, 1), (4, 6), (0, 2), (3, 0)):
        layer(op, steps, batch, direction=direction)


@pytest.mark.parametrize("op", list(GATES))
def test_lengths_and_first_states(op: str) -> None:
    layer(op, 6, 5, direction="bidirectional", lengths=True, states=True)
    layer(op, 3, 2, direction="reverse", lengths=True, states=True)


def test_what_a_node_may_leave_out_or_add() -> None:
    layer("LSTM", 3, 5, outputs=("", "h"), hidden=32)
    layer("LSTM", 3, 2, outputs=("y",), layout=1, direction="bidirectional", states=True)
    layer("LSTM", 3, 4, peepholes=True, activations=["Sigmoid", "Relu", "Tanh"])
    layer("RNN", 4, 4, activations=["Relu"], layout=1)
    layer("RNN", 4, 4, activations=["Tanh", "Sigmoid"], direction="bidirectional")


def test_what_has_no_kernel() -> None:
    with pytest.raises(NoKernel, match="clips"):
        layer("LSTM", 2, 2, clip=1.0)
    with pytest.raises(NoKernel, match="activations"):
        layer("RNN", 2, 2, activations=["Softsign"])


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    for cell, functions in (("LSTM", ("sigmoid", "tanh", "tanh")), ("GRU", ("sigmoid", "tanh"))):
        kernel = Recurrent(cell, 20, (functions,), (True,), Given(lengths=True))
        assert compile_kernel(kernel, "kernel", target_for(isa))
