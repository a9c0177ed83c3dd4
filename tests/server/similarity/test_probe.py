from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np

from server.errors import NotFound
from server.index.contract import Hit, IndexState, Query
from server.index.filters import All
from server.metrics.collections import CollectionsMetrics
from server.similarity.probe import MOST_ROWS, Probe, recalls
from tests.server.repository.serving import until

ROWS = np.eye(20, 4, dtype=np.float32)


@dataclass
class Watched:
    """A space that finds `good` of ten by itself, and notes what it is asked."""

    good: int = 9
    kind: str = "approximate"
    asked: list[object] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def state(self):
        return IndexState(self.kind, "", 1000, 0, 0)

    def measure_recall(self, queries, k=10):
        self.gate.wait(30)
        self.asked.append((queries.shape, k))
        return self.good / 10

    def search(self, queries, query):
        self.asked.append(query)
        right = 10 if query.exact else self.good
        hits = [Hit(f"{n}" if n < right else f"wrong{n}", 1.0) for n in range(query.k)]
        return [hits for _ in queries]


def probe(share=1.0, draws=(0.5,)):
    metrics, numbers = CollectionsMetrics(), iter(draws)
    return metrics, Probe(metrics, share, lambda: next(numbers, 0.5))


async def test_one_at_a_time_and_off_the_path():
    metrics, p = probe()
    space = Watched()
    assert p.offer("c", space, ROWS[:1], Query())
    assert not p.offer("c", space, ROWS[:1], Query())  # one runs, and it waits for the gate
    assert metrics.of("c").recall == {}
    space.gate.set()
    await until(lambda: metrics.of("c").recall == {10: 0.9})
    assert space.asked == [((1, 4), 10)]
    await p.close()
    assert p.offer("c", Watched(good=5, gate=space.gate), ROWS[:1], Query())
    await p.close()
    assert metrics.of("c").recall == {10: 0.7}  # the mean of both
    p.forget("c")
    assert p.offer("c", Watched(good=5, gate=space.gate), ROWS[:1], Query())
    await p.close()
    assert metrics.of("c").recall == {10: 0.5}


async def test_a_share_is_sampled():
    _, p = probe(0.25, draws=[0.3, 0.25, 0.2])
    space = Watched()
    space.gate.set()
    taken = [p.offer("c", space, ROWS[:1], Query()) for _ in range(3)]
    await p.close()
    assert taken == [False, False, True]
    _, none = probe(0.0, draws=[0.0])
    assert not none.offer("c", space, ROWS[:1], Query())
    await none.close()


async def test_exact_searches_are_not_probed_again():
    metrics, p = probe()
    assert not p.offer("c", Watched(), ROWS[:1], Query(exact=True))
    space = Watched(kind="exact")
    assert p.offer("c", space, ROWS[:3], Query())
    await p.close()
    assert space.asked == [] and metrics.of("c").recall == {10: 1.0}


def test_a_filtered_search_is_compared_as_it_was_made():
    space = Watched(good=8)
    query = Query(k=3, filter=All(()), offset=5, min_score=0.5, exclude=frozenset("x"))
    assert recalls(space, ROWS[:2], query) == [0.8, 0.8]
    automatic, exact = space.asked
    assert automatic == Query(k=10, filter=All(()), exclude=frozenset("x"))
    assert exact.exact and exact.k == 10


def test_a_search_without_matches_says_nothing():
    space = Watched()
    space.search = lambda queries, query: [[] for _ in queries]
    assert recalls(space, ROWS[:2], Query(filter=All(()))) == []


async def test_a_probe_that_fails_stops_nothing(caplog):
    metrics, p = probe()

    class Gone(Watched):
        def state(self):
            raise NotFound("the collection is gone")

    caplog.set_level("INFO")
    assert p.offer("c", Gone(), ROWS, Query())
    await p.close()
    assert "the collection is gone" in caplog.text and metrics.by_name == {}
    space = Watched()
    space.gate.set()
    assert p.offer("c", space, ROWS, Query())
    await asyncio.wait_for(p.close(), 30)
    assert len(space.asked) == MOST_ROWS
