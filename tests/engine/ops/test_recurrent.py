from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 2


def weights(op: str, directions: int) -> list[np.ndarray]:
    rows = GATES[op] * HIDDEN
    return [
        floats(directions, rows, INPUT, seed=1),
        floats(directions, rows, HIDDEN, seed=2),
        floats(directions, 2 * rows, seed=3),
    ]


def states(op: str, directions: int) -> list[np.ndarray]:
    count = 2 if op == "LSTM" else 1
    return [floats(directions, BATCH, HIDDEN, seed=5 + i) for i in range(count)]


def outputs(op: str) -> int:
    return 3 if op == "LSTM" else 2


X = floats(STEPS, BATCH, INPUT)
LENGTHS = np.array([5, 2, 3], np.int32)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", list(GATES))
def test_directions(op, direction):
    directions = 2 if direction == "bidirectional" else 1
    attributes = {"hidden_size": HIDDEN, "direction": direction, "outputs": outputs(op)}
    check_node(op, X, *weights(op, directions), **attributes)
    check_node(op, X, *weights(op, directions), LENGTHS, *states(op, directions), **attributes)
    check_node(op, X, *weights(op, directions)[:2], **attributes)


@pytest.mark.parametrize("op", list(GATES))
def test_gate_inputs_are_clipped(op):
    check_node(op, X * 9, *weights(op, 1), hidden_size=HIDDEN, clip=0.7, outputs=outputs(op))


NAMES = ["Relu", "LeakyRelu", "HardSigmoid", "Elu", "Softsign", "Softplus"]


@pytest.mark.parametrize("name", NAMES)
def test_activations(name):
    check_node("RNN", X, *weights("RNN", 1), hidden_size=HIDDEN, activations=[name], atol=1e-4)


def test_parameters_of_activations_are_handed_out_in_order():
    attributes = {"activations": ["HardSigmoid", "Affine"], "activation_alpha": [0.3, 0.5]}
    attributes["activation_beta"] = [0.4, 0.1]
    check_node("GRU", X, *weights("GRU", 1), hidden_size=HIDDEN, atol=1e-4, **attributes)
    attributes = {"activations": ["ScaledTanh"], "activation_alpha": [0.5]}
    attributes["activation_beta"] = [2.0]
    check_node("RNN", X, *weights("RNN", 1), hidden_size=HIDDEN, atol=1e-4, **attributes)
    attributes = {"activations": ["ThresholdedRelu"], "activation_alpha": [0.5]}
    check_node("RNN", X, *weights("RNN", 1), hidden_size=HIDDEN, atol=1e-4, **attributes)


@pytest.mark.parametrize("linear", [0, 1])
def test_gru_resets_before_or_behind_the_product(linear):
    check_node("GRU", X, *weights("GRU", 1), hidden_size=HIDDEN, linear_before_reset=linear)


def test_lstm_with_peepholes_and_coupled_gates():
    inputs = [X, *weights("LSTM", 1), None, *states("LSTM", 1), floats(1, 3 * HIDDEN, seed=9)]
    check_node("LSTM", *inputs, hidden_size=HIDDEN, outputs=3)
    check_node("LSTM", *inputs, hidden_size=HIDDEN, outputs=3, input_forget=1)


@pytest.mark.parametrize("op", list(GATES))
def test_batch_first_is_the_same_transposed(op):
    first = NodeCase(op, [X, *weights(op, 1)], {"hidden_size": HIDDEN}, outputs=2).run_engine()
    attributes = {"hidden_size": HIDDEN, "layout": 1}
    case = NodeCase(op, [X.swapaxes(0, 1), *weights(op, 1)], attributes, outputs=2)
    y, last = case.run_engine("symbolic")
    np.testing.assert_allclose(y, first[0].transpose(2, 0, 1, 3), rtol=1e-6)
    np.testing.assert_allclose(last, first[1].swapaxes(0, 1), rtol=1e-6)
    given = [X.swapaxes(0, 1), *weights(op, 1), LENGTHS, floats(BATCH, 1, HIDDEN, seed=5)]
    states_of_rows = check_rows(NodeCase(op, given, attributes, outputs=2), (0, 4, 5))
    assert [s.axis for s in states_of_rows if s.is_rows] == [0, 0]
    assert not row_states(NodeCase(op, given, attributes, outputs=2), (0, 5))[0].is_rows


def test_half_precision():
    half = [v.astype(np.float16) for v in (X, *weights("GRU", 1))]
    (ours,) = NodeCase("GRU", half, {"hidden_size": HIDDEN}).run_engine()
    (wide,) = NodeCase("GRU", [X, *weights("GRU", 1)], {"hidden_size": HIDDEN}).run_engine()
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, wide, atol=1e-2)


def test_what_does_not_fit_is_refused():
    w, r, b = weights("RNN", 1)
    with pytest.raises(InvalidModel, match="directions"):
        NodeCase("RNN", [X, w, r, b], {"direction": "bidirectional"}).graph()
    with pytest.raises(InvalidModel, match="rank 3"):
        NodeCase("RNN", [X[0], w, r, b]).graph()
    with pytest.raises((InvalidModel, RunFailed), match="sideways"):
        NodeCase("RNN", [X, w, r, b], {"direction": "sideways"}).run_engine()
    with pytest.raises((InvalidModel, RunFailed), match="sideways"):
        NodeCase("RNN", [X, w, r, b], {"activations": ["sideways"]}).run_engine()
    with pytest.raises(RunFailed, match="do not fit"):
        NodeCase("RNN", [floats(5, 3, 9), w, r, b]).run_engine()
