"""Tensors without an element whose dims are huge: nothing may walk or lay out those dims."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError, InvalidModel
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, floats, int64

HUGE = 1 << 40


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("RNN", [empty(HUGE, 0, 3), floats(1, 4, 3), floats(1, 4, 4)], {}, 22),
    ("LSTM", [empty(HUGE, 0, 3), floats(1, 16, 3), floats(1, 16, 4)], {}, 22),
    ("NonMaxSuppression", [empty(1, 0, 4), empty(1, HUGE, 0), int64(3)], {}, 11),
    (
        "MaxRoiPool",
        [empty(1, 0, 2, 2), np.zeros((1, 5), np.float32)],
        {"pooled_shape": [HUGE, 1]},
        22,
    ),
    ("RoiAlign", [empty(1, 0, 2, 2), empty(0, 4), np.zeros((0, HUGE), np.int64)], {}, 22),
    ("LRN", [empty(1, HUGE, 0, 1)], {"size": HUGE}, 13),
    ("DeformConv", [empty(HUGE, 0, 3, 3), empty(0, 0, 1, 1), empty(HUGE, 2, 3, 0)], {}, 22),
    ("Conv", [empty(1, 0, HUGE), empty(0, 0, HUGE)], {}, 22),
    ("ConvTranspose", [empty(1, 0, 2), empty(0, 0, HUGE)], {}, 22),
    ("Col2Im", [empty(1, HUGE, 0), int64(3, 3), int64(4, HUGE)], {}, 18),
    ("Col2Im", [empty(1, 0, 9), int64(3, 3), int64(1, 1)], {}, 18),
    ("AffineGrid", [empty(0, 2, 3), int64(0, 1, HUGE, 0)], {}, 20),
    ("AffineGrid", [empty(0, 2, 3), int64(0, 1, 1 << 20, 1 << 20)], {}, 20),
    (
        "Attention",
        [empty(0, 1, 1 << 20, 1), empty(0, 1, 1 << 20, 1), empty(0, 1, 1 << 20, 1)],
        {},
        23,
    ),
    ("AveragePool", [empty(0, 1, HUGE)], {"kernel_shape": [1]}, 22),
    ("Attention", [empty(1, 2, 4, 8), empty(1, 2, 0, 8), empty(1, HUGE, 0, 0)], {}, 23),
    ("Attention", [empty(0, HUGE, 1, 1), empty(0, 1, 1, 1), empty(0, 1, 1, 1)], {}, 23),
    ("MatMul", [empty(HUGE, 0, 2), empty(2, 2)], {}, 13),
    ("MatMul", [empty(HUGE, 2, 0), empty(0, 0)], {}, 13),
    ("Det", [empty(HUGE, 0, 0)], {}, 22),
    ("LinearAttention", [empty(0, HUGE, 2)] * 3, {"update_rule": "linear"}, 27),
    ("CausalConvWithState", [empty(1, 0, 4), empty(0, 1, HUGE)], {}, 27),
    ("Unique", [empty(HUGE, 0)], {}, 11),
    ("Gather", [floats(3), np.zeros((HUGE, 0), np.int64)], {}, 13),
    ("Reshape", [empty(HUGE, 0), int64(0, 0)], {}, 13),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("dims", ["static", "symbolic"])
def test_nothing_hangs(case, dims):
    op, inputs, attributes, opset = case
    if op == "LinearAttention":
        attributes = {**attributes, "q_num_heads": 1, "kv_num_heads": 1}
    outputs = 2 if op in ("LinearAttention", "CausalConvWithState") else 1
    if op == "Attention":
        attributes = {"is_causal": 1}
    node = NodeCase(op, inputs, attributes, opset, outputs=outputs)
    try:
        results = GraphPlan(node.graph(dims), limits=Limits(run_bytes=1 << 24)).run(node.feeds())
    except EngineError:
        return
    assert all(result.nbytes < 1 << 24 for result in results.values())


def test_nothing_hangs_while_loading():
    given = [empty(HUGE, 0, 2), empty(2, 2)]
    with pytest.raises(InvalidModel, match="absurdly"):
        NodeCase("MatMul", given, {}, 13, fixed=(0, 1)).graph()
