"""Native MultiHeadAttention of com.microsoft, against its portable definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from engine.cpu.lower.rules import NoKernel
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

B, S, L, N, H = 3, 5, 6, 4, 8
D = N * H
ORDER = ["q", "k", "v", "bias", "mask", "added", "past_k", "past_v"]
INT32 = 6


def attend(
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[tuple[str, Sequence[int]]] = (),
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    **attributes: object,
) -> None:
    """Run the node over what is fed; what is not is absent."""
    last = max(ORDER.index(name) for name in feeds)
    inputs = [name if name in feeds else "" for name in ORDER[: last + 1]]
    given = outputs or [("y", feeds["q"].shape)]
    made = node(
        "MultiHeadAttention",
        inputs,
        [name for name, _ in given],
        domain="com.microsoft",
        num_heads=N,
        **attributes,
    )
    ordered = {name: feeds[name] for name in ORDER if name in feeds}
    check([made], ordered, given, shapes=shapes, domains={"com.microsoft": 1}, tolerance=2e-5)


QKV = {"q": normal(B, S, D), "k": normal(B, L, D, seed=1), "v": normal(B, L, D, seed=2)}
KEYS = (np.arange(L) < np.array([[L], [2], [5]])).astype(np.int32)
EACH = np.random.default_rng(4).integers(0, 2, (B, S, L)).astype(np.int32)
OPEN: dict[str, Sequence[int | str]] = {
    "q": ["B", "S", D],
    "k": ["B", "L", D],
    "v": ["B", "L", D],
    "mask": ["B", "L"],
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [None, KEYS, KEYS[1:2].astype(np.int64), EACH])
def test_cross_attention(bias: bool, mask: np.ndarray | None) -> None:
    feeds = dict(QKV)
    if bias:
        feeds["bias"] = normal(3 * D, seed=3)
    if mask is not None:
        feeds["mask"] = mask
    attend(feeds)


@pytest.mark.parametrize("size", [(3, 5, 6), (1, 1, 1), (2, 70, 33), (2, 0, 3), (0, 2, 2)])
def test_open_sizes(size: tuple[int, int, int]) -> None:
    batch, queries, keys = size
    feeds = {
        "q": normal(batch, queries, D),
        "k": normal(batch, keys, D, seed=1),
        "v": normal(batch, keys, D, seed=2),
        "bias": normal(3 * D, seed=3),
        "mask": np.random.default_rng(0).integers(0, 2, (batch, keys)).astype(np.int32),
    }
    attend(feeds, shapes=OPEN)


def test_values_of_another_size() -> None:
    feeds = {**QKV, "v": normal(B, L, 2 * D, seed=2), "bias": normal(4 * D, seed=3)}
    attend(feeds, [("y", (B, S, 2 * D))])


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_that_grows(past: int, unidirectional: int, masked: bool) -> None:
    total = past + S
    feeds = {"q": QKV["q"], "k": QKV["k"][:, :S], "v": normal(B, S, D, seed=2)}
    feeds |= {"bias": normal(3 * D, seed=3), "added": normal(1, N, S, total, seed=6)}
    if masked:
        feeds["mask"] = (np.arange(total) < np.array([[total], [2], [5]])).astype(np.int32)
    if past:
        feeds |= {"past_k": normal(B, N, past, H, seed=4), "past_v": normal(B, N, past, H, seed=5)}
    outputs = [("y", (B, S, D)), ("keys", (B, N, total, H)), ("values", (B, N, total, H))]
    attend(feeds, outputs, unidirectional=unidirectional, scale=0.25)
    attend(feeds, unidirectional=unidirectional)


def test_packed_in_every_way() -> None:
    q, k, v = QKV["q"][:, :S], QKV["k"][:, :S], QKV["v"][:, :S]
    by_heads = [x.reshape(B, S, N, H) for x in (q, k, v)]
    attend({"q": np.stack(by_heads, 3)}, [("y", (B, S, D))])
    attend({"q": q, "k": np.stack(by_heads[1:], 3)})
    beside = np.concatenate((q, k, v), 2)
    attend({"q": beside}, [("y", (B, S, D))])
    attend({"q": beside, "bias": normal(3 * D, seed=8)}, [("y", (B, S, D))])
    swapped = [x.swapaxes(1, 2) for x in by_heads[1:]]
    kept = {"q": q, "k": swapped[0], "v": swapped[1]}
    attend(kept)
    attend({**kept, "bias": normal(3 * D, seed=8)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": np.array([6, 2, 5], np.int32)}, "rank 1"),
        ({"mask": KEYS[:, :4]}, "may not cover"),
        ({"q": np.zeros((B, S, N, 3, H), np.float32), "k": None, "v": None}, "head by head"),
    ],
)
def test_what_stays_portable(change: dict[str, np.ndarray | None], reason: str) -> None:
    given = {**QKV, "bias": normal(3 * D), **change}
    feeds = {name: array for name, array in given.items() if array is not None}
    with pytest.raises(NoKernel, match=reason):
        attend(feeds, [("y", (B, S, D))])


def test_other_types_and_scores_stay_portable() -> None:
    half = {name: array.astype(np.float16) for name, array in QKV.items()}
    made = node("MultiHeadAttention", "qkv", ["y"], domain="com.microsoft", num_heads=N)
    domains = {"com.microsoft": 1}
    with pytest.raises(NoKernel, match="float32"):
        check([made], half, [("y", [B, S, D], 10)], domains=domains)
    outputs = [("y", (B, S, D)), ("a", (B, N, L, H)), ("b", (B, N, L, H)), ("c", (B, N, S, L))]
    with pytest.raises(NoKernel, match="scores"):
        attend(QKV, outputs)
