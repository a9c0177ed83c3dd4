from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, int64, row_states

X = floats(2, 2, 5, 6)
NONE = np.array([], np.float32)


def scales(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
SIZES = [(2, 2, 10, 9), (2, 2, 3, 4), (2, 2, 5, 6), (2, 2, 1, 12)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_to_sizes(mode, coordinates, sizes):
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    for fixed in ((), (3,)):
        check_node("Resize", X, None, None, int64(*sizes), fixed=fixed, atol=1e-4, **attributes)


@pytest.mark.parametrize("factors", [(1, 1, 2, 3), (1, 1, 0.5, 0.5), (1, 1, 0.7, 1.3)])
@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_by_scales(mode, coordinates, factors):
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    for fixed in ((), (2,)):
        check_node(
            "Resize", X, None, scales(*factors), opset=19, fixed=fixed, atol=1e-4, **attributes
        )


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("size", [(2, 2, 10, 9), (2, 2, 2, 3)])
def test_nearest_neighbours(rounding, size):
    for coordinates in COORDINATES:
        check_node(
            "Resize",
            X,
            None,
            None,
            int64(*size),
            mode="nearest",
            nearest_mode=rounding,
            coordinate_transformation_mode=coordinates,
            atol=0,
        )


def test_cubic_that_leaves_out_what_lies_outside():
    attributes = {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}
    check_node("Resize", X, None, scales(1, 1, 1.5, 0.6), atol=1e-4, **attributes)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiasing_averages_more_neighbours_when_it_shrinks(mode):
    check_node(
        "Resize",
        floats(1, 1, 12, 12),
        None,
        scales(1, 1, 0.4, 0.5),
        mode=mode,
        antialias=1,
        exclude_outside=1,
        opset=18,
        atol=1e-3,
    )


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_crop_and_resize(mode):
    region = np.array([0, 0, 0.2, 0.3, 1, 1, 0.7, 1.2], np.float32)
    check_node(
        "Resize",
        X,
        region,
        None,
        int64(2, 2, 4, 7),
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
        atol=1e-4,
        opset=13,
    )


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_keeping_the_aspect_ratio(policy):
    attributes = {"axes": [2, 3], "keep_aspect_ratio_policy": policy, "mode": "linear"}
    (ours,) = NodeCase("Resize", [X, None, None, int64(8, 8)], attributes, 18).run_engine(
        "symbolic"
    )
    assert ours.shape == (2, 2, 7, 8) if policy == "not_larger" else (2, 2, 8, 10)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_and_upsample_of_old(mode):
    factors = scales(1, 1, 2, 3)
    check_node("Resize", X, factors, opset=10, mode=mode, atol=1e-5)
    check_node("Upsample", X, factors, opset=9, mode=mode, atol=1e-5, fixed=(1,))
    check_node("Upsample", X, opset=8, mode=mode, atol=1e-5, scales=[1.0, 1.0, 2.0, 3.0])
    check_node("Resize", X, scales(1, 1, 0.5, 0.5), opset=10, mode="nearest", atol=0)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsample_of_opset_1(mode):
    attributes = {"height_scale": 2.0, "width_scale": 1.5, "mode": mode}
    case = NodeCase("Upsample", [X], attributes, 1)
    later = {"scales": [1.0, 1.0, 2.0, 1.5], "mode": {"bilinear": "linear"}.get(mode, mode)}
    (expected,) = NodeCase("Upsample", [X], later, 7).run_runtime()
    for dims in ("static", "symbolic"):
        np.testing.assert_allclose(case.run_engine(dims)[0], expected, rtol=1e-5, atol=1e-6)
    for wrong in ({"height_scale": 0.0}, {"width_scale": float("nan")}):
        with pytest.raises(InvalidModel, match="factors"):
            NodeCase("Upsample", [X], {**attributes, **wrong}, 1).graph()
    with pytest.raises(InvalidModel, match="rank 4"):
        NodeCase("Upsample", [X[0]], attributes, 1).graph()


def test_resize_in_other_types():
    half = X.astype(np.float16)
    check_node("Resize", half, None, scales(1, 1, 2, 2), mode="linear", rtol=1e-2, atol=1e-2)
    whole = (X * 20).astype(np.int8)
    check_node("Resize", whole, None, scales(1, 1, 2, 2), mode="nearest", atol=0)
    check_node("Resize", whole, None, scales(1, 1, 2, 2), mode="linear", atol=1)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([X, None, scales(1, 2)], InvalidModel),
        ([X, None, None, int64(2, 2)], InvalidModel),
        ([X, None, NONE], (InvalidModel, RunFailed)),
    ],
)
def test_resizes_that_do_not_fit_are_refused(inputs, error):
    with pytest.raises(error):
        NodeCase("Resize", inputs, fixed=(2, 3)).run_engine()


