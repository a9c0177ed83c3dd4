from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states
from tests.engine.ops.test_quantization import EIGHT_BITS, integers, scalar

MICROSOFT = "com.microsoft"


def quantized(*shape: int, dtype: type = np.uint8, seed: int = 0) -> list[np.ndarray]:
    return [integers(*shape, dtype=dtype, seed=seed), scalar(0.05), scalar(7, dtype)]


OUT = [scalar(0.04), scalar(3, np.uint8)]


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
def test_pooling_with_channels_last(op):
    attributes = {"channels_last": 1}
    if op == "QLinearAveragePool":
        attributes |= {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    inputs = [*quantized(2, 7, 6, 5), scalar(0.04), scalar(3, np.uint8)]
    check_node(op, *inputs, domain=MICROSOFT, atol=1, **attributes)


def test_max_pool_with_channels_last():
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    check_node("NhwcMaxPool", quantized(2, 7, 6, 5)[0], domain=MICROSOFT, atol=0, **attributes)


@pytest.mark.parametrize("last", [0, 1])
def test_convolution_in_both_layouts(last):
    x = quantized(2, 8, 7, 4) if last else quantized(2, 4, 8, 7)
    w = [integers(6, 2, 3, 3, dtype=np.int8), floats(6, scale=0.01) + 0.02, np.zeros(6, np.int8)]
    bias = integers(6, dtype=np.int8, seed=3).astype(np.int32)
    inputs = [*x, *w, scalar(2.0), scalar(120, np.uint8), bias]
    attributes = {"group": 2, "pads": [1, 0, 1, 1], "strides": [2, 1], "channels_last": last}
    fixed = (3, 4, 5, 8)
    check_node("QLinearConv", *inputs, domain=MICROSOFT, atol=1, fixed=fixed, **attributes)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_where(dtype):
    condition = integers(3, 1, 4) > 100
    inputs = [condition, *quantized(3, 4, dtype=dtype), *quantized(2, 1, 3, 1, dtype=dtype, seed=1)]
    check_node("QLinearWhere", *inputs, scalar(0.04), scalar(3, dtype), domain=MICROSOFT, atol=1)


@pytest.mark.parametrize(("axes", "keepdims"), [([1], 1), ([-1, 1], 0), ([0], 0)])
def test_mean_over_axes(axes, keepdims):
    # ONNX Runtime has the schema, but no kernel for a CPU.
    x, scale, zero = quantized(3, 4, 5)
    attributes = {"axes": axes, "keepdims": keepdims}
    case = NodeCase("QLinearReduceMean", [x, scale, zero, *OUT], attributes, domain=MICROSOFT)
    (ours,) = case.run_engine("symbolic")
    mean = ((x.astype(np.float64) - 7) * 0.05).mean(tuple(axes) or None, keepdims=bool(keepdims))
    expected = (np.rint(mean / 0.04) + 3).clip(0, 255)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= 1


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
def test_gemm(transposed, floating, per_column):
    a = integers(5, 3) if transposed else integers(3, 5)
    b = integers(4, 5, dtype=np.int8, seed=1) if transposed else integers(5, 4, dtype=np.int8)
    b_scale = np.full(4, 0.01, np.float32) + np.arange(4, dtype=np.float32) / 500
    b_zero = np.array([1, -3, 0, 7], np.int8)
    if not per_column:
        b_scale, b_zero = b_scale[:1], b_zero[:1]
    bias = integers(1, 4, dtype=np.int16).astype(np.int32)
    tail = [] if floating else [scalar(0.7), scalar(100, np.uint8)]
    inputs = [a, scalar(0.02), scalar(120, np.uint8), b, b_scale, b_zero, bias, *tail]
    attributes = {"transA": transposed, "transB": transposed}
    check_node("QGemm", *inputs, domain=MICROSOFT, atol=1e-4 if floating else 1, **attributes)


def test_layouts_and_groups_are_checked():
    inputs = [*quantized(1, 4, 4), *OUT]
    case = NodeCase("QLinearGlobalAveragePool", [*quantized(3, 4), *OUT], {}, domain=MICROSOFT)
    with pytest.raises(InvalidModel, match="rank 3 or more"):
        case.graph()
    attributes = {"axes": [3], "keepdims": 1}
    with pytest.raises(InvalidModel, match="axis 3"):
        NodeCase("QLinearReduceMean", inputs, attributes, domain=MICROSOFT).graph()


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
    ("QLinearReduceMean", [*quantized(3, 4), *OUT], {"axes": [1], "keepdims": 0}, (0,), True),
    ("QLinearReduceMean", [*quantized(3, 4), *OUT], {"axes": [0], "keepdims": 0}, (0,), False),
    ("QLinearWhere", [integers(4) > 9, *quantized(3, 4), *quantized(3, 4), *OUT], {}, (1, 4), True),
    ("QLinearWhere", [integers(4) > 9, *quantized(3, 4), *quantized(3, 4), *OUT], {}, (1,), False),
    ("QGemm", [*quantized(3, 4), *quantized(4, 2), None, *OUT], {}, (0,), True),
    ("QGemm", [*quantized(3, 4), *quantized(3, 2), None, *OUT], {"transA": 1}, (0,), False),
    ("NhwcMaxPool", [quantized(3, 4, 4, 2)[0]], {"kernel_shape": [2, 2]}, (0,), True),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "items", "expected"), ROWS)
def test_rows(op, inputs, attributes, items, expected):
    case = NodeCase(op, inputs, attributes, domain=MICROSOFT)
    (state,) = check_rows(case, items) if expected else row_states(case, items)
    assert state.is_rows == expected
