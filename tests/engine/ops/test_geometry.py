from __future__ import annotations

import numpy as np
import pytest

from engine.errors import EngineError, InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, int64, row_states


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 3, 2, 2), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("fixed", [(), (1,)])
def test_affine_grid(align_corners, size, fixed):
    rank = len(size) - 2
    theta = floats(2, rank, rank + 1)
    check_node(
        "AffineGrid", theta, int64(*size), opset=20, fixed=fixed, align_corners=align_corners
    )


def test_the_grid_of_a_single_pixel_is_its_middle():
    theta = floats(2, 2, 3)
    for align_corners in (0, 1):
        attributes = {"align_corners": align_corners}
        (grid,) = NodeCase("AffineGrid", [theta, int64(2, 1, 1, 1)], attributes, 20).run_engine()
        np.testing.assert_array_equal(grid[:, 0, 0], theta[:, :, 2])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fixed", [(), (1,)])
def test_center_crop_pad(seed, fixed):
    rng = np.random.default_rng(seed)
    x = floats(*rng.integers(1, 7, 3), seed=seed)
    axes = rng.permutation(3)[: rng.integers(1, 4)]
    target = int64(*rng.integers(0, 9, len(axes)))
    signed = [int(a) - 3 * int(rng.integers(0, 2)) for a in axes]
    check_node("CenterCropPad", x, target, opset=18, fixed=fixed, axes=signed)


def test_center_crop_pad_of_all_axes_and_of_text():
    check_node("CenterCropPad", floats(4, 5), int64(7, 2), opset=18)
    words = np.array(["a", "b", "c"], object)
    (ours,) = NodeCase("CenterCropPad", [words, int64(5)], {}, 18).run_engine()
    assert ours.tolist() == ["", "a", "b", "c", ""]


@pytest.mark.parametrize(
    ("image", "block", "places", "attributes"),
    [
        ((5, 5), (1, 5), 5, {}),
        ((5, 6), (2, 3), 16, {}),
        ((6, 6), (2, 2), 25, {"dilations": [1, 1], "strides": [1, 1]}),
        ((6, 7), (2, 2), 9, {"dilations": [2, 1], "strides": [2, 2], "pads": [1, 0, 0, 0]}),
        ((7,), (3,), 5, {}),
        ((3, 4, 4), (1, 2, 2), 27, {}),
    ],
)
@pytest.mark.parametrize("fixed", [(), (1, 2)])
def test_col2im(image, block, places, attributes, fixed):
    x = floats(2, 3 * int(np.prod(block)), places)
    check_node("Col2Im", x, int64(*image), int64(*block), opset=18, fixed=fixed, **attributes)


def test_col2im_in_half_precision():
    x = floats(1, 4, 16)
    inputs = [int64(5, 5), int64(2, 2)]
    (wide,) = NodeCase("Col2Im", [x, *inputs], {}, 18).run_engine()
    (half,) = NodeCase("Col2Im", [x.astype(np.float16), *inputs], {}, 18).run_engine()
    np.testing.assert_allclose(half, wide, rtol=1e-2, atol=1e-2)


