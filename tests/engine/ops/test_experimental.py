from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, int64

IMAGES = floats(3, 2, 6, 5)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("ImageScaler", {"scale": 1.5, "bias": [0.5, -2.0]}),
        ("Crop", {"border": [1, 2, 0, 1]}),
        ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 2]}),
        ("MeanVarianceNormalization", {}),
        ("MeanVarianceNormalization", {"across_channels": 1}),
        ("MeanVarianceNormalization", {"normalize_variance": 0}),
    ],
)
@pytest.mark.parametrize("opset", [1, 7, 8])
def test_images(op, attributes, opset):
    check_node(op, IMAGES, opset=opset, **attributes)


@pytest.mark.parametrize("fixed", [(), (1, 2, 3)])
def test_dynamic_slice(fixed):
    check_node("DynamicSlice", IMAGES, int64(1, -3), int64(2, 9), opset=7, fixed=fixed)
    given = [IMAGES, int64(1, -3), int64(2, 9), int64(1, 3)]
    check_node("DynamicSlice", *given, opset=9, fixed=fixed)


def test_the_elementwise_ones():
    x = floats(3, 4, scale=30)
    for op in ("Affine", "ParametricSoftplus", "ScaledTanh"):
        check_node(op, x, opset=6, alpha=0.5, beta=1.5, rtol=1e-4)
    check_node("Scale", x, opset=6, scale=2.5)
    check_node("ThresholdedRelu", x, opset=9, alpha=0.5)


def test_rows_errors_and_their_end():
    crop = NodeCase("Crop", [IMAGES], {"border": [1, 2, 0, 1]}, 7)
    scaled = NodeCase("ImageScaler", [IMAGES], {"scale": 1.5, "bias": [0.5, -2.0]}, 7)
    assert all(check_rows(case, (0,))[0].is_rows for case in (crop, scaled))
    for op, x, attributes in (
        ("Crop", IMAGES, {"border": [1, 2, 3]}),
        ("Crop", IMAGES, {"border": [3, 0, 3, 0]}),
        ("Crop", IMAGES[0], {"border": [1, 1, 1, 1]}),
        ("ImageScaler", IMAGES, {"bias": [1.0]}),
        ("ImageScaler", IMAGES[0], {}),
        ("MeanVarianceNormalization", IMAGES[0], {}),
    ):
        with pytest.raises(InvalidModel):
            NodeCase(op, [x], attributes, 7).graph()
    large = {"border": [0, 0, 0, 0], "scale": [9, 9]}
    with pytest.raises(RunFailed, match="not in"):
        NodeCase("Crop", [IMAGES], large, 7).run_engine("symbolic")
    with pytest.raises(UnsupportedOp, match="removed"):
        NodeCase("Affine", [np.zeros(3, np.float32)], {}, 10).graph()
