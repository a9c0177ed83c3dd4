from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

WINDOWS = [
    ((2, 3, 9, 8), {"kernel_shape": [3, 2]}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}),
    (
        (1, 3, 9, 8),
        {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 0, 0, 2], "ceil_mode": 1},
    ),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 3, 9), {"kernel_shape": [4], "strides": [3]}),
    ((2, 3, 5, 6, 7), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 2]}),
    ((0, 3, 9, 8), {"kernel_shape": [3, 2]}),
    ((3, 1, 7, 7), {"kernel_shape": [7, 7]}),
]


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_windowed_pools(op, shape, attributes):
    check_node(op, floats(*shape), opset=22, **attributes)


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
def test_average_over_padding_too(shape, attributes):
    check_node("AveragePool", floats(*shape), count_include_pad=1, opset=22, **attributes)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
def test_max_pool_tells_where_the_values_were(shape, attributes, storage_order):
    # Other runtimes leave the indices of windows in an empty batch to chance.
    check_node(
        "MaxPool", floats(*shape), outputs=2, storage_order=storage_order, atol=0.5, **attributes
    )


def test_dilated_windows():
    attributes = {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}
    check_node("MaxPool", floats(2, 3, 9, 8), **attributes)
    check_node("AveragePool", floats(2, 3, 9, 8), opset=22, **attributes)
    check_node("MaxPool", floats(2, 3, 9, 8), outputs=2, atol=0.5, **attributes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_integers_pads_with_the_lowest(dtype):
    x = np.random.default_rng(0).integers(-100, 0, (2, 3, 6, 6)).astype(dtype)
    check_node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], atol=0)


def test_half_precision_and_not_a_number():
    x = floats(2, 3, 8, 8, dtype=np.float16)
    for op in ("MaxPool", "AveragePool"):
        check_node(op, x, kernel_shape=[3, 3], rtol=1e-3, atol=1e-3, opset=22)
    x[0, 0, 0, 0] = np.nan
    (ours,) = NodeCase("AveragePool", [x], {"kernel_shape": [2, 2]}).run_engine()
    assert np.isnan(ours[0, 0, 0, 0])
    assert not np.isnan(ours[1]).any()


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 7), (3, 2, 2, 3, 4)])
def test_global_pools(op, shape):
    check_node(op, floats(*shape), opset=17)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools_that_do_not_fit_are_refused(op):
    for shape, kernel in (((2, 3), [2]), ((2, 3, 4), [2, 2]), ((2, 3, 4, 4), [6, 6])):
        with pytest.raises(InvalidModel, match=op):
            NodeCase(op, [floats(*shape)], {"kernel_shape": kernel}, opset=22).graph()
    with pytest.raises(InvalidModel, match="kernel_shape"):
        NodeCase(op, [floats(2, 3, 4, 4)], {}, opset=22).graph()
    with pytest.raises(InvalidModel):
        NodeCase("GlobalAveragePool", [floats(2, 3)]).graph()
    graph = NodeCase(op, [floats(2, 3, 4, 4)], {"kernel_shape": [2, 2]}).graph("symbolic")
    with pytest.raises(EngineError, match=op):
        GraphPlan(graph).run({"x0": floats(2, 3, 4)})


@pytest.mark.parametrize(
    "op", ["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"]
)
def test_pool_rows_are_images(op):
    attributes = {} if op.startswith("Global") else {"kernel_shape": [3, 3], "pads": [1] * 4}
    (state,) = check_rows(NodeCase(op, [floats(3, 2, 5, 5)], attributes), (0,))
    assert (state.axis, state.block) == (0, 1)


def test_indices_count_through_the_batch():
    case = NodeCase("MaxPool", [floats(3, 2, 5, 5)], {"kernel_shape": [2, 2]}, outputs=2)
    values, indices = row_states(case, (0,))
    assert values.is_rows
    assert not indices.is_rows


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1, 5), (0, 1, 5)])
def test_windows_that_nothing_holds_are_refused(op, ceil_mode, shape):
    """An empty batch does not let a window through that would take all memory."""
    attributes = {"kernel_shape": [1 << 31], "strides": [1 << 31], "ceil_mode": ceil_mode}
    case = NodeCase(op, [floats(*shape)], attributes, 22)
    plan = GraphPlan(case.graph("symbolic"), limits=Limits(run_bytes=1 << 24))
    with pytest.raises((RunFailed, ResourceLimit)):
        plan.run(case.feeds())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pools_of_any_geometry(data):
    rank = data.draw(st.integers(1, 3))
    several = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides = data.draw(several), data.draw(several)
    pads = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    spatial = data.draw(st.lists(st.integers(1, 7), min_size=rank, max_size=rank))
    assume(all(s + pads[i] + pads[i + rank] >= kernel[i] for i, s in enumerate(spatial)))
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    check_node(op, floats(2, 2, *spatial), dims=("symbolic",), opset=22, **attributes)
