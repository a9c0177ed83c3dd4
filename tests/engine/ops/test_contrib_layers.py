"""Layers as ONNX Runtime's optimizer fuses them, against ONNX Runtime where it has a kernel."""

from __future__ import annotations

from math import erf, sqrt

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, int64, row_states

MICROSOFT = "com.microsoft"


def case(op: str, *inputs: np.ndarray | None, outputs: int = 1, **attributes: object) -> NodeCase:
    return NodeCase(op, inputs, attributes, outputs=outputs, domain=MICROSOFT)


def run(op: str, *inputs: np.ndarray | None, **more: object) -> np.ndarray:
    return case(op, *inputs, **more).run_engine("symbolic")[0]


# ---------------------------------------------------------------------- activations


@pytest.mark.parametrize(
    ("op", "with_bias", "attributes"),
    [
        ("Gelu", False, {}),
        ("BiasGelu", True, {}),
        ("FastGelu", False, {}),
        ("FastGelu", True, {}),
        ("QuickGelu", False, {}),
        ("QuickGelu", False, {"alpha": 0.7}),
    ],
)
def test_activations(op, with_bias, attributes):
    x = floats(2, 3, 40, scale=4)
    inputs = [x, floats(40, seed=1)] if with_bias else [x]
    check_node(op, *inputs, domain=MICROSOFT, atol=2e-6, **attributes)


def test_scaled_silu():
    x = floats(3, 40, scale=4)
    expected = x / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(run("ScaledSiLU", x, alpha=1.5), 1.5 * expected, rtol=1e-5)
    scaled = run("ScaledSiLU", x, np.float16(2.5), alpha=1.5)
    np.testing.assert_allclose(scaled, 2.5 * expected, rtol=1e-5)


def test_bias_split_gelu():
    x, bias = floats(2, 3, 8), floats(8, seed=1)
    left, right = np.split((x + bias).astype(np.float64), 2, axis=-1)
    gelu = np.vectorize(lambda v: v / 2 * (1 + erf(v / sqrt(2))))(right)
    np.testing.assert_allclose(run("BiasSplitGelu", x, bias), left * gelu, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidModel, match="must be even"):
        case("BiasSplitGelu", floats(2, 3, 7), floats(7)).graph()


# ---------------------------------------------------------------------- products


@pytest.mark.parametrize("bits", range(16))
def test_every_transposition_of_a_product(bits):
    trans_a, trans_b, batch_a, batch_b = ((bits >> k) & 1 for k in range(4))
    a, b = floats(2, 3, 4, 5), floats(2, 3, 5, 6, seed=1)
    a = a.swapaxes(-1, -2) if trans_a else a
    b = b.swapaxes(-1, -2) if trans_b else b
    # The first axis goes behind the batch axes: undo that beforehand.
    a, b = (np.moveaxis(x, -2, 0) if flag else x for x, flag in ((a, batch_a), (b, batch_b)))
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": 0.3}
    attributes |= {"transBatchA": batch_a, "transBatchB": batch_b}
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    (theirs,) = check_node("FusedMatMul", a, b, domain=MICROSOFT, **attributes)
    assert theirs.shape == (2, 3, 4, 6)


@pytest.mark.parametrize("shapes", [((4, 5), (5, 6)), ((2, 4, 5), (5, 6)), ((4, 5), (3, 5, 6))])
def test_products_broadcast(shapes):
    a, b = floats(*shapes[0]), floats(*shapes[1], seed=1)
    check_node("FusedMatMul", a, b, domain=MICROSOFT, alpha=-2.0)
    check_node("FusedMatMul", a.astype(np.float64), b.astype(np.float64), domain=MICROSOFT)
    check_node("TransposeMatMul", a, b.swapaxes(-1, -2).copy(), domain=MICROSOFT, transB=1)


