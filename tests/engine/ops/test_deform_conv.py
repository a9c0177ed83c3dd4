from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states


def inputs(
    image: tuple[int, ...] = (2, 4, 6, 5),
    filters: tuple[int, ...] = (6, 4, 3, 2),
    places: tuple[int, ...] = (4, 4),
    groups: int = 1,
    seed: int = 0,
) -> list[np.ndarray]:
    """Image, filter, offsets of a few pixels, bias and mask."""
    taps, rank = int(np.prod(filters[2:])), len(places)
    return [
        floats(*image, seed=seed),
        floats(*filters, seed=seed + 1),
        floats(image[0], groups * taps * rank, *places, seed=seed + 2, scale=2.0),
        floats(filters[0], seed=seed + 3),
        floats(image[0], groups * taps, *places, seed=seed + 4),
    ]


@pytest.mark.parametrize(
    ("given", "attributes"),
    [
        (inputs(), {}),
        (inputs()[:3], {}),
        (inputs()[:4], {"kernel_shape": [3, 2]}),
        (inputs(places=(6, 6)), {"pads": [1, 1, 1, 1]}),
        (inputs(places=(3, 2), seed=7), {"pads": [1, 0, 1, 0], "strides": [2, 2]}),
        (inputs(places=(2, 3)), {"dilations": [2, 2]}),
        (inputs(filters=(6, 2, 3, 2)), {"group": 2}),
        (inputs(groups=2), {"offset_group": 2}),
        (inputs(filters=(4, 1, 3, 2), groups=2), {"group": 4, "offset_group": 2}),
    ],
)
@pytest.mark.parametrize("opset", [19, 22])
def test_same_as_elsewhere(given, attributes, opset):
    check_node("DeformConv", *given, opset=opset, rtol=1e-4, atol=1e-4, **attributes)


@pytest.mark.parametrize(
    ("image", "kernel", "places", "attributes"),
    [
        ((2, 4, 9), (3,), (9,), {"pads": [1, 1]}),
        ((1, 2, 4, 5, 6), (2, 2, 3), (3, 4, 4), {"group": 2}),
        ((1, 2, 5, 5, 5), (2, 2, 2), (2, 2, 2), {"strides": [2, 2, 2]}),
    ],
)
def test_whole_offsets_of_nothing_are_a_convolution(image, kernel, places, attributes):
    attributes = dict(attributes)
    filters = floats(4, image[1] // attributes.get("group", 1), *kernel, seed=1)
    taps = int(np.prod(kernel))
    still = np.zeros((image[0], taps * len(places), *places), np.float32)
    case = NodeCase("DeformConv", [floats(*image), filters, still], attributes, 19)
    plain = NodeCase("Conv", [floats(*image), filters], attributes, 19)
    np.testing.assert_allclose(
        case.run_engine("symbolic")[0], plain.run_engine()[0], rtol=1e-4, atol=1e-5
    )


def test_offsets_beyond_everything_read_zero():
    given = inputs()[:3]
    for far in (np.inf, -np.inf, np.nan, 1e30, -1e30):
        given[2] = np.full_like(given[2], far)
        (y,) = NodeCase("DeformConv", given, {}, 19).run_engine()
        assert not y.any()


def test_half_precision():
    wide = NodeCase("DeformConv", inputs(), {}, 22).run_engine()[0]
    half = [x.astype(np.float16) for x in inputs()]
    (ours,) = NodeCase("DeformConv", half, {}, 22).run_engine()
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, wide, rtol=5e-2, atol=1e-1)


@pytest.mark.parametrize(
    ("change", "attributes"),
    [
        ({0: floats(2, 4, 6)}, {}),
        ({0: floats(2, 5, 6, 5)}, {}),
        ({2: floats(2, 11, 4, 4)}, {}),
        ({2: floats(2, 12, 4, 3)}, {}),
        ({4: floats(2, 7, 4, 4)}, {}),
        ({}, {"offset_group": 2}),
        ({}, {"offset_group": 0}),
        ({}, {"group": 0}),
        ({}, {"strides": [0, 1]}),
        ({}, {"auto_pad": "VALID"}),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[int, Any], attributes):
    given = [change.get(i, x) for i, x in enumerate(inputs())]
    with pytest.raises(InvalidModel):
        NodeCase("DeformConv", given, attributes, 19).graph()
    if change:
        with pytest.raises((RunFailed, InvalidModel)):
            NodeCase("DeformConv", given, attributes, 19).run_engine("symbolic")


def test_rows():
    given = inputs(image=(3, 4, 6, 5))
    case = NodeCase("DeformConv", given, {}, 19)
    assert check_rows(case, (0, 2, 4))[0].is_rows
    assert not row_states(case, (0, 2))[0].is_rows
    assert not row_states(case, (2, 4))[0].is_rows
