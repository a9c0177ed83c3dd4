from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

SHAPES = [(2, 4, 5, 3), (3, 4, 6), (1, 4, 2, 3, 2), (0, 4, 3)]


def statistics(channels: int, dtype=np.float32) -> list[np.ndarray]:
    scale, bias, mean = (floats(channels, seed=i, dtype=dtype) for i in range(3))
    return [scale, bias, mean, np.abs(floats(channels, seed=3, dtype=dtype)) + dtype(0.1)]


@pytest.mark.parametrize("fixed", [(), (1, 2, 3, 4)])
@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 4)])
def test_batch_normalization(shape, opset, fixed):
    x = floats(*shape, seed=9)
    check_node("BatchNormalization", x, *statistics(4), opset=opset, fixed=fixed, epsilon=1e-3)


def test_batch_normalization_in_half_precision():
    x = floats(2, 4, 5, dtype=np.float16)
    check_node("BatchNormalization", x, *statistics(4, np.float16), rtol=1e-2, atol=1e-2)


def test_batch_normalization_in_training_mode_takes_its_own_statistics():
    x, given = floats(3, 4, 5, seed=9), statistics(4)
    attributes = {"training_mode": 1, "momentum": 0.8}
    case = NodeCase("BatchNormalization", [x, *given], attributes, outputs=3)
    y, mean, variance = case.run_engine()
    own_mean, own_variance = x.mean((0, 2)), x.var((0, 2))
    expected = (x - own_mean[:, None]) / np.sqrt(own_variance + 1e-5)[:, None]
    expected = expected * given[0][:, None] + given[1][:, None]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, given[2] * 0.8 + own_mean * 0.2, rtol=1e-5)
    np.testing.assert_allclose(variance, given[3] * 0.8 + own_variance * 0.2, rtol=1e-5)
    (state, *_) = row_states(case, (0,))
    assert not state.is_rows


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("fixed", [(), (1, 2, 3, 4)])
def test_batch_normalization_per_position(opset, fixed):
    given = [floats(4, 3, 5, seed=i) for i in range(3)] + [np.abs(floats(4, 3, 5, seed=3)) + 0.1]
    x = floats(2, 4, 3, 5, seed=9)
    check_node("BatchNormalization", x, *given, opset=opset, fixed=fixed, spatial=0)
    case = NodeCase("BatchNormalization", [floats(3, 4, 3, 5), *given], {"spatial": 0}, opset)
    assert check_rows(case, (0,))[0].is_rows


@pytest.mark.parametrize("opset", [6, 7, 9])
def test_old_batch_normalization_trains_when_its_statistics_are_asked_for(opset):
    x, given = floats(3, 4, 5, seed=9), statistics(4)
    old = {"consumed_inputs": [0, 0]} if opset < 6 else {}
    case = NodeCase("BatchNormalization", [x, *given], {"momentum": 0.8, **old}, opset, outputs=5)
    new = NodeCase(
        "BatchNormalization", [x, *given], {"momentum": 0.8, "training_mode": 1}, 14, outputs=3
    )
    results = case.run_engine()
    for ours, expected in zip(results, new.run_engine(), strict=False):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(results[3], x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(results[4], x.var((0, 2)), rtol=1e-5)
    assert not row_states(case, (0,))[0].is_rows


def test_old_batch_normalization_that_only_serves():
    x, given = floats(3, 4, 5, seed=9), statistics(4)
    case = NodeCase("BatchNormalization", [x, *given], {"is_test": 1}, 6, outputs=5)
    y, mean, *_ = case.run_engine()
    (plain,) = NodeCase("BatchNormalization", [x, *given], {}, 9).run_engine()
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(mean, given[2])


def test_batch_normalization_errors():
    inputs = [floats(2, 4, 3), *statistics(4)]
    with pytest.raises(UnsupportedOp, match="spatial"):
        NodeCase("BatchNormalization", inputs, {"spatial": 0}, 7, outputs=5).graph()
    with pytest.raises(InvalidModel, match="outputs"):
        NodeCase("BatchNormalization", inputs, {}, 15, outputs=2).graph()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_group_normalization_of_opset_18_has_a_scale_per_group(dtype):
    inputs = [floats(2, 6, 3, 2, dtype=dtype), floats(3, dtype=dtype), floats(3, dtype=dtype)]
    loose = 1e-2 if dtype == np.float16 else 1e-5
    check_node("GroupNormalization", *inputs, opset=18, num_groups=3, rtol=loose, atol=loose)
    with pytest.raises(RunFailed, match="scale"):
        wrong = [inputs[0], floats(6, dtype=dtype), floats(6, dtype=dtype)]
        NodeCase("GroupNormalization", wrong, {"num_groups": 3}, 18).run_engine()
    with pytest.raises(InvalidModel, match="groups"):
        NodeCase("GroupNormalization", inputs, {"num_groups": 4}, 18).graph()


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_instance_normalization(shape):
    inputs = [floats(*shape), floats(4, seed=1), floats(4, seed=2)]
    check_node("InstanceNormalization", *inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_group_normalization(dtype):
    x = floats(2, 4, 5, 3, dtype=dtype)
    scale, bias = floats(4, seed=1, dtype=dtype), floats(4, seed=2, dtype=dtype)
    case = NodeCase("GroupNormalization", [x, scale, bias], {"num_groups": 2}, opset=21)
    grouped = x.astype(np.float64).reshape(2, 2, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    factor, summand = (v.astype(np.float64)[:, None, None] for v in (scale, bias))
    expected = normal.reshape(x.shape) * factor + summand
    (ours,) = case.run_engine("symbolic")
    tolerance = 1e-4 if dtype == np.float32 else 1e-2
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_a_scale_larger_than_the_input_is_refused(op):
    with pytest.raises(RunFailed, match="spread"):
        NodeCase(op, [floats(4), floats(3, 4)], {"axis": 0}, 23).run_engine()


@pytest.mark.parametrize("axis", [-1, 1, 0, -2])
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_normalization(axis, with_bias):
    x = floats(2, 3, 4)
    rest = [floats(*x.shape[axis:], seed=i) for i in range(1, 3 if with_bias else 2)]
    check_node("LayerNormalization", x, *rest, axis=axis, atol=1e-4, rtol=1e-4)


def test_layer_normalization_gives_its_statistics():
    x, scale = floats(2, 3, 4), floats(4, seed=1)
    check_node("LayerNormalization", x, scale, outputs=3, atol=1e-4, rtol=1e-4)
    half = [v.astype(np.float16) for v in (x, scale)]
    results = NodeCase("LayerNormalization", half, outputs=3).run_engine()
    assert [r.dtype for r in results] == [np.float16, np.float32, np.float32]
    with pytest.raises(InvalidModel):
        NodeCase("LayerNormalization", [x, scale], {"axis": 3}).graph()


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis):
    x = floats(2, 3, 4)
    check_node("RMSNormalization", x, floats(*x.shape[axis:], seed=1), axis=axis, opset=23)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, -1])