@pytest.mark.parametrize(
    ("activation", "numbers"),
    [
        ("Relu", ()),
        ("Tanh", ()),
        ("Sigmoid", ()),
        ("LeakyRelu", (0.3,)),
        ("Elu", (0.7,)),
        ("HardSigmoid", (0.3, 0.4)),
        ("Softplus", ()),
        ("Softsign", ()),
        ("ThresholdedRelu", (0.4,)),
        ("Selu", (1.6, None, 1.1)),
    ],
)
def test_fused_gemm(activation, numbers):
    attributes = {"alpha": 0.5, "beta": 2.0, "transB": 1, "activation": activation}
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    attributes |= {n: v for n, v in zip(names, numbers, strict=False) if v is not None}
    inputs = floats(4, 5), floats(6, 5, seed=1), floats(6, seed=2)
    if activation == "Selu":  # ONNX Runtime fuses it, but cannot run what it wrote
        y = 0.5 * inputs[0] @ inputs[1].T + 2 * inputs[2]
        expected = 1.1 * np.where(y > 0, y, 1.6 * np.expm1(y))
        np.testing.assert_allclose(run("FusedGemm", *inputs, **attributes), expected, rtol=1e-5)
    else:
        check_node("FusedGemm", *inputs, domain=MICROSOFT, **attributes)


def test_an_activation_that_nobody_knows():
    for op, inputs in (
        ("FusedGemm", (floats(2, 3), floats(3, 2))),
        ("FusedConv", (floats(1, 1, 4, 4), floats(1, 1, 2, 2))),
    ):
        with pytest.raises(UnsupportedOp, match="Swirl"):
            case(op, *inputs, activation="Swirl").graph()


def test_gemm_fast_gelu():
    x, w, bias = floats(2, 3, 4), floats(4, 5, seed=1), floats(5, seed=2)
    (expected,) = check_node("FastGelu", x @ w, bias, domain=MICROSOFT)
    np.testing.assert_allclose(run("GemmFastGelu", x, w, bias), expected, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- convolutions


@pytest.mark.parametrize(
    ("activation", "numbers"),
    [("Relu", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.7]), ("HardSigmoid", [0.3, 0.4])],
)
@pytest.mark.parametrize("residual", [False, True])
def test_fused_conv(activation, numbers, residual):
    x, w, bias = floats(2, 4, 7, 6), floats(6, 2, 3, 3, seed=1, scale=0.3), floats(6, seed=2)
    z = floats(2, 6, 4, 6, seed=3) if residual else None
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1], "activation": activation}
    if numbers:
        attributes["activation_params"] = numbers
    check_node("FusedConv", x, w, bias, z, domain=MICROSOFT, fixed=(1, 2), **attributes)


@pytest.mark.parametrize("name", ["Relu", "Clip", "HardSwish"])
def test_activations_are_known_in_any_case(name):
    x, w = floats(1, 2, 5, 5), floats(3, 2, 3, 3, seed=1)
    numbers = {"activation_params": [-0.5, 0.7]} if name == "Clip" else {}
    want = run("FusedConv", x, w, activation=name, **numbers)
    assert not np.array_equal(want, run("FusedConv", x, w))
    np.testing.assert_array_equal(run("FusedConv", x, w, activation=name.lower(), **numbers), want)


@pytest.mark.parametrize("op", ["NhwcConv", "NhwcFusedConv"])
def test_convolution_with_channels_last(op):
    x, w, bias = floats(2, 7, 6, 4), floats(6, 2, 3, 3, seed=1), floats(6, seed=2)
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1]}
    ours = run(op, x, w, bias, **attributes)
    plain = NodeCase("Conv", [x.transpose(0, 3, 1, 2).copy(), w, bias], attributes)
    (expected,) = plain.run_runtime()
    np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed", [(), (2,)])
def test_transposed_convolution_with_dynamic_pads(fixed):
    inputs = floats(2, 4, 5, 6), floats(4, 3, 3, 3, seed=1), int64(1, 0, 0, 2), floats(3, seed=2)
    attributes = {"strides": [2, 1], "output_padding": [1, 0]}
    op = "ConvTransposeWithDynamicPads"
    check_node(op, *inputs, domain=MICROSOFT, fixed=fixed, **attributes)
    with pytest.raises(InvalidModel, match="expected 4 pads"):
        NodeCase(op, [*inputs[:2], int64(1, 2)], {}, fixed=(2,), domain=MICROSOFT).graph()


