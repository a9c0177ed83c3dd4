"""Quantized models on the device against the reference: integers are exact, so results are, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine.cpu.compiling import native_coverage
from engine.cpu.target import target_for
from engine.limits import Limits
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.comparing import compiled
from tests.engine.quantized_models import INT8, UINT8, Qdq, conv_net, transformer_block

Feeds = dict[str, np.ndarray]
INT32 = onnx.TensorProto.INT32


def check(data: bytes, feeds: Feeds, native: bool = True) -> None:
    """Equal to the reference, bit by bit but for floats that no integers follow from."""
    want = engine.load(data, device="reference").run(feeds)
    got = engine.load(data, device="cpu", threads=1).run(feeds)
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6, err_msg=name)
    if native:
        assert not portable_nodes(data)


def portable_nodes(data: bytes, isa: str = "avx512") -> list[str]:
    graph = compiled(data, 2)
    found = native_coverage(graph, target_for(isa), REGISTRY, Limits())
    return [f"{each.node.op}: {each.reason}" for each in found if each.reason]


def convolution(
    channels: int,
    filters: int,
    size: int,
    *,
    zero: int = 13,
    left: type = np.uint8,
    group: int = 1,
    **options: Any,
) -> bytes:
    q = Qdq(7)
    x = q.pair("x", 0.05, zero, left)
    w = q.fixed((filters, channels // group, size, size))
    y = q.add("Conv", x, w, q.bias(filters), group=group, **options)
    y = q.add("Identity", q.pair(y, 1.0, 100))
    return q.build([("x", ["N", channels, 11, 13])], [(y, None)])


def dynamic_convolution(channels: int, filters: int, group: int, zero: int) -> bytes:
    """As dynamic quantizers write it."""
    rng = np.random.default_rng(group)
    weights = {
        "w": rng.integers(0, 256, (filters, channels // group, 3, 3), np.uint8),
        "wz": np.array(zero, np.uint8),
        "ws": np.float32(0.02),
        "b": rng.standard_normal((filters, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "w", "z", "wz"], ["sums"], pads=[1, 1, 1, 1], group=group),
        node("Cast", ["sums"], ["floats"], to=1),
        node("Mul", ["s", "ws"], ["factor"]),
        node("Mul", ["floats", "factor"], ["scaled"]),
        node("Add", ["scaled", "b"], ["y"]),
    ]
    shape = ["N", channels, 7, 6]
    return model(nodes, [("x", shape)], [("y", ["N", filters, 7, 6])], weights)


PADDED = {"pads": [1, 1, 1, 1]}
CONVOLUTIONS = [
    (6, 40, 3, PADDED),
    (40, 40, 3, {**PADDED, "group": 40}),
    (40, 40, 3, {**PADDED, "group": 40, "strides": [2, 2], "zero": 200}),
    (24, 24, 5, {"pads": [2, 2, 2, 2], "group": 24, "zero": -9, "left": np.int8}),
    (8, 16, 3, {**PADDED, "group": 2}),
    (3, 20, 5, {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
    (32, 33, 1, {"strides": [2, 2]}),
    (16, 16, 3, {"pads": [2, 2, 2, 2], "dilations": [2, 2], "left": np.int8, "zero": 5}),
]


@pytest.mark.parametrize(("channels", "filters", "size", "options"), CONVOLUTIONS)
def test_convolutions(channels: int, filters: int, size: int, options: dict[str, Any]) -> None:
    data = convolution(channels, filters, size, **options)
    check(data, {"x": normal(2, channels, 11, 13, seed=channels)})


def test_a_convolutional_net() -> None:
    data = conv_net(1)
    for batch in (0, 3):
        check(data, {"x": normal(batch, 5, 9, 9, seed=1) * 3})


def test_a_transformer_block() -> None:
    data = transformer_block(1)
    for length in (1, 6):
        mask = np.where(np.arange(length) < 4, 0.0, -1e4).astype(np.float32)
        mask = np.broadcast_to(mask, (2, 1, 1, length)).copy()
        check(data, {"x": normal(2, length, 24, seed=length), "mask": mask})


@pytest.mark.parametrize("isa", ["avx2", "neon"])
def test_nets_are_native_on_every_processor(isa: str) -> None:
    assert not portable_nodes(conv_net(0), isa)
    assert not portable_nodes(transformer_block(0), isa)


def test_two_readers_with_other_zero_points_around_them() -> None:
    q = Qdq(1)
    bytes_ = q.quantize("x", 0.1, 7)
    ends = []
    for zero in (7, 91):
        x = q.dequantize(bytes_, 0.1, zero)
        y = q.add("Conv", x, q.fixed((16, 16, 3, 3)), pads=[1, 1, 1, 1])
        ends.append(q.pair(y, 3.0, 128))
    y = q.add("Add", *ends)
    check(q.build([("x", [1, 16, 5, 5])], [(y, None)]), {"x": normal(1, 16, 5, 5)})


@pytest.mark.parametrize("shape", [(2, 3, 14, 64, 32), (1, 2, 29, 7, 45), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("left", [np.uint8, np.int8])
def test_products_of_computed_matrices(shape: tuple[int, ...], left: type) -> None:
    outer, inner, m, k, n = shape
    q = Qdq(2)
    a, b = q.pair("a", 0.02, 120, left), q.pair("b", 0.03, 9)
    y = q.pair(q.add("MatMul", a, b), 0.05 * k**0.5, 127)
    y = q.add("Add", y, "mask")
    data = q.build(
        [("a", ["N", "H", "M", "K"]), ("b", ["N", "H", "K", "L"]), ("mask", ["N", 1, "M", "L"])],
        [(y, None)],
    )
    feeds = {
        "a": normal(outer, inner, m, k) * 2,
        "b": normal(outer, inner, k, n, seed=1),
        "mask": normal(outer, 1, m, n, seed=2),
    }
    check(data, feeds)


@pytest.mark.parametrize(("m", "k", "n"), [(5, 8, 16), (17, 37, 50), (0, 8, 16)])
def test_plain_integer_products(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(k)
    weights = {
        "w": rng.integers(0, 256, (k, n), np.uint8),
        "xz": np.array(17, np.uint8),
        "wz": np.full(n, 128, np.uint8),
    }
    nodes = [node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])]
    data = model(nodes, [("x", ["M", k], UINT8)], [("y", ["M", n], INT32)], weights)
    check(data, {"x": rng.integers(0, 256, (m, k), np.uint8)})


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("group", [1, 8])
def test_weights_at_both_ends_of_their_range(kind: type, group: int) -> None:
    ends = np.iinfo(kind)
    rng = np.random.default_rng(group)
    for zero in (ends.min, 5):
        w = rng.choice([ends.min, ends.min + 1, 0, ends.max - 1, ends.max], (8, 8 // group, 3, 3))
        fixed = {"w": w.astype(kind), "z": np.array(zero, kind)}
        fixed |= {"m": fixed["w"].reshape(-1, 8), "half": np.float32(0.5)}
        nodes = [
            node("ConvInteger", ["x", "w", "", "z"], ["s"], group=group, pads=[1, 1, 1, 1]),
            node("Cast", ["s"], ["f"], to=1),
            node("Mul", ["f", "half"], ["c"]),
            node("MatMulInteger", ["p", "m", "", "z"], ["y"]),
        ]
        inputs = [("x", ["N", 8, 4, 5], UINT8), ("p", ["M", len(fixed["m"])], UINT8)]
        data = model(nodes, inputs, [("c", None), ("y", None, INT32)], fixed)
        feeds = {
            "x": rng.integers(0, 256, (2, 8, 4, 5)),
            "p": rng.integers(0, 256, (3, w.size // 8)),
        }
        check(data, {name: x.astype(np.uint8) for name, x in feeds.items()})


def test_qlinear_operators() -> None:
    rng = np.random.default_rng(5)
    scale, zero = np.float32(0.02), np.array(99, np.uint8)
    weights = {
        "xs": scale,
        "xz": zero,
        "w": rng.integers(-128, 128, (20, 6, 3, 3), np.int8),
        "ws": rng.random(20, np.float32) * np.float32(0.01),
        "wz": np.zeros(20, np.int8),
        "ys": np.float32(0.3),
        "yz": np.array(-4, np.int8),
        "b": rng.integers(-999, 999, 20, np.int32),
        "m": rng.integers(-128, 128, (7, 9), np.int8),
        "ms": np.float32(0.01),
        "mz": np.array(3, np.int8),
    }
    conv = node(
        "QLinearConv",
        ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
        ["y"],
        pads=[1, 1, 1, 1],
    )
    product = node("QLinearMatMul", ["y", "ys", "yz", "m", "ms", "mz", "xs", "xz"], ["z"])
    data = model(
        [conv, product],
        [("x", ["N", 6, 5, 7], UINT8)],
        [("y", ["N", 20, 5, 7], INT8), ("z", ["N", 20, 5, 9], UINT8)],
        weights,
    )
    check(data, {"x": rng.integers(0, 256, (2, 6, 5, 7), np.uint8)})


@pytest.mark.parametrize("bias", [True, False])
def test_dynamic_quantization(bias: bool) -> None:
    rng = np.random.default_rng(8)
    weights = {
        "w": rng.integers(0, 256, (21, 37), np.uint8),
        "s": rng.random(37, np.float32),
        "z": rng.integers(120, 128, 37, np.uint8),
        "b": rng.standard_normal(37).astype(np.float32),
        "v": rng.integers(-128, 128, (37, 18), np.int8),
        "vs": np.float32(0.3),
    }
    inputs = ["x", "w", "s", "z", "b"] if bias else ["x", "w", "s", "z"]
    nodes = [
        node("DynamicQuantizeMatMul", inputs, ["h"], domain="com.microsoft"),
        node("DynamicQuantizeLinear", ["h"], ["q", "qs", "qz"]),
        node("MatMulInteger", ["q", "v", "qz"], ["sums"]),
        node("Cast", ["sums"], ["floats"], to=1),
        node("Mul", ["qs", "vs"], ["factor"]),
        node("Mul", ["floats", "factor"], ["y"]),
    ]
    domains = {"com.microsoft": 1}
    data = model(nodes, [("x", ["M", 21])], [("y", ["M", 18])], weights, domains=domains)
    for rows, scale in ((5, 1.0), (900, 30.0), (1, 0.0)):
        check(data, {"x": normal(rows, 21, seed=rows) * np.float32(scale) + np.float32(scale)})


@pytest.mark.parametrize("group", [1, 20])
@pytest.mark.parametrize("zero", [128, 90])
def test_dynamic_convolutions(group: int, zero: int) -> None:
    check(dynamic_convolution(20, 20, group, zero), {"x": normal(2, 20, 7, 6, seed=zero) + 1})
