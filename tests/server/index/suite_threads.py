"""Threads that put, delete and search at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from server.index.contract import Collection, NewItem, Query, Store
from server.index.filter_reading import read_filter
from tests.server.index.suite_base import DIM, SPACE, BaseSuite, new_collection, vectors

STEADY, ROUNDS = 40, 12


def vector_of(number: int, turn: int) -> np.ndarray:
    """A vector that says of which item, and of which putting of it, it is."""
    row = np.zeros(DIM, np.float32)
    row[:3] = number, turn, 1
    return row


def run_all(*jobs: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


class ThreadSuite(BaseSuite):
    def test_searches_beside_changes_are_right(self, store: Store) -> None:
        """Items that are only ever replaced are in every answer, once, with a score of theirs."""
        collection = new_collection(store, "dot")
        done = threading.Event()

        def put(turn: int, first: int, count: int) -> None:
            numbers = range(first, first + count)
            collection.put(
                [NewItem(f"s{n}", {"steady": True, "turn": turn}) for n in numbers],
                {SPACE: np.stack([vector_of(n, turn) for n in numbers])},
            )

        put(0, 0, STEADY)
        space = collection.space(SPACE, DIM)

        def replace() -> None:
            for turn in range(1, ROUNDS):
                put(turn, (turn * 7) % 30, 10)

        def come_and_go() -> None:
            for turn in range(ROUNDS):
                ids = [f"t{turn}-{i}" for i in range(5)]
                collection.put([NewItem(id) for id in ids], {SPACE: -vectors(5) - 100})
                collection.update_metadata("s1", {"steady": True, "touched": turn})
                assert collection.delete(ids[:4]) == 4

        def change() -> None:
            try:
                run_all(replace, come_and_go)
            finally:
                done.set()

        def search(query: Query) -> None:
            which = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]], np.float32)
            while True:
                last = done.is_set()
                by_number, ones = space.search(which, query)
                for hits in (by_number, ones):
                    steady = [hit for hit in hits if hit.id.startswith("s")]
                    assert len(hits) == len({hit.id for hit in hits})
                    assert {hit.id for hit in steady} == {f"s{n}" for n in range(STEADY)}
                # A score of an item says its number: no vector of another one is ever read.
                assert all(
                    hit.score == float(hit.id[1:]) for hit in by_number if hit.id.startswith("s")
                )
                if last:
                    return

        filtered = Query(k=1000, filter=read_filter({"steady": True}))
        run_all(change, lambda: search(Query(k=1000)), lambda: search(filtered))
        assert collection.size().items == STEADY + ROUNDS

    def test_writers_of_the_same_items_agree(self, store: Store) -> None:
        collection = new_collection(store, "l2")

        def write(seed: int) -> None:
            for turn in range(6):
                rows = np.full((10, DIM), seed * 100 + turn, np.float32)
                named = [NewItem(str(i), {"seed": seed, "turn": turn}) for i in range(10)]
                collection.put(named, {SPACE: rows})
                collection.delete([str(seed)])

        run_all(*(lambda seed=seed: write(seed) for seed in range(3)))
        self._check_vectors_belong(collection)

    def test_fills_beside_changes_never_mix(self, store: Store) -> None:
        """A vector that was made of an older picture never counts for a newer one."""
        collection = new_collection(store, "l2")
        collection.put([NewItem(str(i), {"seed": 0, "turn": 0}, b"0") for i in range(20)])
        space = collection.space(SPACE, DIM)

        def change() -> None:
            for turn in range(1, 10):
                named = [
                    NewItem(str(i), {"seed": 0, "turn": turn}, b"%d" % turn) for i in (3, 4, 5)
                ]
                collection.put(named)
                collection.delete(["6"])
                collection.put([NewItem("6", {"seed": 0, "turn": turn}, b"%d" % turn)])

        def fill() -> None:
            for _ in range(40):
                missing = space.missing(5)
                pictures = collection.pictures([each.id for each in missing])
                # Of a picture that came after `missing` was asked, the revision is another one.
                made = [
                    np.full(DIM, int(picture), np.float32)
                    if picture is not None
                    else np.ones(DIM, np.float32)
                    for picture in pictures
                ]
                if made:
                    space.fill(missing, np.stack(made))

        run_all(change, fill, fill)
        while missing := space.missing(100):
            pictures = collection.pictures([each.id for each in missing])
            rows = [np.full(DIM, int(picture or b"0"), np.float32) for picture in pictures]
            space.fill(missing, np.stack(rows))
        self._check_vectors_belong(collection)
        assert space.state().vectors == 20

    def _check_vectors_belong(self, collection: Collection) -> None:
        page = collection.page(limit=1000)
        found = collection.space(SPACE, DIM).vectors([item.id for item in page])
        for item, row in zip(page, found, strict=True):
            expected = item.metadata["seed"] * 100 + item.metadata["turn"]
            assert row is not None and row.tolist() == [expected] * DIM
