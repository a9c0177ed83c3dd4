from __future__ import annotations

import numpy as np
import pytest

from engine.errors import UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, row_states
from tests.engine.ops.test_quantization import EIGHT_BITS, integers, scalar

MICROSOFT = "com.microsoft"


def quantized(*shape: int, dtype: type = np.uint8, seed: int = 0) -> list[np.ndarray]:
    return [integers(*shape, dtype=dtype, seed=seed), scalar(0.05), scalar(7, dtype)]


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op, dtype):
    # With the result's scale and zero point, and without a zero point.
    left, right = quantized(2, 3, 4, dtype=dtype), quantized(3, 4, dtype=dtype, seed=1)
    check_node(op, *left, *right, scalar(0.2), scalar(9, dtype), domain=MICROSOFT, atol=1)
    check_node(op, *left, *right, scalar(0.2), domain=MICROSOFT, atol=1)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ],
)
def test_average_pool(attributes):
    inputs = [*quantized(2, 3, 8, 7), scalar(0.04), scalar(3, np.uint8)]
    check_node("QLinearAveragePool", *inputs, domain=MICROSOFT, atol=1, **attributes)


def test_global_average_pool():
    inputs = [*quantized(2, 3, 8, 7), scalar(0.04), scalar(3, np.uint8)]
    check_node("QLinearGlobalAveragePool", *inputs, domain=MICROSOFT, atol=1)


@pytest.mark.parametrize("op", ["QLinearAveragePool", "QLinearGlobalAveragePool"])
def test_channels_last_is_refused(op):
    attributes = {"channels_last": 1}
    if op == "QLinearAveragePool":
        attributes["kernel_shape"] = [2, 2]
    inputs = [*quantized(1, 3, 4, 4), scalar(0.04), scalar(3, np.uint8)]
    with pytest.raises(UnsupportedOp, match="channels_last"):
        NodeCase(op, inputs, attributes, domain=MICROSOFT).graph()


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [1, -1])
def test_softmax(axis, opset):
    inputs = [*quantized(2, 3, 4), scalar(1 / 256), scalar(0, np.uint8)]
    case = {"axis": axis, "opset": opset}
    (ours,) = NodeCase("QLinearSoftmax", inputs, case, domain=MICROSOFT).run_engine("symbolic")
    x = inputs[0].astype(np.float64) * 0.05
    axes = axis if opset >= 13 else tuple(range(axis % 3, 3))
    weights = np.exp(x - x.max(axes, keepdims=True))
    expected = np.rint(weights / weights.sum(axes, keepdims=True) * 256).clip(0, 255)
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_concat():
    parts = [*quantized(2, 3), *quantized(2, 4, seed=1)]
    output = [scalar(0.1), scalar(5, np.uint8)]
    check_node("QLinearConcat", *output, *parts, domain=MICROSOFT, axis=1, atol=1)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_unary(op, dtype):
    inputs = [*quantized(3, 40, dtype=dtype), scalar(1 / 256), scalar(0, dtype)]
    check_node(op, *inputs, domain=MICROSOFT, atol=1)


OUT = [scalar(0.04), scalar(3, np.uint8)]
ROWS = [
    ("QLinearAdd", [*quantized(3, 4), *quantized(3, 4), *OUT], {}, (0, 3), True),
    ("QLinearAdd", [*quantized(3, 4), *quantized(1, 4), *OUT], {}, (0,), True),
    ("QLinearAdd", [*quantized(3, 4), *quantized(4), *OUT], {}, (0,), True),
    ("QLinearAdd", [*quantized(3, 4), *quantized(3, 4), *OUT], {}, (0,), False),
    ("QLinearAveragePool", [*quantized(3, 1, 4, 4), *OUT], {"kernel_shape": [2, 2]}, (0,), True),
    ("QLinearSoftmax", [*quantized(3, 4), *OUT], {"axis": 1, "opset": 13}, (0,), True),
    ("QLinearSoftmax", [*quantized(3, 4), *OUT], {"axis": 0, "opset": 13}, (0,), False),
    ("QLinearConcat", [*OUT, *quantized(3, 4), *quantized(3, 2)], {"axis": 1}, (2, 5), True),
    ("QLinearConcat", [*OUT, *quantized(3, 4), *quantized(3, 2)], {"axis": 0}, (2, 5), False),
    ("QLinearConcat", [*OUT, *quantized(3, 4), *quantized(3, 2)], {"axis": 1}, (2,), False),
    ("QLinearSigmoid", [*quantized(3, 4), *OUT], {}, (0,), True),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "items", "expected"), ROWS)
def test_rows(op, inputs, attributes, items, expected):
    case = NodeCase(op, inputs, attributes, domain=MICROSOFT)
    (state,) = check_rows(case, items) if expected else row_states(case, items)
    assert state.is_rows == expected
