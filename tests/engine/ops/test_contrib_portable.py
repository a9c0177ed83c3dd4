"""Operators of com.microsoft, and quantized ones, on arrays that refuse what CuPy's refuse."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cuda.plan import CudaPlan
from engine.errors import RunFailed
from engine.limits import Limits
from engine.ops import REGISTRY
from tests.engine.cuda.strict_namespace import STRICT
from tests.engine.ops.single_node import NodeCase, assert_close
from tests.engine.ops.test_contrib_attention import (
    COS,
    GROUPS,
    ONE,
    PAD,
    SIN,
    STEP,
    TRIANGLE,
    B,
    H,
    N,
    Q,
    W,
    X,
    case,
    floats,
    group_inputs,
    int32,
)
from tests.engine.ops.test_contrib_flops import CASES
from tests.engine.ops.test_contrib_hostile import seeds

POSITIONS = np.array([[0, 1, 2, 3], [5, 4, 9, 2], [1, 1, 0, 7]])
CACHES = [floats(B, N, 9, H, seed=s) for s in (4, 5)]
MORE = [
    *(case("Attention", X, W, None, m, num_heads=N, unidirectional=1) for m in (PAD, TRIANGLE)),
    case("Attention", X, W, None, int32(4, 4, 3, 0, 2, 1), num_heads=N, outputs=2),
    case("GroupQueryAttention", *group_inputs(3, 6, 6), **GROUPS, local_window_size=2, outputs=3),
    case("RotaryEmbedding", Q, POSITIONS, COS, SIN, interleaved=1),
    case(
        *("DecoderMaskedMultiHeadAttention", *STEP, None, None, *CACHES, int32(5)),
        num_heads=N,
        past_present_share_buffer=1,
        outputs=3,
    ),
    case("MultiHeadAttention", ONE, *CACHES, num_heads=N),
]


def name_of(node: NodeCase) -> str:
    return node.op


@pytest.mark.parametrize("node", [*seeds(), *(row[0] for row in CASES), *MORE], ids=name_of)
def test_on_device_arrays(node: NodeCase) -> None:
    try:
        expected = node.run_engine("symbolic")
    except RunFailed:
        pytest.skip("only the row rule is asked of this one")
    graph = node.graph("symbolic")
    plan = CudaPlan(graph, xp=STRICT, registry=REGISTRY, limits=Limits())
    results = plan.run(node.feeds(), graph.output_names)
    for ours, wanted in zip(results.values(), expected, strict=True):
        assert_close(ours, wanted, 1e-6, 1e-6)
