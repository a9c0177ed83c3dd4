from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops.cores import convolution
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats

CONVS = [
    ((2, 4, 9, 8), (6, 4, 3, 3), {}),
    ((2, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 0, 2, 1]}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ((3, 4, 9, 8), (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 4, 9, 8), (4, 1, 3, 3), {"group": 4, "dilations": [2, 2]}),
    ((1, 4, 9, 8), (4, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ((3, 4, 30), (3, 4, 5), {"dilations": [3]}),
    ((2, 4, 30), (4, 2, 5), {"group": 2, "strides": [3], "pads": [2, 1]}),
    ((2, 4, 5, 6, 7), (4, 2, 2, 3, 2), {"group": 2, "dilations": [1, 2, 1]}),
    ((1, 2, 5, 6, 7), (3, 2, 3, 3, 3), {"pads": [1] * 6, "strides": [2, 2, 2]}),
    ((2, 4, 9, 8), (5, 4, 1, 1), {}),
    ((2, 4, 9, 8), (6, 2, 1, 1), {"group": 2, "strides": [2, 3]}),
    ((2, 4, 9, 8), (5, 4, 1, 1), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 9, 8), (5, 4, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ((2, 4, 9, 8), (5, 4, 3, 4), {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 4]}),
    ((2, 4, 9, 8), (5, 4, 3, 4), {"auto_pad": "VALID"}),
    ((0, 4, 9, 8), (5, 4, 3, 3), {}),
    ((1, 3, 40, 40), (4, 3, 7, 7), {"strides": [2, 2], "pads": [3] * 4}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONVS)
def test_conv(x, w, attributes):
    check_node("Conv", floats(*x), floats(*w, seed=1), floats(w[0], seed=2), **attributes)


def test_conv_without_bias_and_in_half_precision():
    x, w = floats(2, 3, 8, 8), floats(4, 3, 3, 3, seed=1)
    check_node("Conv", x, w, pads=[1, 1, 1, 1])
    half = [v.astype(np.float16) for v in (x, w)]
    check_node("Conv", *half, rtol=1e-2, atol=1e-2)
    check_node("Conv", *half, rtol=1e-2, atol=1e-2, fixed=(1,))  # widened once
    check_node("Conv", *half, half[0][0, 0, 0, :4], rtol=1e-2, atol=1e-2, fixed=(1, 2))


def test_conv_over_a_large_image_is_unfolded_in_parts(monkeypatch):
    monkeypatch.setattr(convolution, "UNFOLD_BLOCK", 200)
    check_node("Conv", floats(2, 3, 12, 9), floats(4, 3, 3, 3, seed=1), strides=[2, 1])
    check_node("Conv", floats(2, 3, 12, 9), floats(4, 3, 3, 3, seed=1))


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((2, 4, 9, 8), (6, 3, 3, 3), {}),
        ((2, 4, 9, 8), (5, 2, 3, 3), {"group": 2}),
        ((2, 4, 9, 8), (5, 4, 3, 3), {"group": 0}),
        ((2, 4, 9, 8), (5, 4, 3), {}),
        ((2, 4), (5, 4), {}),
        ((2, 4, 9, 8), (5, 4, 3, 3), {"strides": [0, 1]}),
        ((2, 4, 9, 8), (5, 4, 3, 3), {"strides": [1]}),
        ((2, 4, 9, 8), (5, 4, 3, 3), {"pads": [1, 1, 1]}),
        ((2, 4, 1, 1), (5, 4, 3, 3), {}),
    ],
)
def test_convs_that_do_not_fit_are_refused(x, w, attributes):
    with pytest.raises(InvalidModel, match="Conv"):
        NodeCase("Conv", [floats(*x), floats(*w)], attributes).graph()


def test_shapes_that_only_running_tells_are_checked_then():
    graph = NodeCase("Conv", [floats(1, 4, 9, 8), floats(5, 4, 3, 3)]).graph("symbolic")
    with pytest.raises(EngineError, match="Conv"):
        GraphPlan(graph).run({"x0": floats(1, 3, 9, 8), "x1": floats(5, 4, 3, 3)})
    graph = NodeCase(
        "Conv", [floats(1, 4, 9, 8), floats(5, 4, 3, 3)], {"kernel_shape": [3, 3]}
    ).graph("symbolic")
    with pytest.raises(EngineError, match="kernel_shape"):
        GraphPlan(graph).run({"x0": floats(1, 4, 9, 8), "x1": floats(5, 4, 2, 2)})


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "ConvTranspose"])
def test_absurd_padding_is_refused_before_it_is_allocated(op):
    attributes = {"pads": [1 << 20, 1 << 20, 0, 0], "strides": [1 << 21, 1]}
    inputs = [floats(1, 1, 3, 3), floats(1, 1, 3, 3)]
    if op == "MaxPool":
        inputs, attributes = inputs[:1], {**attributes, "kernel_shape": [3, 3]}
    if op == "ConvTranspose":
        attributes = {"strides": [1 << 20, 1]}
    plan = GraphPlan(NodeCase(op, inputs, attributes).graph(), limits=Limits(run_bytes=1 << 20))
    with pytest.raises(ResourceLimit):
        plan.run({f"x{i}": x for i, x in enumerate(inputs)})


