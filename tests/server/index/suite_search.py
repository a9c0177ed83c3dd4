"""Searches, against scores computed slowly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from server.errors import InvalidInput
from server.index.contract import Hit, Metric, NewItem, Query, Store
from tests.server.index.suite_base import SPACE, BaseSuite, new_collection, scores_of, vectors


def check_hits(
    hits: list[Hit],
    rows: dict[str, NDArray[np.float32]],
    query: NDArray[np.float32],
    metric: Metric,
    count: int,
) -> None:
    """Check that hits are the `count` best of `rows`, whatever the order of equal ones."""
    ids = list(rows)
    scores = dict(zip(ids, scores_of([rows[id] for id in ids], query, metric), strict=True))
    best = sorted(scores.values(), reverse=True)[:count]
    assert len({hit.id for hit in hits}) == len(hits) == min(count, len(rows))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    np.testing.assert_allclose([hit.score for hit in hits], best, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        [hit.score for hit in hits], [scores[hit.id] for hit in hits], rtol=1e-4, atol=1e-4
    )


class SearchSuite(BaseSuite):
    @pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
    @pytest.mark.parametrize("exact", [False, True])
    def test_the_nearest_are_found(self, store: Store, metric: Metric, exact: bool) -> None:
        collection = new_collection(store, metric)
        rows = vectors(200, 17, seed=1) * np.linspace(0.1, 9, 200, dtype=np.float32)[:, None]
        collection.put([NewItem(str(i)) for i in range(200)], {SPACE: rows})
        by_id = {str(i): row for i, row in enumerate(rows)}
        space = collection.space(SPACE, 17)
        queries = vectors(5, 17, seed=2)
        for k in (1, 10, 200, 1000):
            found = space.search(queries, Query(k=k, exact=exact))
            assert len(found) == 5
            for hits, query in zip(found, queries, strict=True):
                check_hits(hits, by_id, query, metric, k)

    def test_an_empty_space_finds_nothing(self, store: Store) -> None:
        space = new_collection(store).space(SPACE, 3)
        assert space.search(np.ones((2, 3), np.float32), Query()) == [[], []]
        assert space.search(np.ones((0, 3), np.float32), Query()) == []
        assert space.state().vectors == 0 == space.state().missing

    def test_offset_min_score_and_exclude_take_their_part_first(self, store: Store) -> None:
        collection = new_collection(store, "dot")
        collection.put(
            [NewItem(f"i{i:03}") for i in range(300)],
            {SPACE: np.arange(300, dtype=np.float32)[:, None]},
        )
        space = collection.space(SPACE, 1)
        one = np.ones((1, 1), np.float32)

        def ask(**query: object) -> list[int]:
            (hits,) = space.search(one, Query(**query))  # type: ignore[arg-type]
            return [int(hit.id[1:]) for hit in hits]

        assert ask(k=3, offset=2) == [297, 296, 295]
        assert ask(k=3, offset=299) == [0]
        assert ask(k=3, offset=400) == []
        assert ask(k=5, min_score=297.5) == [299, 298]
        assert ask(k=5, min_score=1000.0) == []
        assert ask(k=3, exclude=frozenset(("i299", "i297", "no such"))) == [298, 296, 295]
        assert ask(k=2, offset=1, exclude=frozenset(("i299",))) == [297, 296]
        many = frozenset(f"i{i:03}" for i in range(100, 300))
        assert ask(k=3, exclude=many) == [99, 98, 97]
        assert ask(k=300, exclude=many) == list(range(99, -1, -1))
        assert ask(k=0) == []

    def test_queries_that_are_none_are_refused(self, store: Store) -> None:
        collection = new_collection(store)
        collection.put([NewItem("a")], {SPACE: vectors(1, 4)})
        space = collection.space(SPACE, 4)
        for wrong in (
            np.ones((1, 5)),
            np.ones(4),
            np.full((1, 4), np.nan),
            np.full((2, 4), np.inf),
        ):
            with pytest.raises(InvalidInput):
                space.search(wrong.astype(np.float32), Query())

    @pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
    @pytest.mark.parametrize("scale", [1e-14, 1e-10, 1e10, 1e14])
    def test_very_short_and_long_vectors_are_compared(
        self, store: Store, metric: Metric, scale: float
    ) -> None:
        collection = new_collection(store, metric)
        rows = vectors(30, 7) * np.float32(scale)
        collection.put([NewItem(str(i)) for i in range(30)], {SPACE: rows})
        query = vectors(1, 7, seed=1) * np.float32(scale)
        (hits,) = collection.space(SPACE, 7).search(query, Query(k=30))
        found = np.array([hit.score for hit in hits])
        expected = np.sort(scores_of(rows, query[0], metric))[::-1]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())
        assert len(hits) == 30 and np.isfinite(found).all()

    def test_what_has_no_direction_is_refused(self, store: Store) -> None:
        collection = new_collection(store)
        for size in (0.0, 1e-16, 1e-44):
            rows = np.full((2, 3), size, np.float32)
            rows[0] = 1
            with pytest.raises(InvalidInput, match=r"row 1 .* direction"):
                collection.put([NewItem("a"), NewItem("b")], {SPACE: rows})
        assert collection.size().items == 0

    def test_equal_vectors_are_all_found(self, store: Store) -> None:
        collection = new_collection(store)
        rows = np.tile(vectors(1, 5), (20, 1))
        collection.put([NewItem(str(i)) for i in range(20)], {SPACE: rows})
        (hits,) = collection.space(SPACE, 5).search(rows[:1], Query(k=20))
        assert {hit.id for hit in hits} == {str(i) for i in range(20)}
        assert all(abs(hit.score - 1) < 1e-5 for hit in hits)

    def test_recall_is_measured(self, store: Store) -> None:
        collection = new_collection(store)
        rows = vectors(100, 6)
        collection.put([NewItem(str(i)) for i in range(100)], {SPACE: rows})
        space = collection.space(SPACE, 6)
        assert 0.95 <= space.measure_recall(vectors(10, 6, seed=3)) <= 1
        state = space.state()
        assert state.vectors == 100 and state.reason and state.bytes >= 100 * 6 * 4
