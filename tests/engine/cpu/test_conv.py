"""Convolutions of pictures: kernels against numpy, nodes against the reference device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.device import CpuDevice
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.conv import ConvSchedule, Cut, ImageConv, cut_picture
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule, pack_depthwise
from engine.cpu.kernels.panels import pack_columns, pack_panels
from engine.cpu.kernels.schedule import schedule_conv, schedule_depthwise
from engine.cpu.lower.conv import merged_groups
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.device import CompileOptions
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import resolve_window
from tests.engine.cpu.harness import HOST_ISAS, run_kernel
from tests.engine.cpu.pictures import empty_picture, from_picture, to_picture
from tests.engine.onnx_models import model

RESIDUAL = "x0:float32; x1:float32; add #0 #1; x2:float32; mul #2 #3; 0.0:float32; max #4 #5"
THREE_TILES = ConvSchedule(3, 1)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check_dense(
    shape: tuple[int, int, int, int],
    filters: int,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    groups: int = 1,
    borders: tuple[int, int, int] = (0, 0, 0),
    gap: int = 0,
    thin: bool = False,
    schedule: ConvSchedule = THREE_TILES,
    pieces: int = 1,
    isa: str = "",
) -> None:
    """A convolution with a residual and a factor per filter, against numpy in float64.

    `borders`: of input, result and residual; `gap`: channels of another between the result's.
    """
    target = target_for(isa) if isa else host_target()
    batch, channels, height, width = shape
    window = resolve_window(
        (height, width), kernel, strides=strides, dilations=dilations, pads=pads
    )
    rows, columns = window.output_sizes((height, width))
    held = channels if thin else target.whole_vectors(channels)
    x_layout = ImageLayout(height, width, channels, held, held, borders[0])
    held = target.whole_vectors(filters)
    y_layout = ImageLayout(rows, columns, filters, held, held + gap, borders[1])
    r_layout = ImageLayout(rows, columns, filters, held, held, borders[2])
    begins = window.begins[0], window.begins[1]
    spec = ImageConv(
        x_layout,
        y_layout,
        kernel,
        strides,
        dilations,
        begins,
        schedule,
        groups,
        RESIDUAL,
        (r_layout, None),
    )
    panels = spec.panels(target)
    x, w = numbers(1, *shape), numbers(2, filters, channels // groups, *kernel)
    bias, factor = numbers(3, filters), numbers(4, filters)
    residual = numbers(5, batch, filters, rows, columns)
    matrices = w.reshape(groups, filters // groups, -1, *kernel).transpose(0, 3, 4, 2, 1)
    matrices = matrices.reshape(groups, -1, filters // groups)
    missing = panels.columns - matrices.shape[2]
    matrices = np.pad(matrices, ((0, 0), (0, 0), (0, missing)))

    def per_filter(values: np.ndarray) -> np.ndarray:
        return np.concatenate([pack_columns(row, panels) for row in values.reshape(groups, -1)])

    operands = [
        empty_picture(batch, y_layout),
        to_picture(x, x_layout),
        np.concatenate([pack_panels(m, panels) for m in matrices]),
        per_filter(bias),
        to_picture(residual, r_layout, between=1.0),
        per_filter(factor),
    ]
    tasks = spec.tasks(batch, target)
    assert isinstance(tasks, int)
    (y,) = run_kernel(spec, operands, numbers=[batch], tasks=tasks, pieces=pieces, target=target)
    wide = convolve(np, x.astype(np.float64), w.astype(np.float64), window, groups)
    wide = (wide + bias[:, None, None] + residual) * factor[:, None, None]
    scale = float(np.abs(wide).max())
    np.testing.assert_allclose(
        from_picture(y, y_layout), np.maximum(wide, 0), rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_windows_of_every_kind(isa: str) -> None:
    check_dense((2, 16, 9, 9), 32, (1, 1), isa=isa, pieces=2)
    check_dense((2, 16, 9, 7), 40, (3, 3), pads=(1, 1, 1, 1), borders=(1, 1, 0), isa=isa, pieces=3)
    check_dense(
        (1, 3, 23, 19),
        20,
        (7, 7),
        strides=(2, 2),
        pads=(3, 3, 3, 3),
        borders=(3, 0, 0),
        thin=True,
        isa=isa,
    )
    check_dense(
        (2, 24, 14, 14),
        48,
        (3, 3),
        strides=(2, 1),
        dilations=(1, 2),
        pads=(1, 0, 2, 3),
        borders=(3, 2, 1),
        schedule=ConvSchedule(2, 2, weights_first=True),
        isa=isa,
        pieces=2,
    )
    check_dense((2, 24, 14, 14), 48, (1, 1), strides=(2, 2), isa=isa)


def test_flat_pictures_beside_others_channels() -> None:
    check_dense((2, 24, 7, 7), 100, (1, 1), gap=16)
    check_dense((1, 64, 1, 1), 16, (1, 1))


def test_groups_of_whole_vectors() -> None:
    lanes = host_target().lanes
    check_dense(
        (2, 2 * lanes, 8, 8),
        4 * lanes,
        (3, 3),
        pads=(1, 1, 1, 1),
        borders=(1, 0, 0),
        groups=2,
        schedule=ConvSchedule(3, 1, 16),
    )


@pytest.mark.parametrize("block", [2, 50])
@pytest.mark.parametrize("weights_first", [False, True])
def test_any_schedule(block: int, weights_first: bool) -> None:
    schedule = ConvSchedule(block, 2, 0, weights_first)
    check_dense((3, 16, 15, 15), 100, (2, 1), schedule=schedule, pieces=4)


@pytest.mark.parametrize("isa", HOST_ISAS[:1] + HOST_ISAS[-1:])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "size"),
    [
        ((3, 3), (1, 1), (1, 1), (14, 15)),
        ((3, 3), (2, 2), (1, 1), (9, 7)),
        ((5, 5), (1, 2), (1, 1), (9, 30)),
        ((7, 7), (1, 1), (1, 1), (7, 7)),
        ((3, 2), (1, 1), (2, 3), (9, 9)),
    ],
)
def test_depthwise(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    size: tuple[int, int],
    isa: str,
) -> None:
    target, channels, batch = target_for(isa), 40, 2
    pads = (kernel[0] // 2, kernel[1] // 2) * 2
    window = resolve_window(size, kernel, strides=strides, dilations=dilations, pads=pads)
    rows, columns = window.output_sizes(size)
    held = target.whole_vectors(channels)
    x_layout = ImageLayout(*size, channels, held, held, 9)
    y_layout = ImageLayout(rows, columns, channels, held, held + 16, 1)
    r_layout = ImageLayout(rows, columns, channels, held, held, 2)
    x, w = numbers(1, batch, channels, *size), numbers(2, channels, 1, *kernel)
    bias, factor = numbers(3, channels), numbers(4, channels)
    residual = numbers(5, batch, channels, rows, columns)
    spec = DepthwiseConv(
        x_layout,
        y_layout,
        kernel,
        strides,
        dilations,
        (pads[0], pads[1]),
        DepthwiseSchedule(2, 1),
        RESIDUAL,
        (r_layout, None),
    )
    padding = (0, held - channels)
    operands = [
        empty_picture(batch, y_layout),
        to_picture(x, x_layout, between=1.0),
        pack_depthwise(w, target.lanes),
        np.pad(bias, padding),
        to_picture(residual, r_layout, between=1.0),
        np.pad(factor, padding),
    ]
    tasks = spec.tasks(batch, target)
    assert isinstance(tasks, int)
    (y,) = run_kernel(spec, operands, numbers=[batch], tasks=tasks, pieces=3, target=target)
    wide = convolve(np, x.astype(np.float64), w.astype(np.float64), window, channels)
    wide = (wide + bias[:, None, None] + residual) * factor[:, None, None]
    np.testing.assert_allclose(from_picture(y, y_layout), np.maximum(wide, 0), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_instruction_set(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(24)
    x, y = ImageLayout(7, 9, 24, held, held, 1), ImageLayout(7, 9, 24, held, held)
    pair = (3, 3), (1, 1), (1, 1), (1, 1)
    dense = ImageConv(x, y, *pair, ConvSchedule(1, 1), 1, RESIDUAL, (y, None))
    depthwise = DepthwiseConv(x, y, *pair, DepthwiseSchedule(1, 1), RESIDUAL, (y, None))
    assert compile_kernel(schedule_conv(dense, target), "kernel", target)
    assert compile_kernel(schedule_depthwise(depthwise, target), "kernel", target)


def test_cuts_cover_the_picture_evenly() -> None:
    target = host_target()
    for height, width in ((1, 1), (7, 7), (13, 55), (112, 112), (3, 1000)):
        for cut, length in zip(cut_picture(height, width, target), (height, width), strict=True):
            assert cut.parts * cut.short + cut.longer == length
            assert max(cut.sizes) - min(cut.sizes) <= 1
        rows, columns = cut_picture(height, width, target)
        assert rows.sizes[0] * columns.sizes[0] <= target.tile_rows
    assert Cut(7, 3).sizes == (3, 2)


@pytest.mark.parametrize(("filters", "per_group", "groups"), [(32, 4, 8), (12, 3, 4), (64, 2, 2)])
def test_merged_groups_mean_the_same(filters: int, per_group: int, groups: int) -> None:
    w = numbers(0, filters, per_group, 3, 3)
    wide, fewer = merged_groups(w, groups, 16)
    assert fewer == 1 or filters // fewer % 16 == 0
    x = numbers(1, 1, per_group * groups, 5, 5)
    window = resolve_window((5, 5), (3, 3))
    np.testing.assert_array_equal(
        convolve(np, x, w, window, groups) == 0, convolve(np, x, wide, window, fewer) == 0
    )
    np.testing.assert_allclose(
        convolve(np, x, w, window, groups),
        convolve(np, x, wide, window, fewer),
        rtol=1e-4,
        atol=1e-5,
    )


# ---------------------------------------------------------------------- through a model


def check_model(source: bytes, shape: tuple[int, ...], batches: tuple[int, ...]) -> None:
    """All of a model is native code, and its output is the reference device's."""
    native, reference = (engine.load(source, device=d) for d in ("cpu", "reference"))
    coverage = CpuDevice().coverage(reference.graph, CompileOptions())
    assert [c.reason for c in coverage] == [None] * len(coverage)
    for batch in batches:
        x = numbers(batch, batch, *shape)
        (y,), (expected,) = (m.run({"x": x}).values() for m in (native, reference))
        assert y.shape == expected.shape
        scale = float(np.abs(expected).max(initial=1.0))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize(
    ("shape", "filters", "attributes"),
    [
        ((3, 9, 11), 5, {"pads": [1, 0, 2, 1], "strides": [2, 1], "kernel_shape": [3, 2]}),
        (
            (8, 9, 11),
            8,
            {"pads": [2, 2, 2, 2], "dilations": [2, 2], "kernel_shape": [3, 3], "group": 4},
        ),
        ((20, 8, 8), 20, {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3], "group": 20}),
        ((3, 9, 9), 3, {"auto_pad": "SAME_LOWER", "kernel_shape": [2, 2], "group": 3}),
        ((16, 1, 1), 10, {"kernel_shape": [1, 1]}),
        ((6, 30), 9, {"kernel_shape": [5], "pads": [4, 1], "strides": [2]}),
        ((6, 13), 6, {"kernel_shape": [1], "group": 2}),
    ],
)
def test_nodes(shape: tuple[int, ...], filters: int, attributes: dict[str, Any]) -> None:
    per_group = shape[0] // attributes.get("group", 1)
    weights = {"w": numbers(0, filters, per_group, *attributes["kernel_shape"])}
    weights["b"] = numbers(1, filters)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], **attributes),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    source = model(nodes, [("x", ("N", *shape))], [("y", None)], weights)
    check_model(source, shape, (0, 1, 3))


