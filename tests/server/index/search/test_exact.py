"""Exact search against a plain sort of all scores in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.index.search import Selection, SlotIndex, exact

METRICS = ("cosine", "dot", "l2")


def true_scores(
    rows: NDArray[np.float32], queries: NDArray[np.float32], metric: str
) -> NDArray[np.float64]:
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(x[None] - q[:, None], axis=2)
    scores = q @ x.T
    if metric == "cosine":
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores


def check(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: str,
    k: int,
    allowed: NDArray[np.bool_],
    slots: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """The answer has the best scores, each slot once, and says the score that its slot has."""
    truth = true_scores(rows, queries, metric)
    scale = max(1e-6, float(np.abs(truth[:, allowed]).max())) if allowed.any() else 1.0
    width = min(k, int(allowed.sum()))
    best = np.sort(truth[:, allowed], axis=1)[:, ::-1][:, :width]
    for row in range(len(queries)):
        found = slots[row][slots[row] >= 0]
        assert len(found) == width == len(set(found.tolist()))
        assert allowed[found].all()
        assert (np.diff(scores[row, :width]) <= 0).all()
        np.testing.assert_allclose(scores[row, :width], best[row], rtol=2e-5, atol=2e-5 * scale)
        np.testing.assert_allclose(
            scores[row, :width], truth[row, found], rtol=2e-5, atol=2e-5 * scale
        )
        assert (slots[row, width:] == -1).all()
        assert np.isneginf(scores[row, width:]).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(METRICS),
    dim=st.sampled_from((1, 2, 3, 17, 64, 257, 1024)),
    count=st.sampled_from((1, 2, 9, 200, 1500)),
    queries=st.integers(1, 5),
    k=st.sampled_from((1, 2, 10, 100, 3000)),
    share=st.sampled_from((None, 0.0, 0.01, 0.2, 0.5, 1.0)),
    kinds=st.sampled_from((1, 3, 10**6)),
)
def test_any_search_is_right(
    seed: int,
    metric: str,
    dim: int,
    count: int,
    queries: int,
    k: int,
    share: float | None,
    kinds: int,
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim), np.float32) * np.float32(rng.choice([1e-3, 1, 1e3]))
    rows = rows[rng.integers(0, min(kinds, count), count)]  # few kinds: many equal scores
    rows[rng.random(count) < 0.05] = 0
    asked = np.concatenate(
        (rng.standard_normal((queries, dim), np.float32), rows[:2], np.zeros((1, dim), np.float32))
    )
    index = SlotIndex(dim, metric)  # type: ignore[arg-type]
    index.attach(rows, np.arange(count))
    removed = rng.random(count) < 0.1
    index.remove(np.flatnonzero(removed))
    allowed = ~removed
    selection = None
    if share is not None:
        mask = rng.random(count + 5) < share
        selection, allowed = Selection(mask), allowed & mask[:count]
    slots, scores = index.search(asked, k, selection, exact=True)
    assert slots.shape == scores.shape == (len(asked), min(k, int((~removed).sum())))
    assert len(index) == int((~removed).sum())
    check(rows, asked, metric, k, allowed, slots, scores)


@pytest.mark.parametrize("metric", METRICS)
def test_several_blocks_of_rows_and_of_queries(metric: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30_000, 8), np.float32)
    queries = rng.standard_normal((300, 8), np.float32)
    index = SlotIndex(8, metric)  # type: ignore[arg-type]
    index.attach(rows, np.arange(len(rows)))
    slots, scores = index.search(queries, 10, exact=True)
    some = [0, 127, 128, 299]
    everything = np.ones(len(rows), np.bool_)
    check(rows, queries[some], metric, 10, everything, slots[some], scores[some])


def test_equal_scores_come_in_the_order_of_their_slots() -> None:
    index = SlotIndex(2, "dot")
    index.attach(np.ones((5000, 2), np.float32), np.arange(5000))
    slots, _ = index.search(np.ones((1, 2), np.float32), 40)
    assert slots.tolist() == [list(range(40))]


def test_near_rows_far_from_the_origin_are_told_apart_by_distance() -> None:
    rng = np.random.default_rng(5)
    rows = (1000 + 0.01 * rng.standard_normal((50, 16))).astype(np.float32)
    index = SlotIndex(16, "l2")
    index.attach(rows, np.arange(50))
    slots, scores = index.search(rows, 5)
    assert slots[:, 0].tolist() == list(range(50))
    assert (scores[:, 0] == 0).all()
    check(rows, rows, "l2", 5, np.ones(50, np.bool_), slots, scores)


def test_unit_rows_and_then_one_that_is_longer() -> None:
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((300, 24), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[299] = 3 * rows[7] + rows[8]
    index = SlotIndex(24, "cosine")
    index.attach(rows, np.arange(299))
    queries = rng.standard_normal((4, 24), np.float32)
    first = np.arange(300) < 299
    check(rows, queries, "cosine", 20, first, *index.search(queries, 20))
    index.add([299])
    check(rows, queries, "cosine", 20, np.ones(300, np.bool_), *index.search(queries, 20))


def test_room_to_grow_is_no_part_of_the_rows() -> None:
    matrix = np.full((500, 4), np.nan, np.float32)  # what is not written may be anything
    rng = np.random.default_rng(9)
    matrix[:100] = rng.standard_normal((100, 4), np.float32)
    for metric in METRICS:
        index = SlotIndex(4, metric)  # type: ignore[arg-type]
        index.attach(matrix, np.arange(100))
        check(
            matrix[:100],
            matrix[:3],
            metric,
            10,
            np.ones(100, np.bool_),
            *index.search(matrix[:3], 10),
        )
        index.remove([5])
        alive = np.arange(100) != 5
        check(matrix[:100], matrix[:3], metric, 100, alive, *index.search(matrix[:3], 100))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kinds", [1, 4, 10**6])
def test_many_small_blocks(metric: str, kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_BLOCK_SCORES", 1)  # the smallest blocks there are
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((9000, 6), np.float32)
    rows = rows[rng.integers(0, min(kinds, 9000), 9000)]
    index = SlotIndex(6, metric)  # type: ignore[arg-type]
    index.attach(rows, np.arange(9000))
    index.remove(np.arange(2000, 4500))  # of two blocks, all of one
    allowed = np.ones(9000, np.bool_)
    allowed[2000:4500] = False
    for k in (1, 10, 700):
        check(rows, rows[:2], metric, k, allowed, *index.search(rows[:2], k))


def test_many_equal_rows_by_distance() -> None:
    rows = np.ones((3000, 8), np.float32)
    rows[2000:] = 2
    index = SlotIndex(8, "l2")
    index.attach(rows, np.arange(3000))
    slots, scores = index.search(rows[[0, 2500]], 50)
    assert slots.tolist() == [list(range(50)), list(range(2000, 2050))]
    assert (scores == 0).all()


def test_queries_in_any_layout() -> None:
    rng = np.random.default_rng(12)
    rows = rng.standard_normal((400, 16), np.float32)
    index = SlotIndex(16, "cosine")
    index.attach(rows, np.arange(400))
    plain = index.search(rows[:8], 5)[0].tolist()
    assert index.search(np.asfortranarray(rows[:8]), 5)[0].tolist() == plain
    assert (
        index.search(rows[:16:2], 5)[0].tolist()
        == plain[::2] + index.search(rows[8:16:2], 5)[0].tolist()
    )
    assert index.search(rows[:8].astype(np.float64), 5)[0].tolist() == plain
    assert index.search(np.asfortranarray(rows[:8])[:1], 5)[0].tolist() == plain[:1]


def test_very_many_answers_of_several_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_ANSWERS", 1000)
    rows = np.random.default_rng(13).standard_normal((4000, 5)).astype(np.float32)
    index = SlotIndex(5, "dot")
    index.attach(rows, np.arange(4000))
    check(rows, rows[:5], "dot", 900, np.ones(4000, np.bool_), *index.search(rows[:5], 900))


def test_a_selection_counts_itself() -> None:
    selection = Selection(np.array([True, False, True]))
    assert len(selection) == 2
    assert selection.slots.tolist() == [0, 2]
