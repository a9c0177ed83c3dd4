from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

Q, K, V = floats(2, 4, 3, 8), floats(2, 2, 5, 8, seed=1), floats(2, 2, 5, 6, seed=2)


def expected(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0
) -> np.ndarray:
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def attention(
    *inputs: np.ndarray | None, outputs: int = 1, **attributes: object
) -> list[np.ndarray]:
    return NodeCase("Attention", inputs, attributes, 23, outputs=outputs).run_engine("symbolic")


def test_heads_share_keys_in_groups():
    np.testing.assert_allclose(attention(Q, K, V)[0], expected(Q, K, V), rtol=1e-4, atol=1e-5)


def test_heads_side_by_side():
    q, k, v = (x.transpose(0, 2, 1, 3).reshape(2, x.shape[2], -1) for x in (Q, K, V))
    (ours,) = attention(q, k, v, q_num_heads=4, kv_num_heads=2)
    side_by_side = expected(Q, K, V).transpose(0, 2, 1, 3).reshape(2, 3, -1)
    np.testing.assert_allclose(ours, side_by_side, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidModel, match="heads"):
        NodeCase("Attention", [q, k, v], {}, 23).graph()


@pytest.mark.parametrize("kind", ["float", "bool", "short"])
def test_masks(kind):
    allowed = np.ones((3, 5), bool)
    allowed[1, 2:] = False
    allowed[:, 4] = False
    bias = np.where(allowed, 0, -np.inf).astype(np.float32)
    mask = {"float": bias, "bool": allowed, "short": allowed[:, :4]}[kind]
    np.testing.assert_allclose(
        attention(Q, K, V, mask)[0], expected(Q, K, V, bias), rtol=1e-4, atol=1e-5
    )


def test_a_query_that_may_look_nowhere_gives_zeros():
    mask = np.zeros((3, 5), bool)
    assert not attention(Q, K, V, mask)[0].any()


def test_a_cache_grows_and_a_causal_mask_counts_from_its_end():
    past_k, past_v = floats(2, 2, 4, 8, seed=3), floats(2, 2, 4, 6, seed=4)
    y, keys, values = attention(Q, K, V, None, past_k, past_v, outputs=3, is_causal=1)
    np.testing.assert_array_equal(keys, np.concatenate((past_k, K), 2))
    np.testing.assert_array_equal(values, np.concatenate((past_v, V), 2))
    bias = np.where(np.arange(9)[None] > np.arange(3)[:, None] + 4, -np.inf, 0)
    np.testing.assert_allclose(y, expected(Q, keys, values, bias), rtol=1e-4, atol=1e-5)


def test_half_a_cache_is_refused():
    for past in ([floats(2, 2, 4, 8)], [None, floats(2, 2, 4, 6)]):
        with pytest.raises(InvalidModel, match="together"):
            NodeCase("Attention", [Q, K, V, None, *past], {}, 23).graph()


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InvalidModel, match="mask"):
        NodeCase("Attention", [Q, K, V, floats(1, 1, 1, 3, 5)], {}, 23).graph()
    with pytest.raises(RunFailed, match="mask"):
        NodeCase("Attention", [Q[:1], K[:1], V[:1], floats(2, 1, 3, 5)], {}, 23).run_engine()


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores_at_every_stage(mode):
    *_, scores = attention(Q, K, V, outputs=4, qk_matmul_output_mode=mode, softcap=2.0)
    raw = Q @ np.repeat(K, 2, 1).swapaxes(-1, -2) / np.sqrt(8)
    capped = 2 * np.tanh(raw / 2)
    if mode == 3:
        np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(scores, raw if mode == 0 else capped, rtol=1e-4, atol=1e-5)


def test_half_precision_and_scale():
    half = [x.astype(np.float16) for x in (Q, K, V)]
    (ours,) = attention(*half)
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, expected(Q, K, V), rtol=2e-2, atol=2e-2)
    (ours,) = attention(Q, K, V, scale=-0.5)
    np.testing.assert_allclose(ours, expected(Q * np.float32(-0.5 * np.sqrt(8)), K, V), rtol=1e-4)


def test_same_as_elsewhere():
    check_node("Attention", Q, K, V, opset=23, rtol=1e-4, is_causal=1)


def test_scores_that_do_not_fit_are_refused():
    graph = NodeCase("Attention", [Q, K, V], {}, 23).graph("symbolic")
    plan = GraphPlan(graph, limits=Limits(run_bytes=64 * 1024))
    long = [floats(1, 2, 600, 2), floats(1, 2, 600, 2), floats(1, 2, 600, 2)]
    with pytest.raises(ResourceLimit):
        plan.run({f"x{i}": x for i, x in enumerate(long)})


@pytest.mark.parametrize(
    ("mask", "items", "rows"),
    [
        (None, (0, 1, 2), True),
        (floats(3, 5), (0, 1, 2), True),
        (floats(3, 1, 3, 5), (0, 1, 2, 3), True),
        (floats(3, 1, 3, 5), (0, 1, 2), False),
        (None, (0,), False),
    ],
)
def test_rows(mask, items, rows):
    inputs = [floats(3, 4, 3, 8), floats(3, 2, 5, 8, seed=1), floats(3, 2, 5, 6, seed=2), mask]
    case = NodeCase("Attention", inputs if mask is not None else inputs[:3], {}, 23)
    (state,) = check_rows(case, items) if rows else row_states(case, items)
    assert state.is_rows == rows
