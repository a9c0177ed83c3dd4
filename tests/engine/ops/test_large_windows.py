"""Windows of very many elements: the same values, in time that does not explode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops.cores.pool import FEW_TAPS
from tests.counting import counted_calls
from tests.engine.ops.single_node import NodeCase, check_node, floats

POOLS = ("MaxPool", "AveragePool")


def naive(op: str, x: np.ndarray, case: NodeCase, count_padding: bool) -> np.ndarray:
    """One window after the other, in float64."""
    kernel, stride, dilation = (
        case.attributes[k][0] for k in ("kernel_shape", "strides", "dilations")
    )
    begin, end = case.attributes["pads"]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (begin, end)), constant_values=np.nan)
    starts = range(0, padded.shape[2] - (kernel - 1) * dilation, stride)
    windows = [padded[:, :, s : s + (kernel - 1) * dilation + 1 : dilation] for s in starts]
    if op == "MaxPool":
        return np.stack([np.nanmax(w, axis=2) for w in windows], axis=2)
    sums = np.stack([np.nansum(w, axis=2) for w in windows], axis=2)
    counts = np.stack([np.isfinite(w).sum(axis=2) for w in windows], axis=2)
    return sums / (kernel if count_padding else counts)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(FEW_TAPS - 1, 3 * FEW_TAPS),
    more=st.integers(0, 40),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 3),
    begin=st.integers(0, FEW_TAPS - 2),
    end=st.integers(0, FEW_TAPS - 2),
    op=st.sampled_from(POOLS),
    count_padding=st.booleans(),
)
def test_windows_of_many_elements(kernel, more, stride, dilation, begin, end, op, count_padding):  # type: ignore[no-untyped-def]
    x = floats(2, 3, (kernel - 1) * dilation + 1 + more)
    attributes = {
        "kernel_shape": [kernel],
        "strides": [stride],
        "dilations": [dilation],
        "pads": [begin, end],
    }
    if op == "AveragePool":
        attributes["count_include_pad"] = int(count_padding)
    case = NodeCase(op, [x], attributes, 22)
    (ours,) = case.run_engine("symbolic")
    expected = naive(op, x, case, count_padding)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", POOLS)
def test_an_answer_does_not_depend_on_the_batch(op: str) -> None:
    x = floats(7, 2, 400)
    case = NodeCase(op, [x], {"kernel_shape": [150], "strides": [3]}, 22)
    plan = GraphPlan(case.graph("symbolic"))
    together = plan.run({"x0": x})["y0"]
    alone = [plan.run({"x0": x[i : i + 1]})["y0"] for i in range(len(x))]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize("stride", [1, 1 << 40])
def test_a_window_of_millions_takes_no_longer_than_its_input(op: str, stride: int) -> None:
    """Neither element by element, nor with a table of windows by elements."""
    size = 1 << 20
    case = NodeCase(
        op,
        [np.ones((1, 1, size), np.float32)],
        {"kernel_shape": [size], "pads": [size // 2] * 2, "strides": [stride]},
        22,
    )
    plan = GraphPlan(case.graph(), limits=Limits(run_bytes=64 << 20))
    with counted_calls() as counter:
        result = plan.run(case.feeds())["y0"]
    assert counter.calls < 20_000
    np.testing.assert_allclose(result, 1.0, rtol=1e-5)


FILTERS = [
    # operator, input, filter, attributes
    ("Conv", (2, 3, 1300), (6, 1, 1100), {"group": 3}),
    ("Conv", (2, 2, 60, 60), (2, 1, 40, 40), {"group": 2, "strides": [2, 3], "pads": [3, 0, 1, 2]}),
    ("ConvTranspose", (2, 4, 3), (4, 5, 7), {"strides": [2], "dilations": [3]}),
    ("ConvTranspose", (2, 4, 2, 2), (4, 3, 3, 4), {"group": 2, "strides": [3, 1], "pads": [1] * 4}),
    ("ConvTranspose", (1, 2, 1, 1), (2, 3, 4, 4), {"output_padding": [1, 0], "strides": [2, 2]}),
]


@pytest.mark.parametrize(("op", "x", "w", "attributes"), FILTERS)
def test_filters_larger_than_what_they_meet(op, x, w, attributes):  # type: ignore[no-untyped-def]
    check_node(op, floats(*x), floats(*w, seed=1), rtol=1e-4, atol=1e-3, **attributes)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_filter_of_millions_is_not_walked(op: str) -> None:
    size = 1 << 21
    given = (1, 2, size) if op == "Conv" else (1, 2, 1)
    inputs = [np.ones(given, np.float32), np.ones((2, 1, size), np.float32)]
    case = NodeCase(op, inputs, {"group": 2})
    plan = GraphPlan(case.graph())
    with counted_calls() as counter:
        result = plan.run(case.feeds())["y0"]
    assert counter.calls < 20_000
    np.testing.assert_allclose(result, size if op == "Conv" else 1.0)