def pooled(shape: tuple[int, ...], **attributes: object) -> list[np.ndarray]:
    case = NodeCase("MaxPool", [floats(*shape)], attributes, 11, outputs=2)
    return case.run_engine()


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 8), {"kernel_shape": [2], "strides": [2]}),
        ((1, 2, 6, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((1, 1, 4, 4, 6), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
        ((1, 1, 6, 6), {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 1, 6, 6), {"kernel_shape": [2, 2]}),
    ],
)
@pytest.mark.parametrize("opset", [9, 11])
def test_max_unpool(shape, attributes, opset):
    values, positions = pooled(shape, **attributes)
    (unpooled,) = check_node("MaxUnpool", values, positions, opset=opset, **attributes)
    assert unpooled.shape == shape


def test_max_unpool_into_a_larger_shape():
    values = np.array([[[[1, 2], [3, 4]]]], np.float32)
    positions = int64(5, 7, 13, 15).reshape(1, 1, 2, 2)
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    case = NodeCase("MaxUnpool", [values, positions, int64(1, 1, 5, 6)], attributes, 11)
    (ours,) = case.run_engine()
    expected = np.zeros((5, 6), np.float32)
    expected[1::2, 1::2][:2, :2] = values[0, 0]
    np.testing.assert_array_equal(ours[0, 0], expected)
    with pytest.raises(RunFailed, match="output_shape"):
        NodeCase("MaxUnpool", [values, positions, int64(1, 1, 3, 6)], attributes, 11).run_engine()


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "error"),
    [
        ("AffineGrid", [floats(2, 3, 3), int64(2, 1, 2, 2)], {}, InvalidModel),
        ("AffineGrid", [floats(2, 2), int64(2, 1, 2, 2)], {}, InvalidModel),
        ("AffineGrid", [floats(2, 2, 3), int64(3, 1, 2, 2)], {}, InvalidModel),
        ("AffineGrid", [floats(2, 2, 3), int64(2, 1, 2)], {}, InvalidModel),
        ("CenterCropPad", [floats(2, 2), int64(2, 3, 4)], {}, InvalidModel),
        ("CenterCropPad", [floats(2, 2), int64(2, -3)], {}, InvalidModel),
        ("CenterCropPad", [floats(2, 2), int64(2)], {"axes": [2]}, InvalidModel),
        ("Col2Im", [floats(1, 5, 4), int64(3, 3), int64(2, 2)], {}, InvalidModel),
        ("Col2Im", [floats(1, 4), int64(3, 3), int64(2, 2)], {}, InvalidModel),
        ("Col2Im", [floats(1, 4, 4), int64(3, 3)[None], int64(2, 2)], {}, InvalidModel),
        ("Col2Im", [floats(1, 4, 5), int64(3, 3), int64(2, 2)], {}, RunFailed),
        ("Col2Im", [floats(1, 4, 4), int64(3, 3), int64(2, 2)], {"strides": [1]}, RunFailed),
        ("Col2Im", [floats(1, 4, 4), int64(3, 3), int64(2, 2)], {"strides": [0, 1]}, RunFailed),
        ("MaxUnpool", [floats(1, 1, 2), int64(0, 1)], {"kernel_shape": [2, 2]}, InvalidModel),
        (
            "MaxUnpool",
            [floats(1, 1, 2), int64(0, 1).reshape(1, 1, 2)],
            {"kernel_shape": [2], "strides": [0]},
            InvalidModel,
        ),
        (
            "MaxUnpool",
            [floats(1, 1, 2), int64(0, 9).reshape(1, 1, 2)],
            {"kernel_shape": [2]},
            RunFailed,
        ),
    ],
)
def test_what_does_not_fit_is_refused(op, inputs, attributes, error):
    fixed = range(1, len(inputs)) if error is InvalidModel and op != "MaxUnpool" else ()
    with pytest.raises(error):
        NodeCase(op, inputs, attributes, 20, fixed).run_engine()


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("AffineGrid", [floats(1, 2, 3), int64(1, 1, 1 << 30, 1 << 30)]),
        ("CenterCropPad", [floats(1, 2), int64(1 << 30, 1 << 30)]),
        ("Col2Im", [floats(1, 0, 0), int64(1 << 30, 1 << 30), int64(1, 1)]),
    ],
)
def test_sizes_asked_for_by_value_are_bounded(op, inputs):
    case = NodeCase(op, inputs, {}, 20)
    with pytest.raises(EngineError) as caught:
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 24)).run(case.feeds())
    assert isinstance(caught.value, (ResourceLimit, RunFailed))


def test_rows():
    grid = NodeCase("AffineGrid", [floats(3, 2, 3), int64(3, 1, 2, 2)], {}, 20)
    assert not row_states(grid, (0,))[0].is_rows  # the size names three images, whatever comes
    crop = NodeCase("CenterCropPad", [floats(3, 4), int64(6)], {"axes": [1]}, 18, fixed=(1,))
    assert check_rows(crop, (0,))[0].is_rows
    image = NodeCase("Col2Im", [floats(3, 4, 4), int64(3, 3), int64(2, 2)], {}, 18, fixed=(1, 2))
    assert check_rows(image, (0,))[0].is_rows