def test_lp_normalization(axis, p):
    x = floats(3, 4)
    x[1] = 0
    (ours,) = NodeCase("LpNormalization", [x], {"axis": axis, "p": p}).run_engine("symbolic")
    norm = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    np.testing.assert_allclose(ours, x / np.where(norm == 0, 1, norm), rtol=1e-5)


@pytest.mark.parametrize("axes", [[0, 2, 3], [1], [-1, 2]])
def test_mean_variance_normalization(axes):
    check_node("MeanVarianceNormalization", floats(2, 3, 4, 5), axes=axes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1 << 40])
def test_lrn(size):
    x = floats(2, 4, 3, 3)
    case = NodeCase("LRN", [x], {"size": size, "alpha": 0.1, "beta": 0.6, "bias": 2.0})
    total = np.zeros_like(x)
    for c in range(4):
        low, high = max(0, c - (size - 1) // 2), min(4, c + -(-(size - 1) // 2) + 1)
        total[:, c] = (x[:, low:high] ** 2).sum(1)
    (ours,) = case.run_engine("symbolic")
    np.testing.assert_allclose(ours, x / (2.0 + 0.1 / size * total) ** 0.6, rtol=1e-5)


ROWS = [
    ("BatchNormalization", [floats(3, 4, 5), *statistics(4)], {}, True),
    ("InstanceNormalization", [floats(3, 4, 5), floats(4), floats(4)], {}, True),
    ("LayerNormalization", [floats(3, 4, 5), floats(5)], {}, True),
    ("LayerNormalization", [floats(3, 4), floats(3, 4)], {"axis": 0}, False),
    ("RMSNormalization", [floats(3, 4), floats(4)], {}, True),
    ("LpNormalization", [floats(3, 4)], {"axis": 1}, True),
    ("LpNormalization", [floats(3, 4)], {"axis": 0}, False),
    ("MeanVarianceNormalization", [floats(3, 4, 2, 2)], {"axes": [2, 3]}, True),
    ("MeanVarianceNormalization", [floats(3, 4, 2, 2)], {}, False),
    ("LRN", [floats(3, 4, 2, 2)], {"size": 3}, True),
    ("GroupNormalization", [floats(3, 4, 2), floats(4), floats(4)], {"num_groups": 2}, True),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "expected"), ROWS)
def test_normalization_rows(op, inputs, attributes, expected):
    case = NodeCase(op, inputs, attributes, opset=23)
    (state,) = check_rows(case, (0,)) if expected else row_states(case, (0,))
    assert state.is_rows == expected


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_family(op, axis, opset):
    attributes = {} if axis is None else {"axis": axis}
    check_node(op, floats(2, 3, 4, scale=5), opset=opset, **attributes)
    check_node(op, floats(2, 0, 4), opset=opset, **attributes)


def test_softmax_survives_large_numbers_and_half_precision():
    check_node("Softmax", np.array([[1000.0, 999.0, -1000.0]], np.float32))
    check_node("LogSoftmax", np.array([[1000.0, 999.0, -1000.0]], np.float32))
    check_node("Softmax", floats(2, 8, dtype=np.float16), rtol=1e-3, atol=1e-3)
    with pytest.raises(InvalidModel, match="axis 2"):
        NodeCase("Softmax", [floats(2, 3)], {"axis": 2}).graph()


@pytest.mark.parametrize(
    ("axis", "opset", "expected"),
    [(-1, 13, True), (1, 13, True), (0, 13, False), (1, 11, True), (2, 11, True), (0, 11, False)],
)
def test_softmax_rows(axis, opset, expected):
    case = NodeCase("Softmax", [floats(3, 4, 5)], {"axis": axis}, opset)
    (state,) = check_rows(case, (0,)) if expected else row_states(case, (0,))
    assert state.is_rows == expected
