"""Quantized models sum integers, and mean what they meant."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel
from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.comparing import compiled, ops, run
from tests.engine.quantized_models import INT8, UINT8, Qdq, conv_net, transformer_block


def steps_apart(data: bytes, feeds: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """How many steps of the result's scale O2 lies from O0."""
    want, got = run(compiled(data, 0), feeds), run(compiled(data, 2), feeds)
    (name,) = want
    assert got[name].dtype == want[name].dtype and got[name].shape == want[name].shape
    return np.abs(got[name].astype(np.float64) - want[name].astype(np.float64)) / scale


@pytest.mark.parametrize("seed", range(3))
def test_a_convolutional_net_sums_integers(seed: int) -> None:
    data = conv_net(seed)
    found = ops(compiled(data, 2))
    assert found.count("ConvInteger*") == 3 and found.count("MatMulInteger*") == 1
    assert "Conv" not in found and "QuantizeLinear" not in found and "MaxPool" in found
    assert found.count("Elementwise*") == 2  # the input, and behind the average
    apart = steps_apart(data, {"x": normal(3, 5, 9, 9, seed=seed) * 3}, 30.0)
    assert apart.max() <= 1.01 and (apart < 0.01).mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_a_transformer_block_sums_integers(seed: int) -> None:
    data = transformer_block(seed)
    found = ops(compiled(data, 2))
    assert found.count("MatMulInteger*") == 8 and "MatMul" not in found
    mask = np.where(np.arange(6) < 4, 0.0, -1e4).astype(np.float32).reshape(1, 1, 1, 6)
    feeds = {"x": normal(2, 6, 24, seed=seed), "mask": np.repeat(mask, 2, 0)}
    apart = steps_apart(data, feeds, 0.1)
    assert apart.max() < 4 and (apart < 0.2).mean() > 0.95


def test_quantization_moves_in_front_of_what_moves_data() -> None:
    q = Qdq()
    w = q.fixed((8, 6), 1)
    y = q.add("Transpose", q.add("MatMul", q.pair("x", 0.05, 100), w), perm=[1, 0])
    q.nodes[-1].output[0] = y
    data = q.build([("x", ["N", 8])], [(q.quantize(y, 0.4, 30), [6, "N"], UINT8)])
    graph = compiled(data, 2)
    assert ops(graph)[-2:] == ["MatMulInteger*", "Transpose"]
    assert steps_apart(data, {"x": normal(5, 8)}, 1.0).max() <= 1


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.int8, -7), (np.uint8, 131)])
@pytest.mark.parametrize("left", [np.uint8, np.int8])
def test_convolutions_of_any_integers(axis: int | None, dtype: type, zero: int, left: type) -> None:
    q = Qdq(3)
    x = q.pair("x", 0.05, 17, left)
    w = q.fixed((6, 2, 3, 3), axis, dtype, zero)
    y = q.add("Conv", x, w, pads=[1, 0, 2, 1], strides=[2, 1], group=2)
    data = q.build([("x", ["N", 4, 7, 8])], [(q.quantize(y, 2.0, 5, left), None, UINT8)])
    if left is np.int8:
        data = q.build([("x", ["N", 4, 7, 8])], [(q.nodes[-1].output[0], None, INT8)])
    assert "ConvInteger*" in ops(compiled(data, 2))
    assert steps_apart(data, {"x": normal(2, 4, 7, 8)}, 1.0).max() <= 1


def test_values_saturate_and_nan_is_the_least() -> None:
    q = Qdq()
    data = q.build([("x", [7])], [(q.quantize(q.add("Neg", "x"), 0.5, 10), [7], UINT8)])
    x = np.array([-1e9, -np.inf, np.nan, 1e9, np.inf, -0.25, 0.75], np.float32)
    got = run(compiled(data, 2), {"x": x})
    (value,) = got.values()
    np.testing.assert_array_equal(value, [255, 255, 0, 0, 0, 10, 8])


def test_what_has_a_scale_along_the_sum_stays() -> None:
    q = Qdq()
    data = q.build(
        [("x", [2, 8])], [(q.add("MatMul", q.pair("x", 0.1, 4), q.fixed((8, 3), 0)), [2, 3])]
    )
    assert not any("Integer" in op for op in ops(compiled(data, 2)))


