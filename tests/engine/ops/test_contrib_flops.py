"""What nodes of com.microsoft count as: two operations per multiply-add."""

from __future__ import annotations

import numpy as np
import pytest

from engine.inference import Scope, infer_context
from engine.ir.types import evaluate
from engine.ops import REGISTRY
from tests.engine.ops.single_node import AXES, NodeCase, floats
from tests.engine.ops.test_contrib import OUT, quantized
from tests.engine.ops.test_contrib_attention import BIAS, COS, GROUPS, SIN, K, Q, V, W, X, case
from tests.engine.ops.test_contrib_attention import group_inputs as group
from tests.engine.ops.test_contrib_weights import NBITS, blocks
from tests.engine.ops.test_quantization import integers, scalar

PROJECTION = 2 * 3 * 4 * 12 * 48  # (3, 4, 12) @ (12, 48)
IMAGE, LAST, FILTER = floats(3, 2, 4, 4), floats(3, 4, 4, 2), floats(5, 2, 3, 3)
CONV = 2 * (3 * 5 * 2 * 2) * (2 * 9)
LSTM = 2 * 4 * 3 * (6 * 32 + 8 * 32)

CASES = [
    (case("FusedMatMul", floats(4, 3), floats(4, 5), transA=1), 2 * 3 * 4 * 5),
    (case("FusedGemm", floats(3, 4), floats(4, 5)), 2 * 3 * 4 * 5),
    (case("GemmFastGelu", floats(3, 4), floats(4, 5)), 2 * 3 * 4 * 5),
    (case("QGemm", *quantized(3, 4), *quantized(4, 5)), 2 * 3 * 4 * 5),
    (case("MatMulInteger16", *(integers(*s, dtype=np.int16) for s in ((3, 4), (4, 5)))), 120),
    (case("MatMulNBits", floats(3, 64), *blocks(24, 64, 32, 4), **NBITS), 2 * 3 * 64 * 24),
    (case("FusedConv", IMAGE, FILTER), CONV),
    (case("NhwcConv", LAST, FILTER), CONV),
    (case("QLinearAveragePool", *quantized(3, 2, 4, 4), *OUT, kernel_shape=[2, 2]), 54 * 4),
    (case("NhwcMaxPool", integers(3, 4, 4, 2), kernel_shape=[2, 2]), 54 * 4),
    (case("Attention", X, W, BIAS, num_heads=2), PROJECTION + 2 * 3 * 2 * 4 * 4 * 16),
    (case("MultiHeadAttention", Q, K, V, num_heads=2), 2 * 3 * 2 * 4 * 6 * (8 + 6)),
    (case("GroupQueryAttention", *group(5, 0, 0), **GROUPS), 2 * 2 * 4 * 5 * 5 * 32),
    (case("RotaryEmbedding", Q, np.array([0]), COS, SIN), 3 * Q.size),
    (case("Inverse", floats(3, 4, 4)), 2 * 3 * 64),
    (case("CDist", floats(3, 4), floats(5, 4)), 2 * 3 * 4 * 5),
    (
        case(
            *("DynamicQuantizeLSTM", floats(4, 3, 6)),
            *(integers(1, k, 32, dtype=np.int8) for k in (6, 8)),
            *(None,) * 5,
            *(scalar(0.1).reshape(1), scalar(0, np.int8).reshape(1)) * 2,
            hidden_size=8,
        ),
        LSTM,
    ),
]


def flops(node: NodeCase, dims: str) -> int:
    graph = node.graph(dims)
    (only,) = graph.nodes
    op = REGISTRY.find(only)
    assert op.flops is not None
    scope = Scope(types=dict(graph.types))
    for name, x in node.feeds().items():
        if x.ndim == 0:  # a length
            scope.add_constant(name, x)
    counted = op.flops(infer_context(op, only, scope))
    sizes = {
        f"d{i}{AXES[k]}": size
        for i, x in enumerate(node.inputs)
        if x is not None
        for k, size in enumerate(x.shape)
    }
    return evaluate(counted, sizes)


@pytest.mark.parametrize(("node", "expected"), CASES)
def test_flops(node, expected):
    assert flops(node, "static") == expected
    if node.op not in ("FusedConv", "NhwcConv"):  # the size of the filter is not known
        assert flops(node, "symbolic") == expected