@pytest.mark.parametrize("factors", [(1e6, 1, 1, 1e-6), (1, 1, 1, 1e9)])
def test_absurd_scales_are_refused_before_anything_is_allocated(factors):
    inputs = [X, None, scales(*factors)]
    for attributes in ({}, {"mode": "linear"}):
        plan = GraphPlan(
            NodeCase("Resize", inputs, attributes).graph(), limits=Limits(run_bytes=1 << 20)
        )
        with pytest.raises(ResourceLimit):
            plan.run({"x0": X, "x2": inputs[2]})
    shrinking = [X, None, scales(1, 1, 1, 0.2)]
    attributes = {"mode": "linear", "antialias": 1}
    with pytest.raises((RunFailed, ResourceLimit)):
        negative = [X, None, scales(1, 1, 1, -2)]
        NodeCase("Resize", negative, attributes, 18).run_engine()
    assert NodeCase("Resize", shrinking, attributes, 18).run_engine()[0].shape == (2, 2, 5, 1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode):
    x = floats(2, 8, 3, 4)
    check_node("DepthToSpace", x, blocksize=2, mode=mode, atol=0)
    check_node("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2, atol=0)
    for op in ("DepthToSpace", "SpaceToDepth"):
        with pytest.raises(InvalidModel, match=op):
            NodeCase(op, [floats(1, 3, 3, 3)], {"blocksize": 2}).graph()


def test_rows_are_images():
    cases = [
        NodeCase("Resize", [floats(3, 2, 4, 4), None, scales(1, 1, 2, 2)], fixed=(2,)),
        NodeCase("DepthToSpace", [floats(3, 4, 2, 2)], {"blocksize": 2}),
        NodeCase("SpaceToDepth", [floats(3, 4, 2, 2)], {"blocksize": 2}),
    ]
    for case in cases:
        (state,) = check_rows(case, (0,))
        assert state.is_rows
    (state,) = row_states(
        NodeCase("Resize", [floats(3, 2, 4, 4), None, scales(2, 1, 1, 1)], fixed=(2,)), (0,)
    )
    assert not state.is_rows


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode, padding, align_corners):
    grid = floats(2, 4, 3, 2, seed=1)
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    check_node("GridSample", X, grid, opset=20, atol=1e-4, **attributes)
    if mode != "cubic":
        volume, places = floats(2, 2, 3, 4, 5), floats(2, 2, 3, 2, 3, seed=1)
        check_node("GridSample", volume, places, opset=20, atol=1e-4, **attributes)


def test_grid_sample_of_old_and_of_nothing():
    grid = floats(2, 4, 3, 2, seed=1)
    check_node("GridSample", X, grid, opset=16, mode="bicubic", atol=1e-4)
    check_node("GridSample", X, grid, opset=16, mode="bilinear", atol=1e-4)
    empty = NodeCase("GridSample", [floats(2, 0, 5, 6), grid], opset=16)
    assert empty.run_engine()[0].shape == (2, 0, 4, 3)
    far = NodeCase("GridSample", [X, np.full_like(grid, np.nan)], opset=16).run_engine()[0]
    assert far.shape == (2, 2, 4, 3)


def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(InvalidModel, match="grid"):
        NodeCase("GridSample", [X, floats(2, 4, 3, 3)], opset=16).graph()
    with pytest.raises(RunFailed, match="grid"):
        NodeCase("GridSample", [X, floats(3, 4, 3, 2)], opset=16).run_engine()


def test_grid_sample_rows():
    case = NodeCase("GridSample", [floats(3, 2, 4, 4), floats(3, 2, 2, 2)], opset=16)
    (state,) = check_rows(case, (0, 1))
    assert state.is_rows
    (state,) = row_states(case, (0,))
    assert not state.is_rows


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Resize", [X, None, scales(1, 1, 2, 2)], {"mode": "area"}),
        ("Resize", [X, None, scales(1, 1, 2, 2)], {"nearest_mode": "up"}),
        ("Resize", [X, None, scales(1, 1, 2, 2)], {"coordinate_transformation_mode": "corners"}),
        ("Resize", [X, None, None, int64(2, 2, 9, 9)], {"keep_aspect_ratio_policy": "crop"}),
        ("Upsample", [X, scales(1, 1, 2, 2)], {"mode": "cubist"}),
        ("GridSample", [X, floats(2, 3, 3, 2)], {"mode": "area"}),
        ("GridSample", [X, floats(2, 3, 3, 2)], {"padding_mode": "wrap"}),
        ("DepthToSpace", [floats(1, 4, 2, 2)], {"blocksize": 2, "mode": "RGB"}),
    ],
)
def test_words_that_mean_nothing_are_refused(op, inputs, attributes):
    with pytest.raises(InvalidModel, match="must be one of"):
        NodeCase(op, inputs, attributes, 9 if op == "Upsample" else 18).graph()
