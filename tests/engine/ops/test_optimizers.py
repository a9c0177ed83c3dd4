"""Training steps. ONNX Runtime has none of them: the twin is `onnx.reference`."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import load_model_from_string
from onnx.reference import ReferenceEvaluator

from engine.errors import InvalidModel
from tests.engine.ops.single_node import NodeCase, assert_close, floats

DOMAIN = "ai.onnx.preview.training"
CASES = [
    ("Adagrad", 3, {"norm_coefficient": 0.01, "decay_factor": 0.1, "epsilon": 1e-4}),
    ("Adagrad", 3, {}),
    ("Adam", 4, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.85, "epsilon": 1e-2}),
    ("Adam", 4, {"norm_coefficient_post": 0.1}),
    ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.5, "mode": "standard"}),
    ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.5, "mode": "nesterov"}),
]


@pytest.mark.parametrize(("op", "per_tensor", "attributes"), CASES)
@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize("tensors", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_step(op, per_tensor, attributes, updates, tensors, dtype):
    shapes = [(2, 3), (4,)][:tensors]
    inputs = [np.array(0.1, dtype), np.array(updates, np.int64)]
    inputs += [
        np.abs(floats(*shape, seed=group, dtype=dtype))
        for group in range(per_tensor)
        for shape in shapes
    ]
    outputs = tensors * (per_tensor - 1)
    case = NodeCase(op, inputs, attributes, outputs=outputs, domain=DOMAIN)
    expected = ReferenceEvaluator(load_model_from_string(case.model())).run(None, case.feeds())
    for ours, theirs in zip(case.run_engine("symbolic"), expected, strict=True):
        assert ours.dtype == dtype
        assert_close(ours, np.asarray(theirs, dtype), 1e-5, 1e-6)


def test_inputs_that_are_no_groups():
    inputs = [np.array(0.1, np.float32), np.array(0), floats(2), floats(2)]
    with pytest.raises(InvalidModel, match="per tensor"):
        NodeCase("Adagrad", inputs, domain=DOMAIN).graph()
    attributes = {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.5, "mode": "sideways"}
    with pytest.raises(InvalidModel, match="nesterov"):
        NodeCase("Momentum", [*inputs, floats(2)], attributes, outputs=2, domain=DOMAIN).graph()