def test_a_residual_and_what_follows_stay_pictures() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "w3"], ["y"], pads=[3, 3, 3, 3], group=20),
    ]
    weights = {"w1": numbers(0, 20, 4, 3, 3), "w2": numbers(1, 20, 20, 3, 3)}
    weights["w3"] = numbers(2, 20, 1, 7, 7)
    source = model(nodes, [("x", ("N", 4, 10, 12))], [("y", None)], weights)
    check_model(source, (4, 10, 12), (2,))


@pytest.mark.parametrize(
    ("shape", "filters", "attributes"),
    [
        ((16, 5, 7), 20, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        (
            (4, 5, 7),
            6,
            {
                "kernel_shape": [3, 2],
                "strides": [3, 1],
                "pads": [1, 0, 0, 1],
                "dilations": [2, 3],
                "output_padding": [1, 0],
            },
        ),
        ((4, 3, 5), 6, {"kernel_shape": [1, 1], "strides": [2, 3]}),
        ((8, 5, 7), 16, {"kernel_shape": [3, 3], "strides": [2, 2], "group": 4}),
        ((6, 7), 9, {"kernel_shape": [3], "strides": [2]}),
        ((6, 7, 7), 9, {"kernel_shape": [3, 3], "strides": [2, 2], "output_shape": [20, 17]}),
        ((6, 7, 7), 9, {"kernel_shape": [4, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ],
)
def test_transposed(shape: tuple[int, ...], filters: int, attributes: dict[str, Any]) -> None:
    per_group = filters // attributes.get("group", 1)
    weights = {"w": numbers(0, shape[0], per_group, *attributes["kernel_shape"])}
    weights["b"] = numbers(1, filters)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["a"], **attributes),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    source = model(nodes, [("x", ("N", *shape))], [("y", None)], weights)
    check_model(source, shape, (0, 3))
