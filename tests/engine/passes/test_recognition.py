"""What exporters write out is recognised, and means the same afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.onnx_models import model, node, normal
from tests.engine.passes import exported
from tests.engine.passes.comparing import assert_close, check_levels, compiled, ops, run
from tests.engine.passes.exported import FLOAT, HALF, INT, Net

MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])


def tokens(kind: int = FLOAT, length: int = 5, size: int = 8) -> dict[str, np.ndarray]:
    x = normal(3, length, size).astype(exported.NUMPY[kind])
    return {"x": x, "mask": MASK[:, :length]}


# ------------------------------------------------------------------------------ whole layers

LAYERS = {
    "torchscript 14": (lambda: exported.bert_torchscript(14), FLOAT),
    "torchscript 11": (lambda: exported.bert_torchscript(11, tanh=True), FLOAT),
    "torchscript half": (lambda: exported.bert_torchscript(14, kind=HALF), HALF),
    "dynamo": (exported.bert_dynamo, FLOAT),
    "dynamo safe": (lambda: exported.bert_dynamo(safe=True), FLOAT),
    "dynamo half": (lambda: exported.bert_dynamo(kind=HALF), HALF),
    "tf2onnx": (exported.bert_tf2onnx, FLOAT),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_bert_becomes_its_parts(name: str) -> None:
    build, kind = LAYERS[name]
    graph = check_levels(build(), tokens(kind), ort=kind == FLOAT)
    found = ops(graph)
    assert found.count("Attention*") == 1 and found.count("LayerNormalization") == 2, found
    assert not {"Softmax", "Erf", "Tanh", "Pow", "Sqrt", "ReduceMean", "Transpose"} & set(found)
    # Three products before the attention, three after; bias, Gelu and residual are inside.
    assert sum(op in ("MatMul*", "Gemm*", "Gemm") for op in found) == 6
    assert "Gather" not in found and len(found) <= 19, found


def test_a_padded_row_that_looks_nowhere_gives_what_it_gave() -> None:
    feeds = tokens() | {"mask": np.zeros_like(MASK)}
    for safe in (False, True):
        data = exported.bert_dynamo(safe=safe)
        want, got = (run(compiled(data, level), feeds)["y"] for level in (0, 2))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        assert not np.isnan(want).any()


@pytest.mark.parametrize("kind", [FLOAT, HALF])
def test_a_block_of_llama(kind: int) -> None:
    feeds = {"x": tokens(kind)["x"]}
    graph = check_levels(exported.llama(kind), feeds, ort=kind == FLOAT)
    assert ops(graph) == ["RMSNormalization", "MatMul", "MatMul*", "MatMul*", "RMSNormalization"]


@pytest.mark.parametrize("kind", [FLOAT, HALF])
def test_a_residual_block(kind: int) -> None:
    x = normal(2, 3, 6, 5).astype(exported.NUMPY[kind])
    graph = check_levels(exported.residual_block(kind=kind), {"x": x}, factor=3, ort=kind == FLOAT)
    assert sorted(ops(graph)) == ["Conv", "Conv*", "Conv*"]


@pytest.mark.parametrize("opset", [11, 13])
def test_channels_last_nets_lose_their_transpositions(opset: int) -> None:
    graph = check_levels(exported.channels_last(opset), {"x": normal(2, 6, 6, 3)})
    assert ops(graph).count("Transpose") == 1, ops(graph)
    assert ops(graph)[0] == "Transpose"  # the pictures themselves


# ------------------------------------------------------------------------------ activations

SPECIAL = np.array(
    [[0.0, -0.0, 1e-30, 4.0, -4.0, 30.0, -30.0, np.inf, np.nan, -1e30, 3.0, -3.0, 0.5, 1.0]],
    np.float32,
)


def gelu_keras(net: Net) -> str:
    return exported.tf_gelu(net, "x")


def gelu_halves(net: Net) -> str:
    inner = net("Add", net.number(1.0), net("Erf", net("Div", "x", net.number(exported.SQRT2))))
    return net("Mul", "x", net("Mul", net.number(0.5), inner))


def gelu_tanh_pow(net: Net) -> str:
    cube = net("Mul", net("Pow", "x", net.number(3.0)), net.number(0.044715))
    inner = net("Mul", net("Add", cube, "x"), net.number(0.7978845608))
    half = net("Mul", "x", net.number(0.5))
    return net("Mul", half, net("Add", net("Tanh", inner), net.number(1.0)))


def gelu_fast(net: Net) -> str:
    square = net("Mul", net("Mul", "x", net.number(0.044715)), "x")
    inner = net("Mul", "x", net.number(0.7978845608))
    inner = net("Mul", inner, net("Add", net.number(1.0), square))
    return net(
        "Mul", net("Mul", net.number(0.5), "x"), net("Add", net.number(1.0), net("Tanh", inner))
    )


def silu(net: Net) -> str:
    return net("Mul", net("Sigmoid", "x"), "x")


def quick_gelu(net: Net) -> str:
    return net("Mul", "x", net("Sigmoid", net("Mul", net.number(1.702), "x")))


def hard_swish_11(net: Net) -> str:
    return net("Mul", "x", net("HardSigmoid", "x", alpha=0.1666666716337204))


def hard_swish_clip(net: Net) -> str:
    low, high = net.number(0.0), net.number(6.0)
    clipped = net("Clip", net("Add", "x", net.number(3.0)), low, high)
    return net("Mul", "x", net("Div", clipped, net.number(6.0)))


def hard_swish_relu6(net: Net) -> str:
    low = net("Max", net("Add", net.number(3.0), "x"), net.number(0.0))
    return net("Mul", net("Mul", "x", net("Min", low, net.number(6.0))), net.number(1 / 6))


def mish(net: Net) -> str:
    return net("Mul", "x", net("Tanh", net("Softplus", "x")))


@pytest.mark.parametrize(
    ("form", "op"),
    [
        (gelu_keras, "Gelu"),
        (gelu_halves, "Gelu"),
        (gelu_tanh_pow, "Gelu"),
        (gelu_fast, "Gelu"),
        (silu, "Swish"),
        (quick_gelu, "Swish"),
        (hard_swish_11, "HardSwish"),
        (hard_swish_clip, "HardSwish"),
        (hard_swish_relu6, "HardSwish"),
        (mish, "Mish"),
    ],
)
@pytest.mark.parametrize("kind", [FLOAT, HALF])
def test_activations(form, op: str, kind: int) -> None:  # type: ignore[no-untyped-def]
    net = Net(14, kind)
    net("Identity", form(net), out="y")
    data = net.model([("x", ["N", 14], kind)], [("y", None, kind)])
    with np.errstate(all="ignore"):
        x = np.concatenate([SPECIAL, normal(3, 14) * 3]).astype(exported.NUMPY[kind])
        graph = check_levels(data, {"x": x}, ort=False)
    assert ops(graph) == [op]


def test_activations_of_other_numbers_stay_what_they_are() -> None:
    for third, half in ((1.0, 0.4), (0.9, 0.5), (np.inf, 0.5), (1.0, -np.inf)):
        net = Net(14)
        inner = net("Add", net("Erf", net("Div", "x", net.number(1.41))), net.number(third))
        net("Mul", net("Mul", "x", inner), net.number(half), out="y")
        graph = check_levels(net.model([("x", ["N", 4])], [("y", None)]), {"x": normal(3, 4)})
        assert ops(graph) == ["Elementwise*"]


def test_a_value_inside_that_is_kept_stays() -> None:
    net = Net(14)
    net("Identity", gelu_keras(net), out="y")
    inside = net.nodes[2].output[0]
    data = net.model([("x", ["N", 4])], [("y", None)])
    graph = compiled(data, 2, outputs=["y", inside])
    assert set(graph.output_names) == {"y", inside} and "Gelu" not in ops(graph)
    feeds = {"x": normal(3, 4)}
    assert_close(run(graph, feeds), run(compiled(data, 0, outputs=["y", inside]), feeds))


# ------------------------------------------------------------------------------ normalizations


def norm_net(build, kind: int = FLOAT, opset: int = 17) -> bytes:  # type: ignore[no-untyped-def]
    net = Net(opset, kind)
    net("Identity", build(net), out="y")
    return net.model([("x", ["N", 5, 8], kind)], [("y", None, kind)])


def plain_layer_norm(net: Net) -> str:
    d = net("Sub", "x", net.mean("x"))
    total = net("Add", net.mean(net("Pow", d, net.number(2.0))), net.number(1e-5))
    return net("Div", d, net("Sqrt", total))


def rms_by_division(net: Net) -> str:
    total = net("Add", net.mean(net("Mul", "x", "x")), net.number(1e-5))
    return net("Mul", net("Div", "x", net("Sqrt", total)), net.weight(8))


def rms_scale_first(net: Net) -> str:
    total = net("Add", net.number(1e-5), net.mean(net("Mul", "x", "x")))
    inverse = net("Mul", net("Reciprocal", net("Sqrt", total)), net.weight(8))
    return net("Mul", "x", inverse)


@pytest.mark.parametrize(
    ("build", "op"),
    [
        (lambda net: exported.torch_layer_norm(net, "x", 8), "LayerNormalization"),
        (lambda net: exported.tf_layer_norm(net, "x", 8), "LayerNormalization"),
        (plain_layer_norm, "LayerNormalization"),
        (rms_by_division, "RMSNormalization"),
        (rms_scale_first, "RMSNormalization"),
    ],
)
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("kind", [FLOAT, HALF])
def test_normalizations(build, op: str, opset: int, kind: int) -> None:  # type: ignore[no-untyped-def]
    x = (normal(3, 5, 8) * 2 + 1).astype(exported.NUMPY[kind])
    graph = check_levels(norm_net(build, kind, opset), {"x": x}, ort=kind == FLOAT)
    assert ops(graph) == [op]


def test_normalizations_that_are_none_stay() -> None:
    def other_axis(net: Net) -> str:
        d = net("Sub", "x", net("ReduceMean", "x", axes=[1], keepdims=1))
        square = net("ReduceMean", net("Mul", d, d), axes=[1], keepdims=1)
        return net("Div", d, net("Sqrt", net("Add", square, net.number(1e-5))))

    def other_mean(net: Net) -> str:
        d = net("Sub", "x", net.mean(net("Neg", "x")))
        total = net("Add", net.mean(net("Mul", d, d)), net.number(1e-5))
        return net("Div", d, net("Sqrt", total))

    def no_epsilon(net: Net) -> str:
        return net("Div", "x", net("Sqrt", net.mean(net("Mul", "x", "x"))))

    def wide_scale(net: Net) -> str:
        return net("Mul", plain_layer_norm(net), net.weight(5, 8))

    for build in (other_axis, other_mean, no_epsilon):
        found = ops(check_levels(norm_net(build), {"x": normal(3, 5, 8)}))
        if build is other_mean:  # x minus any other number is normalized by its square, rightly
            assert "LayerNormalization" not in found
            continue
        assert not {"LayerNormalization", "RMSNormalization"} & set(found), found
    found = ops(check_levels(norm_net(wide_scale), {"x": normal(3, 5, 8)}))
    assert found == ["LayerNormalization", "Mul"]


# ------------------------------------------------------------------------------ softmax


def log_softmax(net: Net) -> str:
    d = net("Sub", "x", net("ReduceMax", "x", axes=[-1], keepdims=1))
    return net("Sub", d, net("Log", net.mean(net("Exp", d), "ReduceSum")))


def log_softmax_short(net: Net) -> str:
    return net("Sub", "x", net("ReduceLogSumExp", "x", axes=[-1], keepdims=1))


@pytest.mark.parametrize(
    ("build", "op"),
    [
        (lambda net: exported.tf_softmax(net, "x"), "Softmax"),
        (log_softmax, "LogSoftmax"),
        (log_softmax_short, "LogSoftmax"),
    ],
)
def test_softmax(build, op: str) -> None:  # type: ignore[no-untyped-def]
    x = normal(3, 5, 8) * 50
    x[0, 0, :4] = -np.inf
    graph = check_levels(norm_net(build), {"x": x})
    assert ops(graph) == [op]


def test_a_softmax_without_its_maximum_keeps_overflowing() -> None:
    net = Net(17)
    e = net("Exp", "x")
    net("Div", e, net.mean(e, "ReduceSum"), out="y")
    data = net.model([("x", ["N", 8])], [("y", None)])
    x = np.full((1, 8), 100, np.float32)
    assert np.isnan(run(compiled(data, 2), {"x": x})["y"]).all()


# ------------------------------------------------------------------------------ attention


def attention(scores, *, rank: int = 4, kind: int = FLOAT) -> bytes:  # type: ignore[no-untyped-def]
    net = Net(17, kind)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    product = net("MatMul", "q", net("Transpose", "k", perm=perm))
    net("MatMul", net("Softmax", scores(net, product), axis=-1), "v", out="y")
    lead = ["N", 2] if rank == 4 else ["N"]
    inputs = [("q", [*lead, "S", 4], kind), ("k", [*lead, "L", 4], kind)]
    inputs += [("v", [*lead, "L", 6], kind), ("m", ["N", 1, "S", "L"], INT)]
    return net.model(inputs[: 4 if rank == 4 else 3], [("y", None, kind)])


def heads(rank: int = 4, kind: int = FLOAT) -> dict[str, np.ndarray]:
    lead = (3, 2) if rank == 4 else (3,)
    numpy = exported.NUMPY[kind]
    feeds = {
        "q": normal(*lead, 5, 4).astype(numpy),
        "k": normal(*lead, 7, 4, seed=1).astype(numpy),
        "v": normal(*lead, 7, 6, seed=2).astype(numpy),
    }
    mask = np.random.default_rng(3).integers(0, 2, (3, 1, 5, 7))
    return feeds | ({"m": mask} if rank == 4 else {})


def filled(net: Net, scores: str) -> str:
    """GPT-2 and DistilBERT: masked scores are replaced."""
    allowed = net("Cast", "m", to=9)
    return net("Where", allowed, net("Div", scores, net.number(2.0)), net.number(-1e4))


def capped(net: Net, scores: str) -> str:
    """Gemma: scores are bounded softly."""
    scores = net("Mul", net("Tanh", net("Div", scores, net.number(5.0))), net.number(5.0))
    mask = net("Cast", net("Sub", "m", net.number(1)), to=net.kind)
    return net("Add", scores, net("Mul", mask, net.number(1e4)))


@pytest.mark.parametrize("kind", [FLOAT, HALF])
@pytest.mark.parametrize("scores", [filled, capped])
def test_any_expression_of_the_scores_joins(scores, kind: int) -> None:  # type: ignore[no-untyped-def]
    graph = check_levels(attention(scores, kind=kind), heads(kind=kind), ort=kind == FLOAT)
    assert ops(graph)[-1] == "Attention*" and "Softmax" not in ops(graph)


def test_three_axes_and_no_mask() -> None:
    data = attention(lambda net, scores: net("Mul", scores, net.number(0.5)), rank=3)
    graph = check_levels(data, heads(3))
    assert ops(graph) == ["Attention*"]
    bare = attention(lambda net, scores: scores, rank=3)
    assert ops(check_levels(bare, heads(3))) == ["Attention*"]


def test_no_keys_at_all() -> None:
    data = attention(lambda net, scores: scores, rank=3)
    feeds = heads(3) | {"k": np.zeros((3, 0, 4), np.float32), "v": np.zeros((3, 0, 6), np.float32)}
    assert_close(run(compiled(data, 2), feeds), run(compiled(data, 0), feeds))


def test_attention_stays_apart_where_something_inside_is_wanted() -> None:
    data = attention(lambda net, scores: net("Mul", scores, net.number(0.5)), rank=3)
    for name in ("matmul_1", "mul_2", "softmax_3"):
        graph = compiled(data, 2, outputs=["y", name])
        assert "Attention*" not in ops(graph) and name in graph.output_names
        want = run(compiled(data, 0, outputs=["y", name]), heads(3))
        assert_close(run(graph, heads(3)), want)


def test_a_softmax_over_queries_is_no_attention() -> None:
    nodes = [
        node("MatMul", ["q", "k"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    inputs = [("q", ["N", 5, 4]), ("k", ["N", 4, 7]), ("v", ["N", 7, 6])]
    feeds = {"q": normal(2, 5, 4), "k": normal(2, 4, 7), "v": normal(2, 7, 6)}
    assert ops(check_levels(model(nodes, inputs, [("y", None)]), feeds)) == [
        "MatMul",
        "Softmax",
        "MatMul",
    ]


def test_products_of_the_runtimes_optimizer() -> None:
    nodes = [
        node("FusedMatMul", ["q", "k"], ["s"], domain="com.microsoft", transB=1, alpha=0.5),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    inputs = [("q", ["N", 2, "S", 4]), ("k", ["N", 2, "L", 4]), ("v", ["N", 2, "L", 6])]
    data = model(nodes, inputs, [("y", None)], domains={"com.microsoft": 1})
    feeds = heads()
    del feeds["m"]
    assert ops(check_levels(data, feeds)) == ["Attention*"]
