"""Precision "bf16": pictures and products rounded to bfloat16, against the same in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.device import CpuDevice
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.panels import pack_columns, pack_panels, to_bfloat16
from engine.cpu.kernels.rounding import RoundImage
from engine.cpu.kernels.thin_pairs import ToThinPairs
from engine.cpu.lower import half as half_pictures
from engine.cpu.target import host_target
from engine.device import CompileOptions
from engine.dtypes import DType
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import resolve_window
from tests.engine.cpu.harness import run_kernel
from tests.engine.cpu.pictures import empty_picture, from_picture, to_picture
from tests.engine.onnx_models import model

pytestmark = pytest.mark.skipif(
    not host_target().has_bf16_dot, reason="this processor has no dot products of bfloat16"
)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def wide(bits: np.ndarray) -> np.ndarray:
    """Float32 of the bits of bfloat16."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    return wide(to_bfloat16(array))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "held"), [(24, 3, 1, 32), (32, 3, 2, 32), (50, 1, 1, 64)]
)
def test_a_convolution_of_rounded_pictures(
    channels: int, kernel: int, stride: int, held: int
) -> None:
    target, batch, size, filters = host_target(), 2, 9, 40
    pads = (kernel // 2,) * 4
    window = resolve_window((size, size), (kernel, kernel), strides=(stride, stride), pads=pads)
    (rows, columns) = window.output_sizes((size, size))
    x_layout = ImageLayout(size, size, channels, held, held, kernel // 2, DType.BFLOAT16)
    y_layout = ImageLayout(rows, columns, filters, 48, 48, 1)
    spec = ImageConv(
        x_layout,
        y_layout,
        (kernel, kernel),
        (stride, stride),
        (1, 1),
        (pads[0], pads[1]),
        ConvSchedule(2, 1, 16),
    )
    panels = spec.panels(target)
    x, w = numbers(1, batch, channels, size, size), numbers(2, filters, channels, kernel, kernel)
    bias = numbers(3, filters)
    matrix = np.pad(w.transpose(2, 3, 1, 0).reshape(-1, filters), ((0, 0), (0, 48 - filters)))
    tasks = spec.tasks(batch, target)
    assert isinstance(tasks, int)
    operands = [
        empty_picture(batch, y_layout),
        to_bfloat16(to_picture(x, x_layout, between=1.0)),
        pack_panels(matrix, panels, DType.BFLOAT16),
        pack_columns(bias, panels),
    ]
    (y,) = run_kernel(spec, operands, numbers=[batch], tasks=tasks, pieces=2)
    expected = convolve(np, rounded(x).astype(np.float64), rounded(w), window, 1)
    np.testing.assert_allclose(
        from_picture(y, y_layout), expected + bias[:, None, None], rtol=1e-5, atol=5e-5
    )


def test_rounding_a_part_of_a_wider_picture() -> None:
    x_layout = ImageLayout(5, 7, 20, 32, 48, 1)
    y_layout = replace(x_layout, pitch=32, dtype=DType.BFLOAT16)
    x = to_picture(numbers(1, 3, 20, 5, 7), x_layout, between=2.0)
    kernel = RoundImage(x_layout, y_layout)
    tasks = kernel.tasks(3, host_target())
    assert isinstance(tasks, int)
    (y,) = run_kernel(kernel, [np.ones((3, 7, 9, 32), np.uint16), x], tasks=tasks, pieces=2)
    assert (y == to_bfloat16(x[..., :32])).all()


def test_a_chain_of_convolutions() -> None:
    """Expand, depthwise, project with a residual, a window, a transposed convolution."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1"], ["a"]),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=48),
        make("Conv", ["c", "w3"], ["d"]),
        make("Add", ["d", "x"], ["e"]),
        make("Conv", ["e", "w4"], ["f"], pads=[1, 1, 1, 1], strides=[2, 2]),
        make("ConvTranspose", ["f", "w5"], ["y"], strides=[2, 2]),
    ]
    shapes = {
        "w1": (48, 24, 1, 1),
        "w2": (48, 1, 3, 3),
        "w3": (24, 48, 1, 1),
        "w4": (32, 24, 3, 3),
        "w5": (32, 20, 2, 2),
    }
    weights = {name: numbers(i, *s) * 0.2 for i, (name, s) in enumerate(shapes.items())}
    source = model(nodes, [("x", ("N", 24, 11, 13))], [("y", None)], weights)
    x = numbers(9, 3, 24, 11, 13)
    half = engine.load(source, device="cpu", precision="bf16")
    (y,) = half.run({"x": x}).values()
    (expected,) = engine.load(source, device="reference").run({"x": x}).values()
    scale = float(np.abs(expected).max())
    error = float(np.abs(y - expected).max()) / scale
    assert 1e-5 < error < 2e-2  # it does round, and no more than that
    for i in range(3):  # a row alone gives the same bits
        (alone,) = half.run({"x": x[i : i + 1]}).values()
        assert alone.tobytes() == y[i : i + 1].tobytes()


@pytest.mark.parametrize(("channels", "size"), [(3, 19), (2, 40), (5, 7), (8, 16)])
def test_pictures_of_few_channels_as_pairs(channels: int, size: int) -> None:
    even = channels + channels % 2
    layout = ImageLayout(size, size + 3, even, even, even, 2, DType.BFLOAT16)
    x = numbers(channels, 2, channels, size, size + 3)
    empty = np.full((2, size + 4, size + 7, even), 7, np.uint16)
    (y,) = run_kernel(ToThinPairs(layout, channels), [empty, x], tasks=2 * size, pieces=3)
    expected = np.zeros((2, size + 4, size + 7, even), np.uint16)
    expected[:, 2:-2, 2:-2, :channels] = to_bfloat16(x.transpose(0, 2, 3, 1))
    assert (y == expected).all()


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(3, 7, 2), (3, 3, 1), (2, 1, 1)])
def test_a_convolution_of_few_channels(
    channels: int, kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network begins with: pairs are multiplied, whatever the number of channels."""
    pads, strides = [kernel // 2] * 4, (stride, stride)
    make = helper.make_node
    nodes = [make("Conv", ["x", "w", "b"], ["y"], pads=pads, strides=list(strides))]
    w, b = numbers(1, 40, channels, kernel, kernel), numbers(2, 40)
    source = model(nodes, [("x", ("N", channels, 23, 17))], [("y", None)], {"w": w, "b": b})
    made: list[ToThinPairs] = []
    monkeypatch.setattr(
        half_pictures, "ToThinPairs", lambda *a: made.append(ToThinPairs(*a)) or made[-1]
    )
    half = engine.load(source, device="cpu", precision="bf16")
    assert made
    x = numbers(3, 2, channels, 23, 17)
    (y,) = half.run({"x": x}).values()
    window = resolve_window((23, 17), (kernel, kernel), strides=strides, pads=pads)
    expected = convolve(np, rounded(x).astype(np.float64), rounded(w), window, 1)
    np.testing.assert_allclose(y, expected + b[:, None, None], rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize(("groups", "per_group", "filters"), [(2, 16, 64), (4, 24, 128), (3, 5, 6)])
def test_groups(groups: int, per_group: int, filters: int) -> None:
    """Groups of whole vectors of filters multiply pairs; narrow ones become one first."""
    channels, make = groups * per_group, helper.make_node
    nodes = [make("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=groups)]
    w = numbers(1, filters, per_group, 3, 3)
    source = model(nodes, [("x", ("N", channels, 9, 7))], [("y", None)], {"w": w})
    x = numbers(2, 2, channels, 9, 7)
    (y,) = engine.load(source, device="cpu", precision="bf16").run({"x": x}).values()
    window = resolve_window((9, 7), (3, 3), pads=[1, 1, 1, 1])
    narrow = groups == 3  # 15 channels: no pairs
    a, b = (x, w) if narrow else (rounded(x), rounded(w))
    expected = convolve(np, a.astype(np.float64), b, window, groups)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_other_precisions_are_refused() -> None:
    graph = engine.load(
        model([helper.make_node("Relu", ["x"], ["y"])], [("x", (2,))], [("y", (2,))])
    ).graph
    with pytest.raises(engine.DeviceUnavailable, match="'fp32', 'bf16', 'int8' or 'auto'"):
        CpuDevice().compile(graph, CompileOptions(precision="fp16"))
