"""Attention operators of com.microsoft against ONNX Runtime: masks, caches, groups."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

MICROSOFT = "com.microsoft"
B, S, N, H = 3, 4, 2, 8
D = N * H


def case(op: str, *inputs: np.ndarray | None, outputs: int = 1, **attributes: object) -> NodeCase:
    return NodeCase(op, inputs, attributes, outputs=outputs, domain=MICROSOFT)


def check(op: str, *inputs: np.ndarray | None, **more: object) -> list[np.ndarray]:
    return check_node(op, *inputs, domain=MICROSOFT, rtol=1e-4, atol=2e-5, **more)  # type: ignore[arg-type]


def int32(*rows: object) -> np.ndarray:
    return np.array(rows, np.int32)


PAD = (np.arange(S) < np.array([[4], [2], [3]])).astype(np.int32)
TRIANGLE = np.tril(np.ones((B, S, S), np.int32))
MASKS = {
    "none": None,
    "ends": int32(4, 2, 3),
    "ends and starts": int32(4, 4, 3, 0, 2, 1),
    "keys": PAD,
    "keys per query": TRIANGLE * PAD[:, None],
    "nothing to see": np.zeros((B, S), np.int32),
}

# ---------------------------------------------------------------------- Attention

X, W, BIAS = floats(B, S, 12), floats(12, 3 * D, seed=1, scale=0.4), floats(3 * D, seed=2)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_masks(mask, unidirectional):
    attributes = {"num_heads": N, "unidirectional": unidirectional}
    check("Attention", X, W, BIAS, MASKS[mask], **attributes)
    check("Attention", X, W, BIAS, MASKS[mask], mask_filter_value=-3.0, **attributes)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_a_past(masked, unidirectional):
    past = floats(2, B, N, 3, H, seed=3)
    mask = np.concatenate((np.ones((B, 3), np.int32), PAD), 1) if masked else None
    attributes = {"num_heads": N, "unidirectional": unidirectional, "outputs": 2}
    _, present = check("Attention", X, W, BIAS, mask, past, **attributes)
    assert present.shape == (2, B, N, 7, H)
    np.testing.assert_array_equal(present[:, :, :, :3], past)


@pytest.mark.parametrize("shape", [(B, N, S, S), (1, N, S, S), (B, 1, S, S), (1, 1, S, S)])
def test_attention_with_a_bias_on_the_scores(shape):
    check("Attention", X, W, BIAS, PAD, None, floats(*shape, seed=4), num_heads=N)


def test_attention_scale_sizes_and_no_bias():
    sizes = [D, D, 10]
    weights, bias = floats(12, 2 * D + 10, seed=1), floats(2 * D + 10, seed=2)
    check("Attention", X, weights, bias, num_heads=N, qkv_hidden_sizes=sizes, scale=0.2)
    # Without a bias ONNX Runtime reads from nowhere.
    (ours,) = case("Attention", X, W, num_heads=N).run_engine("symbolic")
    (expected,) = case("Attention", X, W, np.zeros_like(BIAS), num_heads=N).run_runtime()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_triangle_of_the_longest_sequence():
    # ONNX Runtime reads this form on a GPU only.
    triangle = np.tril(np.ones((B, 1, 9, 9), np.int32))
    past = floats(2, B, N, 3, H, seed=3)
    (ours,) = case("Attention", X, W, BIAS, triangle, past, num_heads=N).run_engine("symbolic")
    wanted = case("Attention", X, W, BIAS, None, past, num_heads=N, unidirectional=1, outputs=2)
    np.testing.assert_allclose(ours, wanted.run_runtime()[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_quantized_attention(signed, per_column):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, X.shape).astype(np.uint8)
    dtype = np.int8 if signed else np.uint8
    w = (rng.integers(0, 256, W.shape) - (128 if signed else 0)).astype(dtype)
    scale = np.full(3 * D, 0.005, np.float32) * (1 + np.arange(3 * D) % 3)
    zero = np.arange(3 * D).astype(dtype)
    w_scale, w_zero = (scale, zero) if per_column else (scale[:1], zero[3:4])
    x_scale, x_zero = np.float32(0.02), np.uint8(117)
    inputs = [x, w, BIAS, x_scale, w_scale.astype(np.float32)]
    inputs = [np.asarray(v) for v in inputs]
    past = floats(2, B, N, 3, H, seed=3)
    close = {"domain": MICROSOFT, "rtol": 1e-3, "atol": 1e-4, "num_heads": N, "outputs": 2}
    fixed = (1, 4, 7)
    tail = [np.asarray(x_zero), w_zero]
    check_node("QAttention", *inputs, int32(4, 2, 3), *tail, fixed=fixed, **close)
    check_node("QAttention", *inputs, None, *tail, past, unidirectional=1, fixed=fixed, **close)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ((X, W), {"num_heads": 5}, "does not divide into 5 heads"),
        ((X, W[:, :-1]), {"num_heads": N}, "47 columns"),
        ((X, W[:5]), {"num_heads": N}, "inner dims differ"),
        ((X[0], W), {"num_heads": N}, "rank 3"),
        ((X, W), {"num_heads": N, "qkv_hidden_sizes": [1, 2]}, "three sizes"),
        ((X, W, BIAS, None, X), {"num_heads": N}, "past of rank 5"),
    ],
)
def test_attention_s_inputs_are_checked(inputs, attributes, message):
    with pytest.raises(InvalidModel, match=message):
        case("Attention", *inputs, **attributes).graph()


def test_what_attention_does_not_do():
    for name in ("do_rotary", "past_present_share_buffer"):
        with pytest.raises(UnsupportedOp, match=name):
            case("Attention", X, W, num_heads=N, **{name: 1}).graph()
    with pytest.raises(RunFailed, match="a mask of 7 numbers"):
        run_model(case("Attention", X, W, BIAS, int32(*range(7)), num_heads=N))


def run_model(node: NodeCase) -> None:
    import engine

    with engine.load(node.model(), device="reference") as model:
        model.run(node.feeds())


# ---------------------------------------------------------------------- MultiHeadAttention

Q, K, V = floats(B, S, D), floats(B, 6, D, seed=1), floats(B, 6, 12, seed=2)
QKV_BIAS = floats(D + D + 12, seed=3)
KEYS = (np.arange(6) < np.array([[6], [2], [5]])).astype(np.int32)


@pytest.mark.parametrize("bias", [None, QKV_BIAS])
@pytest.mark.parametrize("mask", [None, KEYS, int32(6, 2, 5), np.tile(KEYS[:, None], (1, S, 1))])
def test_cross_attention(bias, mask):
    check("MultiHeadAttention", Q, K, V, bias, mask, num_heads=N)


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_with_a_cache(past, unidirectional, masked):
    k, v = K[:, :S].copy(), floats(B, S, D, seed=2)
    bias, extra = floats(3 * D, seed=3), floats(1, N, S, S + past, seed=6)
    mask = (np.arange(S + past) < np.array([[S + past], [2], [5]])).astype(np.int32)
    caches = [floats(B, N, past, H, seed=s) for s in (4, 5)] if past else []
    inputs = [Q, k, v, bias, mask if masked else None, extra, *caches]
    attributes = {"num_heads": N, "unidirectional": unidirectional, "scale": 0.25, "outputs": 3}
    check("MultiHeadAttention", *inputs, **attributes)


def test_keys_of_a_cross_attention_that_are_kept_by_heads():
    k, v = floats(B, N, 6, H, seed=1), floats(B, N, 6, H, seed=2)
    check("MultiHeadAttention", Q, k, v, None, KEYS, num_heads=N)


def test_packed_heads():
    # Only a GPU takes these in ONNX Runtime; unpacked they must give the same.
    v = floats(B, 6, D, seed=2)
    (expected,) = case("MultiHeadAttention", Q, K, v, num_heads=N).run_runtime()
    both = np.stack([x.reshape(B, 6, N, H) for x in (K, v)], 3)
    (ours,) = case("MultiHeadAttention", Q, both, num_heads=N).run_engine("symbolic")
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    k, v = K[:, :S], v[:, :S]
    (expected,) = case("MultiHeadAttention", Q, k.copy(), v.copy(), num_heads=N).run_runtime()
    packed = np.stack([x.reshape(B, S, N, H) for x in (Q, k, v)], 3)
    (ours,) = case("MultiHeadAttention", packed, num_heads=N).run_engine("symbolic")
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidModel, match="packed query"):
        case("MultiHeadAttention", packed, num_heads=4).graph()


def test_scores_are_an_output():
    # Their type is open in ONNX Runtime's schema, so it does not load a node that shows them.
    extra = floats(B, 1, S, 6, seed=5)
    node = case("MultiHeadAttention", Q, K, V, None, KEYS, extra, num_heads=N, outputs=4)
    q, k = (x.reshape(B, -1, N, H).swapaxes(1, 2) for x in (Q, K))
    hidden = np.where(KEYS, 0, -10000)[:, None, None]
    expected = q @ k.swapaxes(-1, -2) / np.sqrt(H) + hidden + extra
    np.testing.assert_allclose(node.run_engine()[3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((Q[0],), "do not go together"),
        ((Q, None, V), "do not go together"),
        ((Q, K, V, None, None, None, K), "go together"),
    ],
)
def test_multi_head_attention_s_inputs_are_checked(inputs, message):
    with pytest.raises(InvalidModel, match=message):
        case("MultiHeadAttention", *inputs, num_heads=N).graph()


# ---------------------------------------------------------------------- one new token

ONE = floats(B, 1, D, seed=7)
STEP = [ONE, floats(B, 1, D, seed=8), floats(B, 1, D, seed=9)]


def test_decoder_s_step_with_room_in_the_cache():
    caches = [floats(B, N, 9, H, seed=s) for s in (4, 5)]
    mask = np.ones((B, 6), np.int32)
    mask[1, :3] = 0
    inputs = [*STEP, mask, floats(1, N, 1, 6, seed=6), *caches, int32(5)]
    attributes = {"num_heads": N, "past_present_share_buffer": 1}
    bias = floats(3 * D, seed=3)
    op = "DecoderMaskedMultiHeadAttention"
    y, keys, values = case(op, *inputs, None, None, bias, outputs=3, **attributes).run_engine()
    grown = [x[:, :, :5].copy() for x in caches]
    plain = [*STEP, bias, mask, inputs[4], *grown]
    wanted = case("MultiHeadAttention", *plain, num_heads=N, outputs=3).run_runtime()
    np.testing.assert_allclose(y, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(keys[:, :, :6], wanted[1], rtol=1e-5)
    np.testing.assert_array_equal(values[:, :, 6:], caches[1][:, :, 6:])


def test_decoder_s_step_to_a_fixed_cache():
    k, v = floats(B, N, 6, H, seed=1), floats(B, N, 6, H, seed=2)
    check("DecoderMaskedMultiHeadAttention", ONE, k, v, KEYS, num_heads=N)
    beams = [*STEP, *(None,) * 6, np.zeros((B, 1, 9), np.int32)]
    with pytest.raises(UnsupportedOp, match="cache_indirection"):
        case("DecoderMaskedMultiHeadAttention", *beams, num_heads=N).graph()


# ---------------------------------------------------------------------- groups

KV = 2  # of 4 heads
G = 16  # ONNX Runtime turns heads of a multiple of 16 only
GQ = floats(2, 5, 4 * G)
GK, GV = floats(2, 5, KV * G, seed=1), floats(2, 5, KV * G, seed=2)
TURNS = np.arange(16)[:, None] / 10.0 ** (np.arange(G // 2) / 4)
GROUP_TABLES = [np.cos(TURNS).astype(np.float32), np.sin(TURNS).astype(np.float32)]
ANGLES = np.arange(16)[:, None] / 10.0 ** (np.arange(H // 2) / 2)
COS, SIN = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)
GROUPS = {"num_heads": 4, "kv_num_heads": KV}


def group_inputs(new: int, before: int, room: int) -> list[np.ndarray | None]:
    items = 1 if before and new > 1 else 2  # what goes on with several tokens goes on alone
    caches = [floats(items, KV, room, G, seed=s) for s in (4, 5)] if room else [None, None]
    total = before + new
    new_ones = [x[:items, :new].copy() for x in (GQ, GK, GV)]
    lengths = np.full(items, total - 1, np.int32)
    return [*new_ones, *caches, lengths, np.array(total, np.int32)]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scale": 0.2, "softcap": 1.5},
        {"local_window_size": 3},
        {"smooth_softmax": 1},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
    ],
)
@pytest.mark.parametrize(("new", "before", "room"), [(5, 0, 0), (1, 6, 6), (1, 4, 9), (3, 6, 6)])
def test_groups(attributes, new, before, room):
    inputs = group_inputs(new, before, room)
    if attributes.get("do_rotary"):
        inputs += GROUP_TABLES
    check("GroupQueryAttention", *inputs, outputs=3, **GROUPS, **attributes)


def test_groups_of_packed_heads():
    inputs = group_inputs(5, 0, 0)
    packed = np.concatenate(inputs[:3], axis=2)
    check("GroupQueryAttention", packed, None, None, *inputs[3:], outputs=3, **GROUPS)


def test_groups_of_items_of_their_own_length():
    # What a prompt's padding gives is nobody's concern: only the answers to real tokens count.
    inputs = group_inputs(5, 0, 0)
    inputs[5] = int32(4, 2)
    theirs = case("GroupQueryAttention", *inputs, outputs=3, **GROUPS).run_runtime()
    ours = case("GroupQueryAttention", *inputs, outputs=3, **GROUPS).run_engine("symbolic")
    np.testing.assert_allclose(ours[0][0], theirs[0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[0][1, :3], theirs[0][1, :3], rtol=1e-4, atol=1e-5)
    inputs = [*group_inputs(1, 6, 8), *GROUP_TABLES]
    inputs[5] = int32(6, 3)
    check("GroupQueryAttention", *inputs, do_rotary=1, outputs=3, **GROUPS)


def test_groups_with_biases_sinks_and_positions():
    inputs = [*group_inputs(1, 6, 6), *GROUP_TABLES]
    positions = np.array([[6], [6]], np.int64)
    extra, sinks = floats(2, 1, 1, 7, seed=6), floats(4, seed=7)
    check("GroupQueryAttention", *inputs, positions, extra, do_rotary=1, outputs=3, **GROUPS)
    check("GroupQueryAttention", *inputs, None, None, sinks, outputs=3, **GROUPS)


def test_a_prompt_that_starts_somewhere():
    inputs = [*group_inputs(5, 0, 0), *GROUP_TABLES]
    inputs[3:5] = [np.zeros((2, KV, 0, G), np.float32)] * 2  # an empty cache, as exporters hand in
    positions = np.tile(np.arange(2, 7), (2, 1)).astype(np.int64)
    check("GroupQueryAttention", *inputs, positions, do_rotary=1, outputs=3, **GROUPS)


def test_groups_whose_queries_and_keys_are_normalized():
    # ONNX Runtime does this on a GPU only; done by hand before, it must give the same.
    inputs = [*group_inputs(1, 6, 6), *GROUP_TABLES]
    norms = [1 + floats(G, seed=s) / 4 for s in (8, 9)]
    node = case(
        *("GroupQueryAttention", *inputs, *(None,) * 5, *norms),
        **{**GROUPS, "do_rotary": 1, "outputs": 3, "qk_norm_epsilon": 0.1},
    )
    for i, norm in enumerate(norms):
        heads = inputs[i].reshape(2, 1, -1, G)
        root = np.sqrt((heads**2).mean(-1, keepdims=True) + 0.1)
        inputs[i] = (heads / root * norm).reshape(2, 1, -1).astype(np.float32)
    expected = case("GroupQueryAttention", *inputs, do_rotary=1, outputs=3, **GROUPS).run_runtime()
    for ours, theirs in zip(node.run_engine("symbolic"), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_groups_show_their_scores(stage):
    inputs = group_inputs(3, 4, 4)
    attributes = {**GROUPS, "qk_output": stage}
    theirs = case("GroupQueryAttention", *inputs, outputs=4, **attributes).run_runtime()[3]
    ours = case("GroupQueryAttention", *inputs, outputs=4, **attributes).run_engine()[3]
    assert ours.shape == theirs.shape
    seen = np.isfinite(ours)  # ONNX Runtime leaves what is masked as it is
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-4, atol=1e-5)


def test_groups_both_ways():
    check("GroupQueryAttention", *group_inputs(5, 0, 0), causal=0, outputs=3, **GROUPS)


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"num_heads": 3}, InvalidModel, "3 heads do not share 2"),
        ({"k_quant_type": "PER_TENSOR"}, UnsupportedOp, "k_quant_type"),
        ({"sliding_window_cache": 1}, UnsupportedOp, "sliding_window_cache"),
        ({"do_rotary": 1}, InvalidModel, "needs cos_cache"),
    ],
)
def test_groups_are_checked(attributes, error, message):
    with pytest.raises(error, match=message):
        case("GroupQueryAttention", *group_inputs(1, 4, 4), **{**GROUPS, **attributes}).graph()


def test_a_cache_without_the_entries_that_lengths_tell_of():
    inputs = group_inputs(1, 4, 4)
    inputs[5] = int32(9, 4)
    with pytest.raises(RunFailed, match="item 0: a cache of 5"):
        run_model(case("GroupQueryAttention", *inputs, **GROUPS))


# ---------------------------------------------------------------------- rotary positions


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [[3], [[0, 1, 2, 3], [5, 4, 9, 2], [1, 1, 0, 7]]])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary_embedding(rank, positions, interleaved):
    x = floats(B, S, D) if rank == 3 else floats(B, N, S, H)
    inputs = [x, np.array(positions, np.int64), COS, SIN]
    check("RotaryEmbedding", *inputs, interleaved=interleaved)


def test_rotary_embedding_of_a_part_of_each_head():
    inputs = [Q, np.array([2], np.int64), COS[:, :2].copy(), SIN[:, :2].copy()]
    check("RotaryEmbedding", *inputs, num_heads=N, rotary_embedding_dim=4)
    with pytest.raises(InvalidModel, match="needs num_heads"):
        case("RotaryEmbedding", *inputs, rotary_embedding_dim=4).graph()
    outside = case("RotaryEmbedding", Q, np.array([14], np.int64), COS, SIN)
    with pytest.raises(RunFailed, match="outside of the tables' 16 entries"):
        run_model(outside)


# ---------------------------------------------------------------------- embeddings

IDS = np.array([[1, 5, 2], [0, 6, 6]], np.int32)
SEGMENTS = np.array([[0, 0, 1], [1, 1, 0]], np.int32)
TABLES = [floats(7, D), floats(9, D, seed=1), floats(2, D, seed=2)]
SHIFTS = [floats(D, seed=3), floats(D, seed=4)]
VALID = np.array([[1, 1, 0], [1, 1, 1]], np.int32)


def test_embedding():
    op, (words, places, kinds) = "EmbedLayerNormalization", TABLES
    check(op, IDS, SEGMENTS, words, places, kinds, *SHIFTS, VALID, outputs=2, epsilon=1e-5)
    check(op, IDS, None, words, places, None, *SHIFTS, outputs=3)
    positions = np.array([[3, 8, 0]], np.int32)
    check(op, IDS, None, words, places, None, *SHIFTS, None, positions, outputs=2)
    with pytest.raises(InvalidModel, match="go together"):
        case(op, IDS, SEGMENTS, words, places, None, *SHIFTS, outputs=2).graph()
    with pytest.raises(RunFailed, match="outside of the table's 7 rows"):
        run_model(case(op, IDS + 1, None, words, places, None, *SHIFTS, outputs=2))


def test_quantized_embedding():
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, x.shape).astype(np.uint8) for x in (*TABLES, *SHIFTS)]
    scales = [np.array(0.01 * (k + 1), np.float32) for k in range(5)]
    zeros = [np.array(100 + k, np.uint8) for k in range(5)]
    op = "QEmbedLayerNormalization"
    check(op, IDS, SEGMENTS, *parts, VALID, *scales, *zeros, outputs=2)


# ---------------------------------------------------------------------- rows

ATTENTION = {"num_heads": N}
ROWS = [
    (case("Attention", X, W, BIAS, **ATTENTION), (0,), True),
    (case("Attention", X, W, BIAS, PAD, **ATTENTION), (0, 3), True),
    (case("Attention", X, W, BIAS, int32(4, 2, 3), **ATTENTION), (0, 3), True),
    (case("Attention", X, W, BIAS, int32(4, 4, 3, 0, 2, 1), **ATTENTION), (0,), False),
    (case("Attention", X, W, BIAS, PAD, **ATTENTION), (0,), False),
    (case("Attention", X, W, BIAS, None, None, floats(1, N, S, S), **ATTENTION), (0,), True),
    (case("MultiHeadAttention", Q, K, V, QKV_BIAS, KEYS, **ATTENTION), (0, 1, 2, 4), True),
    (case("MultiHeadAttention", Q, K, V, QKV_BIAS, KEYS, **ATTENTION), (0, 4), False),
    (case("RotaryEmbedding", Q, np.array([0], np.int64), COS, SIN), (0,), True),
    (case("RotaryEmbedding", Q, np.zeros((B, S), np.int64), COS, SIN), (0, 1), True),
    (
        case("EmbedLayerNormalization", np.tile(IDS[:1], (3, 1)), None, *TABLES[:2], None, *SHIFTS),
        (0,),
        True,
    ),
]


@pytest.mark.parametrize(("node", "items", "expected"), ROWS)
def test_rows(node, items, expected):
    (state,) = check_rows(node, items) if expected else row_states(node, items)
    assert state.is_rows == expected


def test_rows_of_caches():
    inputs = [np.concatenate([x, x[:1]]) for x in group_inputs(1, 4, 4)[:6] if x is not None]
    node = case("GroupQueryAttention", *inputs, np.array(5, np.int32), outputs=3, **GROUPS)
    states = check_rows(node, (0, 1, 2, 3, 4, 5))
    assert all(state.is_rows and state.axis == 0 for state in states)
    past = case("Attention", X, W, BIAS, None, floats(2, B, N, 3, H), outputs=2, num_heads=N)
    assert not any(state.is_rows for state in row_states(past, (0,)))