def test_a_computed_bias_or_an_alpha_stays_float() -> None:
    for inputs, attributes in ((["b"], {}), ([], {"alpha": 0.5})):
        q = Qdq()
        y = q.add("Gemm", q.pair("x", 0.1, 4), q.fixed((8, 3), 1), *inputs, **attributes)
        data = q.build([("x", [2, 8]), ("b", [3])], [(y, [2, 3])])
        assert not any("Integer" in op for op in ops(compiled(data, 2)))


def test_a_value_that_is_kept_is_not_swallowed() -> None:
    q = Qdq()
    y = q.add("Conv", q.pair("x", 0.1, 4), q.fixed((3, 2, 1, 1)))
    z = q.quantize(y, 0.5, 3)
    data = q.build([("x", [1, 2, 3, 3])], [(y, None), (z, None, UINT8)])
    feeds = {"x": normal(1, 2, 3, 3)}
    want, got = run(compiled(data, 0), feeds), run(compiled(data, 2), feeds)
    np.testing.assert_allclose(got[y], want[y], rtol=1e-5, atol=1e-5)
    assert np.abs(got[z].astype(int) - want[z]).max() <= 1


def operator_net() -> bytes:
    """A net of quantized operators, as quantizers without QDQ write it."""
    q = Qdq(11)

    def parameters(scale: float, zero: int) -> tuple[str, str]:
        return q.parameters(scale, zero, np.uint8)

    first, second, third = parameters(0.1, 120), parameters(0.2, 101), parameters(0.05, 9)
    microsoft = {"domain": "com.microsoft"}
    x = q.add("QuantizeLinear", "x", *first)
    y = q.add("QLinearSigmoid", x, *first, *third, **microsoft)
    x = q.add("QLinearAdd", x, *first, y, *third, *second, **microsoft)
    z = q.add("QLinearLeakyRelu", x, *second, *first, alpha=0.2, **microsoft)
    x = q.add("QLinearMul", x, *second, z, *first, *second, **microsoft)
    x = q.add("QLinearConcat", *second, x, *second, z, *first, axis=1, **microsoft)
    x = q.add("QLinearAveragePool", x, *second, *second, kernel_shape=[2, 2], **microsoft)
    x = q.add("QLinearGlobalAveragePool", x, *second, *third, **microsoft)
    x = q.add("Flatten", x)
    weights = [
        q.constant("w", q.rng.integers(-128, 128, (5, 8), np.int8)),
        q.constant("s", q.rng.random(5, np.float32) / 50),
        q.constant("z", np.zeros(5, np.int8)),
        q.constant("c", q.rng.integers(-900, 900, 5, dtype=np.int32)),
    ]
    x = q.add("QGemm", x, *third, *weights, *first, transB=1, **microsoft)
    domains = {"com.microsoft": 1}
    inputs, outputs = [("x", ["N", 4, 5, 6])], [(x, ["N", 5], UINT8)]
    return model(q.nodes, inputs, outputs, q.weights, opset=17, domains=domains)


def test_quantized_operators_are_unfolded() -> None:
    data = operator_net()
    found = ops(compiled(data, 2))
    assert not any(op.startswith("Q") for op in found) and "MatMulInteger*" in found
    assert steps_apart(data, {"x": normal(3, 4, 5, 6) * 4}, 1.0).max() <= 1


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("names", [["x"], ["x", "w"], ["x", "w", ""], ["x", "w", "", "s"]])
def test_a_product_without_its_scale_is_the_models_fault(op: str, names: list[str]) -> None:
    weights = {"w": np.ones((4, 2), np.uint8), "s": np.float32(1).reshape(())}
    nodes = [node(op, names, ["y"], domain="com.microsoft")]
    domains = {"com.microsoft": 1}
    data = model(nodes, [("x", [3, 4])], [("y", [3, 2])], weights, domains=domains)
    with pytest.raises(InvalidModel, match="is required"):
        compiled(data, 2)