# ---------------------------------------------------------------------- normalizations


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("skip", [(2, 3, 16), (3, 16), (1, 3, 16)])
@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_skip_normalization(op, skip, dtype):
    if op.startswith("SkipSimplified") and len(skip) == 2:
        pytest.skip("ONNX Runtime wants equal ranks here")
    x, residual = floats(2, 3, 16, dtype=dtype), floats(*skip, seed=1, dtype=dtype)
    gamma, beta, bias = (floats(16, seed=s, dtype=dtype) for s in (2, 3, 4))
    vectors = [gamma, beta, bias] if op == "SkipLayerNormalization" else [gamma, bias]
    tolerance = 4e-3 if dtype == np.float16 else 2e-5
    close = {"rtol": tolerance, "atol": tolerance, "domain": MICROSOFT, "epsilon": 1e-5}
    check_node(op, x, residual, gamma, **close)
    check_node(op, x, residual, *vectors, **close)


def test_skip_normalization_gives_the_sum_too():
    x, skip, gamma, bias = floats(2, 3, 16), floats(2, 3, 16, seed=1), floats(16), floats(16)
    for op, beta in (("SkipLayerNormalization", [None]), ("SkipSimplifiedLayerNormalization", [])):
        node = case(op, x, skip, gamma, *beta, bias, outputs=4)
        _, mean, inverse, total = node.run_engine("symbolic")
        np.testing.assert_allclose(total, x + skip + bias, rtol=1e-6)
        assert mean.shape == inverse.shape == (2, 3, 1)


@pytest.mark.parametrize("axis", [-1, 1])
def test_root_mean_square_normalization(axis):
    x = floats(2, 3, 8)
    scale = floats(*x.shape[axis:], seed=1)
    check_node("SimplifiedLayerNormalization", x, scale, axis=axis, epsilon=1e-3, outputs=1)


@pytest.mark.parametrize("opset", [11, 16])
def test_layer_normalization_in_older_opsets(opset):
    inputs = floats(2, 3, 8), floats(8, seed=1), floats(8, seed=2)
    check_node("LayerNormalization", *inputs, opset=opset)


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
@pytest.mark.parametrize(("x_type", "scale_type"), [("f2", "f4"), ("f4", "f2"), ("f2", "f2")])
def test_a_normalization_has_its_scale_s_type(op, x_type, scale_type):
    x, scale = floats(2, 3, 8, dtype=x_type), floats(8, seed=1, dtype=scale_type)
    (ours,) = NodeCase(op, [x, scale], opset=13).run_engine("symbolic")
    wide = [x.astype(np.float32), scale.astype(np.float32)]
    (expected,) = NodeCase(op, wide, opset=13).run_runtime()
    assert ours.dtype == scale.dtype
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=2e-3)


def group_norm(x, gamma, beta, groups, silu):  # channels last, in float64
    x = x.astype(np.float64)
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    y = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta
    return y / (1 + np.exp(-y)) if silu else y


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("silu", [0, 1])
def test_group_norm(last, silu):
    x, gamma, beta = floats(2, 4, 5, 6), floats(6, seed=1), floats(6, seed=2)
    expected = group_norm(x, gamma, beta, 3, silu)
    order = (0, 1, 2, 3) if last else (0, 3, 1, 2)
    attributes = {"groups": 3, "activation": silu, "channels_last": last}
    ours = run("GroupNorm", x.transpose(order).copy(), gamma, beta, **attributes)
    np.testing.assert_allclose(ours, expected.transpose(order), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("skip", [(2, 4, 5, 6), (2, 1, 1, 6), (2, 6)])
def test_skip_group_norm(skip):
    x, gamma, beta, bias = floats(2, 4, 5, 6), *(floats(6, seed=s) for s in (1, 2, 3))
    extra = floats(*skip, seed=4)
    node = case("SkipGroupNorm", x, gamma, beta, extra, bias, outputs=2, groups=2, activation=1)
    ours, total = node.run_engine("symbolic")
    expected = x + bias + (extra[:, None, None] if extra.ndim == 2 else extra)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)
    normal = group_norm(expected, gamma, beta, 2, 1)
    np.testing.assert_allclose(ours, normal, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidModel, match="6 channels do not divide into 4 groups"):
        case("GroupNorm", x, gamma, beta, groups=4, activation=0).graph()


# ---------------------------------------------------------------------- biases