@pytest.mark.parametrize("attributes", [{}, {"group": 2, "strides": [2, 2]}, {"pads": [1] * 4}])
def test_conv_rows_are_images(attributes):
    group = attributes.get("group", 1)
    case = NodeCase("Conv", [floats(3, 4, 9, 8), floats(4, 4 // group, 3, 3)], attributes)
    (state,) = check_rows(case, (0,))
    assert (state.axis, state.block) == (0, 1)
    case = NodeCase("ConvTranspose", [floats(3, 4, 5, 5), floats(4, 2, 3, 3)])
    (state,) = check_rows(case, (0,))
    assert state.is_rows


def test_filters_that_come_from_the_items_mix_them():
    case = NodeCase("Conv", [floats(1, 4, 9, 8), floats(3, 4, 3, 3)])
    (state,) = check_rows(case, (1,))
    assert not state.is_rows


TRANSPOSED = [
    ((2, 4, 5, 6), (4, 3, 3, 3), {}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_padding": [1, 1]}),
    ((2, 4, 5, 6), (4, 3, 2, 2), {"strides": [3, 3], "group": 2}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"dilations": [2, 2], "group": 4}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [3, 2], "output_shape": [15, 13]}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 4, 7), (4, 3, 3), {"strides": [2]}),
    ((1, 2, 3, 4, 3), (2, 3, 2, 3, 2), {"strides": [2, 1, 2]}),
    ((0, 4, 5, 6), (4, 3, 3, 3), {}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), TRANSPOSED)
def test_conv_transpose(x, w, attributes):
    bias = floats(w[1] * attributes.get("group", 1), seed=2)
    check_node("ConvTranspose", floats(*x), floats(*w, seed=1), bias, **attributes)


@pytest.mark.parametrize(("x", "w"), [((2, 4, 5, 6), (3, 3, 3, 3)), ((2, 4, 5), (4, 3, 3, 3))])
def test_transposed_convs_that_do_not_fit_are_refused(x, w):
    with pytest.raises(InvalidModel, match="ConvTranspose"):
        NodeCase("ConvTranspose", [floats(*x), floats(*w)]).graph()
    graph = NodeCase("ConvTranspose", [floats(2, 4, 5, 6), floats(4, 3, 3, 3)]).graph("symbolic")
    with pytest.raises(EngineError, match="Conv"):
        GraphPlan(graph).run({"x0": floats(2, 3, 5, 6), "x1": floats(4, 3, 3, 3)})


sizes = st.integers(1, 3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_conv_of_any_geometry(data):
    rank = data.draw(st.integers(1, 3))
    several = st.lists(sizes, min_size=rank, max_size=rank)
    kernel, strides, dilations = (data.draw(several) for _ in range(3))
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    spatial = data.draw(st.lists(st.integers(1, 7), min_size=rank, max_size=rank))
    group = data.draw(sizes)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(s + pads[i] + pads[i + rank] >= extent[i] for i, s in enumerate(spatial)))
    channels, filters = data.draw(sizes), data.draw(sizes)
    check_node(
        "Conv",
        floats(data.draw(st.integers(0, 3)), channels * group, *spatial),
        floats(filters * group, channels, *kernel, seed=1),
        group=group,
        strides=strides,
        dilations=dilations,
        pads=pads,
        dims=("symbolic",),
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"group": 0},
        {"strides": [0, 1]},
        {"dilations": [1]},
        {"output_shape": [3]},
        {"auto_pad": "SAME"},
        {"kernel_shape": [3, 3, 3]},
    ],
)
def test_attributes_of_transposed_convs_are_checked(attributes):
    with pytest.raises(InvalidModel):
        NodeCase("ConvTranspose", [floats(1, 2, 4, 4), floats(2, 2, 3, 3)], attributes).graph()


def test_filters_without_an_element_are_refused():
    given = [floats(1, 2, 4, 4), floats(2, 2, 3, 0)]
    with pytest.raises(InvalidModel):
        NodeCase("ConvTranspose", given).graph()
    with pytest.raises(EngineError, match="kernel"):
        NodeCase("ConvTranspose", given).run_engine("symbolic")


def test_images_smaller_than_the_filters_are_told_before_anything_runs():
    case = NodeCase("Conv", [floats(1, 2, 4, 4), floats(3, 2, 3, 3)], fixed=(1,))
    plan = GraphPlan(case.graph("symbolic"))
    assert plan.run(case.feeds())["y0"].shape == (1, 3, 2, 2)
    for height, width in ((1, 4), (1, 1)):  # two negative dims make a positive product
        feeds = {**case.feeds(), "x0": floats(1, 2, height, width)}
        with pytest.raises(RunFailed, match=r"\[1, 3, -1, (2|-1)\]: these inputs are too small"):
            plan.run(feeds)
