"""What additions and removals, one at a time, cost a library and the searches between them.

A step adds 20 rows, removes 20, and asks 20 queries, each one a call. Where a library has no
removal, what was removed is left out of its answers, for which it is asked for more; where it has
no addition, new rows are compared one by one beside it. Both is what using it would mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Protocol

import numpy as np

from benchmarks.common.results import markdown_table
from benchmarks.similarity.data import VectorSet, nearest, recall
from benchmarks.similarity.vectors_peers import Peer
from server.index.contract import NewItem, Query
from server.index.search import SlotIndex

EACH, K, MORE = 20, 10, 3


class Under(Protocol):
    """What can be put through changes."""

    name: str
    added: bool
    removed: bool

    def add(self, id: int, row: np.ndarray) -> None: ...

    def remove(self, id: int) -> None: ...

    def search(self, queries: np.ndarray) -> list[int]: ...


class PeerChurn:
    """A library under changes."""

    def __init__(self, peer: Peer, data: VectorSet) -> None:
        self.name, self.peer, self.count = peer.name, peer, len(data.rows)
        self.added = peer.add is not None
        self.removed = peer.remove is not None
        self.tail: list[np.ndarray] = []
        self.gone: set[int] = set()

    def add(self, id: int, row: np.ndarray) -> None:
        if self.peer.add is not None:
            self.peer.add(id, row)
        else:
            self.tail.append(row)

    def remove(self, id: int) -> None:
        if self.peer.remove is not None:
            self.peer.remove(id)
        else:
            self.gone.add(id)

    def search(self, queries: np.ndarray) -> list[int]:
        wanted = K if self.removed else K * MORE
        ids: list[int] = self.peer.search(queries, wanted)[0].tolist()
        if self.tail:
            new = np.array(self.tail) @ queries[0]
            ids += [self.count + int(at) for at in np.argsort(-new)[:2]]
        return [id for id in ids if id not in self.gone][:K]


class StoreChurn:
    """The embedded store under changes; an addition that has returned is on disk."""

    added = removed = True
    name = "ours: the whole store, every change durable"

    def __init__(self, collection: Any, space: Any) -> None:
        self.collection, self.space = collection, space

    def add(self, id: int, row: np.ndarray) -> None:
        self.collection.put([NewItem(str(id))], {self.space.key: row[None]})

    def remove(self, id: int) -> None:
        self.collection.delete([str(id)])

    def search(self, queries: np.ndarray) -> list[int]:
        return [int(hit.id) for hit in self.space.search(queries, Query(k=K))[0]]


class IndexChurn:
    """The index alone, over a matrix of its own."""

    added = removed = True
    name = "ours: the index, with slots"

    def __init__(self, data: VectorSet) -> None:
        self.matrix = np.concatenate((data.rows, np.zeros_like(data.later)))
        self.index = SlotIndex(data.rows.shape[1], "cosine")
        self.index.attach(self.matrix, np.arange(len(data.rows)))
        if not self.index.settle(900):
            raise SystemExit("the index was not ready after 15 minutes")

    def add(self, id: int, row: np.ndarray) -> None:
        self.matrix[id] = row
        self.index.add([id])

    def remove(self, id: int) -> None:
        self.index.remove([id])

    def search(self, queries: np.ndarray) -> list[int]:
        found: list[int] = self.index.search(queries, K)[0][0].tolist()
        return found


def table(
    peers: list[Peer], collection: Any, space: Any, data: VectorSet, steps: int
) -> list[dict[str, object]]:
    """Put every library, our index and the embedded store through the same changes."""
    unders: list[Under] = [PeerChurn(peer, data) for peer in peers]
    unders += [IndexChurn(data), StoreChurn(collection, space)]
    return [_run(under, data, steps) for under in unders]


def _run(under: Under, data: VectorSet, steps: int) -> dict[str, object]:
    gone = np.random.default_rng(13).permutation(len(data.rows))[: steps * EACH]
    adding, removing, asking = [], [], []
    found: list[list[int]] = []
    for step in range(steps):
        part = range(step * EACH, (step + 1) * EACH)
        adding += [_timed(lambda i=i: under.add(len(data.rows) + i, data.later[i])) for i in part]
        removing += [_timed(lambda i=i: under.remove(int(gone[i]))) for i in part]
        for i in part:
            query = data.queries[i % len(data.queries)][None]
            asking.append(_timed(lambda query=query: found.append(under.search(query))))
    answers = [under.search(query[None]) for query in data.queries[:500]]
    alive = np.ones(len(data.rows) + steps * EACH, np.bool_)
    alive[gone] = False
    slots = np.flatnonzero(alive)
    everything = np.concatenate((data.rows, data.later[: steps * EACH]))
    truth = slots[nearest(everything[slots], data.queries[:500], K)]
    short = sum(len(answer) < K for answer in answers)
    padded = np.array([answer + [-1] * (K - len(answer)) for answer in answers])
    return {
        "library": under.name,
        "adds": "yes" if under.added else "no: compared beside it",
        "removes": "yes" if under.removed else "no: left out of answers",
        "add_us": median(adding),
        "remove_us": median(removing),
        "search_us": median(asking),
        "recall": recall(padded, truth),
        "short": short,
        "removed_found": int((~alive[padded[padded >= 0]]).sum()),
    }


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def text(rows: list[dict[str, Any]]) -> str:
    """Return the table."""

    def cells() -> Iterator[list[object]]:
        for row in rows:
            yield [
                row["library"],
                row["adds"],
                row["removes"],
                *(f"{row[key]:.0f}" for key in ("add_us", "remove_us", "search_us")),
                f"{row['recall']:.3f}",
                row["removed_found"],
                row["short"],
            ]

    return markdown_table(
        [
            "library",
            "adds",
            "removes",
            "add, us",
            "remove, us",
            "query, us",
            "recall@10 afterwards",
            "removed but found",
            "short answers",
        ],
        list(cells()),
    )
