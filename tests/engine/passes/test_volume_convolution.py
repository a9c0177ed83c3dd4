"""Convolutions of volumes as convolutions of pictures: the same numbers, and native ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from tests.engine.onnx_models import load, model, node, normal, ort_run

CASES = {
    "same size": ((3, 8, (3, 3, 3), 1), (7, 9, 11), {"pads": (1,) * 6}),
    "strided groups": ((4, 8, (2, 3, 1), 2), (6, 5, 8), {"strides": (2, 1, 2)}),
    "depthwise": ((6, 6, (3, 3, 3), 6), (5, 6, 7), {"pads": (1,) * 6, "dilations": (2, 1, 1)}),
    "depthwise, two each": ((3, 6, (2, 2, 2), 3), (4, 5, 3), {}),
    "pointwise": ((5, 7, (1, 1, 1), 1), (3, 4, 5), {}),
    "planes apart": ((5, 7, (1, 3, 3), 1), (3, 4, 5), {"auto_pad": "SAME_UPPER"}),
    "patches": ((4, 4, (4, 2, 2), 1), (4, 4, 4), {"strides": (4, 2, 2)}),
    "unequal padding": ((2, 3, (3, 2, 2), 1), (4, 3, 3), {"pads": (2, 0, 1, 0, 1, 0)}),
    "one plane": ((2, 3, (1, 2, 2), 1), (1, 3, 3), {"strides": (3, 1, 1)}),
}


def volume(sizes, spatial, *, bias=True, batch="N", **attributes):
    channels, filters, kernel, groups = sizes
    fixed = {"w": normal(filters, channels // groups, *kernel), "b": normal(filters)}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        node("Conv", inputs, ["h"], group=groups, **attributes),
        node("Relu", ["h"], ["y"]),
    ]
    return model(nodes, [("x", [batch, channels, *spatial])], [("y", None)], fixed)


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_stay_and_nothing_runs_portably(case):
    sizes, spatial, attributes = CASES[case]
    data = volume(sizes, spatial, **attributes)
    feeds = {"x": normal(2, sizes[0], *spatial)}
    want = ort_run(data, feeds)["y"]
    with engine.load(data, device="cpu") as net:
        np.testing.assert_allclose(net.run(feeds)["y"], want, rtol=1e-4, atol=1e-5)
        assert net.run({"x": feeds["x"][:0]})["y"].shape == (0, *want.shape[1:])
        report = net.profile(feeds)
        assert net.batch is not None and "y" in net.batch.outputs
    assert all(row.kernel != "portable" for row in report.nodes)
    assert sum(row.op == "Conv" for row in report.nodes) >= 1


def chain(*between):
    """Two convolutions with something in between."""
    fixed = {"w": normal(4, 3, 3, 3, 3), "v": normal(5, 4, 3, 3, 3), "scale": normal(4, 1, 1, 1)}
    nodes = [
        node("Conv", ["x", "w"], ["h0"], pads=(1,) * 6),
        *(node(op, [f"h{k}", *rest], [f"h{k + 1}"]) for k, (op, *rest) in enumerate(between)),
        node("Conv", [f"h{len(between)}", "v"], ["y"], pads=(1,) * 6),
    ]
    return model(nodes, [("x", ["N", 3, 4, 5, 6])], [("y", None)], fixed)


@pytest.mark.parametrize("between", [(), (("Relu",),), (("Mul", "scale"), ("Sigmoid",))])
def test_axes_change_places_at_the_ends_only(between):
    data, feeds = chain(*between), {"x": normal(2, 3, 4, 5, 6)}
    with load(data) as net:
        found = net.run(feeds)["y"]
    np.testing.assert_allclose(found, ort_run(data, feeds)["y"], rtol=1e-4, atol=1e-4)
    with engine.load(data, device="cpu") as net:
        report = net.profile(feeds)
        np.testing.assert_allclose(net.run(feeds)["y"], found, rtol=1e-4, atol=1e-4)
    assert sum(row.op == "Transpose" for row in report.nodes) <= 2


LEFT_ALONE = {
    "sizes known at run time": {"spatial": (4, "H", 5)},
    "other numbers": {"spatial": (4, 4, 5), "dtype": np.float64},
    "computed weights": {"spatial": (4, 4, 5), "computed": True},
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_is_not_rewritten_still_runs(what):
    choice = LEFT_ALONE[what]
    dtype = np.dtype(choice.get("dtype", np.float32))
    weights = normal(3, 2, 2, 2, 2).astype(dtype)
    nodes = [node("Conv", ["x", "w"], ["y"])]
    kind = {np.dtype(np.float32): 1, np.dtype(np.float64): 11}[dtype]
    inputs = [("x", [1, 2, *choice["spatial"]], kind)]
    fixed = {"w": weights}
    if choice.get("computed"):
        inputs.append(("w", list(weights.shape), kind))
        fixed = {}
    data = model(nodes, inputs, [("y", None, kind)], fixed)
    feeds = {"x": normal(1, 2, 4, 4, 5).astype(dtype)}
    feeds |= {"w": weights} if choice.get("computed") else {}
    with engine.load(data, device="cpu") as net, load(data) as reference:
        np.testing.assert_allclose(
            net.run(feeds)["y"], reference.run(feeds)["y"], rtol=1e-5, atol=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_convolution_of_volumes(data):
    draw = data.draw
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    filters = groups * draw(st.integers(1, 2))
    axes = st.tuples(*[st.integers(1, 3)] * 3)
    kernel, strides, dilations = draw(axes), draw(axes), draw(axes)
    pads = draw(st.tuples(*[st.integers(0, 2)] * 6))
    spatial = tuple(
        max(1, (k - 1) * d + 1 - b - e) + draw(st.integers(0, 3))
        for k, d, b, e in zip(kernel, dilations, pads[:3], pads[3:], strict=True)
    )
    made = volume(
        (groups * per_group, filters, kernel, groups),
        spatial,
        bias=draw(st.booleans()),
        strides=strides,
        dilations=dilations,
        pads=pads,
    )
    feeds = {"x": normal(2, groups * per_group, *spatial)}
    with load(made, outputs=engine.ALL) as plain, load(made) as net:
        np.testing.assert_allclose(net.run(feeds)["y"], plain.run(feeds)["y"], rtol=1e-4, atol=1e-4)
