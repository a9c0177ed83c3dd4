from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import (
    NodeCase,
    assert_close,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

IMAGES = floats(2, 3, 10, 12)
NUMBERS = int64(0, 1, 1, 0, 1, 0)


def regions(count: int = 6, seed: int = 0) -> np.ndarray:
    """Regions that reach over the edges, sorted corners."""
    ends = np.random.default_rng(seed).uniform(-2, 14, (count, 2, 2))
    return np.sort(ends, axis=1).reshape(count, 4).astype(np.float32)


def real(value: float) -> np.ndarray:
    return np.array([value], np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_non_max_suppression(seed):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 4, (2, 30, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 3, 30)).astype(np.float32).round(1)  # with equal ones
    inputs = [boxes, scores, int64(seed % 7), real(rng.uniform(0, 1)), real(rng.uniform(-0.1, 1))]
    check_node(
        "NonMaxSuppression",
        *inputs[: 2 + seed % 4],
        opset=(10, 11)[seed % 2],
        center_point_box=seed // 2 % 2,
    )


@pytest.mark.parametrize("most", [3, 150, 1000])
def test_more_boxes_than_are_compared_at_once(most):
    rng = np.random.default_rng(most)
    corners = rng.uniform(0, 60, (1, 700, 2)).astype(np.float32)
    boxes = np.concatenate((corners, corners + rng.uniform(-3, 9, (1, 700, 2))), axis=2)
    scores = rng.permutation(1400).reshape(1, 2, 700).astype(np.float32)
    inputs = [boxes.astype(np.float32), scores, int64(most), real(0.3), real(100)]
    check_node("NonMaxSuppression", *inputs, opset=11)


def test_non_max_suppression_of_nothing():
    for boxes, scores in (((1, 0, 4), (1, 2, 0)), ((0, 3, 4), (0, 2, 3)), ((1, 3, 4), (1, 0, 3))):
        (rows,) = NodeCase(
            "NonMaxSuppression", [floats(*boxes), floats(*scores), int64(3)], {}, 11
        ).run_engine()
        assert rows.shape == (0, 3)


def test_boxes_without_an_area_stay():
    flat = np.zeros((1, 3, 4), np.float32)
    check_node("NonMaxSuppression", flat, floats(1, 1, 3), int64(5), real(0.0), opset=11)


@pytest.mark.parametrize(
    ("boxes", "scores", "iou", "error"),
    [
        ((1, 3, 5), (1, 1, 3), 0.5, InvalidModel),
        ((3, 4), (1, 1, 3), 0.5, InvalidModel),
        ((1, 3, 4), (2, 1, 3), 0.5, RunFailed),
        ((1, 3, 4), (1, 1, 4), 0.5, RunFailed),
        ((1, 3, 4), (1, 1, 3), 1.5, RunFailed),
    ],
)
def test_non_max_suppression_errors(boxes, scores, iou, error):
    inputs = [floats(*boxes), floats(*scores), int64(3), real(iou)]
    with pytest.raises(error):
        NodeCase("NonMaxSuppression", inputs, {}, 11).run_engine()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize("shift", [None, "half_pixel", "output_half_pixel"])
def test_roi_align(mode, sampling_ratio, shift):
    attributes: dict[str, Any] = {} if shift is None else {"coordinate_transformation_mode": shift}
    check_node(
        "RoiAlign",
        IMAGES,
        regions(),
        NUMBERS,
        opset=10 if shift is None else 16,
        mode=mode,
        sampling_ratio=sampling_ratio,
        output_height=3,
        output_width=2,
        spatial_scale=0.7,
        **attributes,
    )


def test_roi_align_of_the_newest_opset_and_in_half_precision():
    case = NodeCase("RoiAlign", [IMAGES, regions(), NUMBERS], {"output_width": 2}, 22)
    theirs = ReferenceEvaluator(case.model()).run(None, case.feeds())
    assert_close(case.run_engine()[0], theirs[0], 1e-4, 1e-5)
    half = [IMAGES.astype(np.float16), regions().astype(np.float16), NUMBERS]
    (ours,) = NodeCase("RoiAlign", half, {"output_width": 2}, 22).run_engine("symbolic")
    assert_close(ours.astype(np.float32), theirs[0], 2e-2, 2e-2)


def test_roi_align_of_regions_turned_inside_out():
    check_node("RoiAlign", IMAGES, np.ascontiguousarray(regions()[:, ::-1]), NUMBERS, opset=16)


@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("pooled", [[3, 4], [13, 1]])
def test_max_roi_pool(scale, pooled):
    rois = np.concatenate([NUMBERS[:, None].astype(np.float32), regions()], axis=1)
    check_node("MaxRoiPool", IMAGES, rois, pooled_shape=pooled, spatial_scale=scale)


@pytest.mark.parametrize(
    ("op", "rois", "attributes", "error"),
    [
        ("RoiAlign", floats(6, 5), {}, InvalidModel),
        ("RoiAlign", floats(6, 4), {"mode": "sum"}, InvalidModel),
        ("RoiAlign", floats(6, 4), {"output_width": 0}, InvalidModel),
        ("RoiAlign", floats(6, 4), {"coordinate_transformation_mode": "x"}, InvalidModel),
        ("RoiAlign", floats(5, 4), {}, RunFailed),
        ("RoiAlign", np.full((6, 4), np.nan, np.float32), {}, RunFailed),
        ("MaxRoiPool", floats(6, 4), {"pooled_shape": [1, 1]}, InvalidModel),
        ("MaxRoiPool", floats(6, 5), {"pooled_shape": [1]}, InvalidModel),
        ("MaxRoiPool", np.full((6, 5), 7.0, np.float32), {"pooled_shape": [1, 1]}, RunFailed),
    ],
)
def test_region_errors(op, rois, attributes, error):
    inputs = [IMAGES, rois] if op == "MaxRoiPool" else [IMAGES, rois, NUMBERS]
    with pytest.raises(error):
        NodeCase(op, inputs, attributes, 16).run_engine()


def test_a_region_of_another_image_is_an_error():
    with pytest.raises(RunFailed, match="outside"):
        NodeCase("RoiAlign", [IMAGES, regions(), NUMBERS + 1], {}, 16).run_engine()


def test_a_huge_region_is_refused():
    whole = np.array([[0, 0, 1e9, 1e9]], np.float32)
    case = NodeCase("RoiAlign", [IMAGES, whole, int64(0)], {}, 16)
    with pytest.raises(ResourceLimit):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 26)).run(case.feeds())


def test_regions_of_fixed_images_are_independent():
    inputs = [IMAGES, regions(3), int64(0, 1, 1)]
    case = NodeCase("RoiAlign", inputs, {"output_width": 2}, 16, fixed=(0,))
    assert row_states(case, (1, 2))[0].is_rows
    assert not row_states(NodeCase("RoiAlign", inputs, {}, 16), (0,))[0].is_rows
    rois = np.concatenate([int64(0, 1, 1)[:, None].astype(np.float32), regions(3)], axis=1)
    case = NodeCase("MaxRoiPool", [IMAGES, rois], {"pooled_shape": [2, 2]}, fixed=(0,))
    assert row_states(case, (1,))[0].is_rows
    check_rows(NodeCase("RoiAlign", inputs, {}, 16), (0,))