@pytest.mark.parametrize(("axis", "bias"), [(3, (2, 1, 1, 5)), (-1, (4, 5)), (2, (1, 1, 4, 5))])
def test_bias_softmax(axis, bias):
    x, extra = floats(2, 3, 4, 5), floats(*bias, seed=1)
    flat = (x + extra).astype(np.float64).reshape(*x.shape[:axis], -1)
    weights = np.exp(flat - flat.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True)).reshape(x.shape)
    ours = run("BiasSoftmax", x, extra, axis=axis, is_inner_broadcast=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_biases():
    x, bias, skip = floats(2, 3, 4), floats(4, seed=1), floats(2, 3, 4, seed=2)
    np.testing.assert_allclose(run("BiasAdd", x, bias, skip), x + bias + skip, rtol=1e-6)
    y, mask = case("BiasDropout", x, bias, skip, outputs=2).run_engine("symbolic")
    np.testing.assert_allclose(y, x + bias + skip, rtol=1e-6)
    assert mask.all()
    training = [x, bias, None, np.float32(0.5), np.array(True)]
    with pytest.raises(UnsupportedOp, match="training"):
        NodeCase("BiasDropout", training, {}, fixed=(4,), domain=MICROSOFT).graph()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_round_once(dtype):
    x, bias = floats(3, 8, dtype=dtype), floats(8, seed=1, dtype=dtype)
    wide = [x.astype(np.float32), bias.astype(np.float32)]
    for op in ("BiasGelu", "FastGelu", "BiasSplitGelu"):
        np.testing.assert_array_equal(run(op, x, bias), run(op, *wide).astype(dtype))


# ---------------------------------------------------------------------- rows

X, B = floats(3, 4), floats(4, seed=1)
IMAGE, FILTER = floats(3, 2, 4, 4), floats(2, 2, 1, 1, seed=1)
ROWS = [
    (case("BiasGelu", X, B), (0,), True),
    (case("BiasSplitGelu", X, B), (0,), True),
    (case("BiasSplitGelu", floats(4), B), (0,), False),
    (case("FusedMatMul", X, floats(4, 2)), (0,), True),
    (case("FusedMatMul", X, floats(3, 2), transA=1), (0,), False),
    (case("FusedMatMul", X, floats(2, 4), transB=1), (0,), True),
    (case("FusedMatMul", floats(3, 2, 4), floats(2, 4, 5), transBatchA=1), (0,), True),
    (case("FusedGemm", X, floats(4, 2), floats(2)), (0,), True),
    (case("GemmFastGelu", X, floats(4, 2), floats(2)), (0,), True),
    (case("FusedConv", IMAGE, FILTER), (0,), True),
    (case("FusedConv", IMAGE, FILTER, None, IMAGE), (0, 3), True),
    (case("FusedConv", IMAGE, FILTER, None, IMAGE), (0,), False),
    (case("SkipLayerNormalization", X, X, B), (0, 1), True),
    (case("SkipLayerNormalization", floats(3, 2, 4), floats(2, 4), B), (0,), True),
    (case("SkipLayerNormalization", floats(4), floats(4), B), (0, 1), False),
    (case("GroupNorm", IMAGE, B, B, groups=2, activation=0), (0,), True),
    (case("SkipGroupNorm", IMAGE, B, B, floats(3, 4), groups=2, activation=0), (0, 3), True),
    (case("BiasSoftmax", X, B, is_inner_broadcast=0), (0,), True),
    (case("BiasSoftmax", X, B, axis=0, is_inner_broadcast=0), (0,), False),
    (case("BiasAdd", X, B, X), (0, 2), True),
    (case("BiasDropout", X, B), (0,), True),
]


@pytest.mark.parametrize(("node", "items", "expected"), ROWS)
def test_rows(node, items, expected):
    (state,) = check_rows(node, items) if expected else row_states(node, items)
    assert state.is_rows == expected


WIDE = floats(5, 3, 4)
TOO_LARGE = [
    ("SkipLayerNormalization", [X, WIDE, B], {}),
    ("SkipLayerNormalization", [X, X, WIDE], {}),
    ("BiasSoftmax", [X, WIDE], {"is_inner_broadcast": 0}),
    ("BiasAdd", [X, B, WIDE], {}),
    ("BiasDropout", [X, floats(5)], {}),
    ("FusedConv", [IMAGE, FILTER, None, floats(3, 2, 4, 5)], {}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), TOO_LARGE)
def test_nothing_broadcasts_a_result_beyond_its_shape(op, inputs, attributes):
    with pytest.raises(InvalidModel, match="does not fit"):
        case(op, *inputs, **attributes).graph()
    with pytest.raises((InvalidModel, RunFailed), match="does not fit"):
        case(op, *inputs, **attributes).run_engine("symbolic")
