"""Vector search beside the libraries it could be made of, in one run.

    python -m benchmarks.similarity.vectors [--quick] [--realtime]

100,000 vectors of 256 numbers, k = 10, one thread. Contenders take turns, a round is a few hundred
queries of each; what is reported is the median over all rounds. "ours" is the whole embedded store:
a search of a collection, answered with ids.
"""

from __future__ import annotations

import os

os.environ.pop("OPENBLAS_CORETYPE", None)  # it would choose kernels for another processor
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import (
    Target,
    at_least,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.engine.priority import realtime
from benchmarks.similarity import vectors_churn, vectors_peers
from benchmarks.similarity.data import VectorSet, nearest, recall, vector_set
from benchmarks.similarity.vectors_peers import Peer
from server.index.contract import Collection, CollectionSpec, NewItem, Query, Space
from server.index.embedded import open_store
from server.index.filter_reading import read_filter

K, BATCH = 10, 100
SPACE = "vectors"
WANTED = 0.985  # a peer's setting is the first that reaches it, as ours is
SHARES = (0.5, 0.05, 0.001)  # that filters pass


@dataclass
class Contender:
    """Something that searches, and how long it took each time."""

    name: str
    search: Callable[[np.ndarray], object]
    one_us: list[float] = field(default_factory=list)
    batch_us: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return median(self.one_us)

    @property
    def batch_rate(self) -> float:
        return BATCH / median(self.batch_us) * 1e6


def take_turns(
    contenders: list[Contender], queries: np.ndarray, rounds: int, singles: int, batches: int
) -> None:
    """Time every contender, a little of each in turn."""
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            contender.search(queries[:1])
            for at in range(singles):
                row = (turn * singles + at) % len(queries)
                contender.one_us.append(_microseconds(contender.search, queries[row : row + 1]))
            for at in range(batches):
                start = (turn * batches + at) * BATCH % (len(queries) - BATCH + 1)
                part = queries[start : start + BATCH]
                contender.batch_us.append(_microseconds(contender.search, part))


def _microseconds(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    began = time.perf_counter()
    search(queries)
    return (time.perf_counter() - began) * 1e6


@contextmanager
def collection_of(data: VectorSet, folder: Path, name: str) -> Iterator[tuple[Collection, Space]]:
    """Give a collection that holds the rows; their metadata has a number for filters."""
    store = open_store(folder)
    collection = store.create(CollectionSpec(name, "cosine", dim=data.rows.shape[1]))
    space = collection.space(SPACE, data.rows.shape[1])
    draws = np.random.default_rng(11).random(len(data.rows))
    for first in range(0, len(data.rows), 5000):
        part = range(first, min(first + 5000, len(data.rows)))
        items = [NewItem(str(row), {"draw": float(draws[row])}) for row in part]
        collection.put(items, {SPACE: data.rows[part.start : part.stop]})
    settle = getattr(space, "settle")  # noqa: B009 - the embedded store's, not every store's
    if not settle(900):
        raise SystemExit("the index was not ready after 15 minutes")
    try:
        yield collection, space
    finally:
        store.close()


def ids_of(space: Space, queries: np.ndarray, query: Query) -> np.ndarray:
    """Return the ids (m, k) of a search as numbers."""
    return np.array([[int(hit.id) for hit in row] for row in space.search(queries, query)])


def clustered(data: VectorSet, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Compare with every library; filters; additions and removals."""
    truth = nearest(data.rows, data.queries, K)
    with collection_of(data, folder, "clustered") as (collection, space):
        state = space.state()
        index = space.held().index  # type: ignore[attr-defined] # the embedded store's
        say(f"clustered: {state.reason}")
        lists = int(state.parameters.get("lists", 1000))
        peers = list(built_peers(data, lists, args.realtime))
        direct = peers[0]
        rows = [tuned(peer, data, truth) for peer in peers]
        plain = Query(k=K)
        ours = Contender("ours, with ids", lambda q: space.search(q, plain))
        layer = Contender("ours, with slots", lambda q: index.search(q, K))
        same = Contender("faiss used directly, same parameters", _same(direct, state))
        others = [Contender(peer.name, _searching(peer)) for peer in peers]
        say("measuring")
        with realtime(args.realtime):
            take_turns(
                [ours, layer, same, *others], data.queries, args.rounds, args.singles, args.batches
            )
        say("measured")
        found = ids_of(space, data.queries, plain)
        with realtime(args.realtime):
            filtered = filters(space, data)
        for row, contender in zip(rows, others, strict=True):
            row |= {"one_us": contender.p50, "batch_rate": contender.batch_rate}
        with realtime(args.realtime):
            churn = vectors_churn.table(peers, collection, space, data, args.churn)
        return {
            "state": {"kind": state.kind, "reason": state.reason},
            "recall": recall(found, truth),
            "ours": {"one_us": ours.p50, "batch_rate": ours.batch_rate},
            "layer": {"one_us": layer.p50, "batch_rate": layer.batch_rate},
            "same": {"one_us": same.p50, "batch_rate": same.batch_rate},
            "peers": rows,
            "filters": filtered,
            "churn": churn,
        }


def built_peers(data: VectorSet, lists: int, first: bool) -> Iterator[Peer]:
    """Build every library's index, one after the other, and `first` before all else."""
    makers: tuple[Callable[[], Peer], ...] = (
        lambda: vectors_peers.faiss_inverted(data.rows, lists),
        lambda: vectors_peers.faiss_graph(data.rows),
        lambda: vectors_peers.hnswlib_graph(data.rows),
        lambda: vectors_peers.usearch_graph(data.rows),
        lambda: vectors_peers.annoy_trees(data.rows),
    )
    for make in makers:
        with realtime(first):
            began = time.perf_counter()
            peer = make()
            peer.build_s = time.perf_counter() - began
        say(f"built {peer.name} in {peer.build_s:.1f} s")
        yield peer


def tuned(peer: Peer, data: VectorSet, truth: np.ndarray) -> dict[str, object]:
    """Set the peer to the first setting that finds enough, and describe it."""
    reached = 0.0
    for setting in peer.settings:
        peer.use(setting)
        reached = recall(peer.search(data.queries, K), truth)
        if reached >= WANTED:
            break
    return {
        "library": peer.name,
        "version": peer.version,
        "build_s": peer.build_s,
        "setting": peer.setting,
        "recall": reached,
    }


def _searching(peer: Peer) -> Callable[[np.ndarray], object]:
    return lambda queries: peer.search(queries, K)


def _same(direct: Peer, state: object) -> Callable[[np.ndarray], object]:
    """Search the direct index with as many lists as ours reads."""
    probes = state.parameters.get("probes", {}).get(K, 1)  # type: ignore[attr-defined]

    def search(queries: np.ndarray) -> object:
        if direct.setting != probes:
            direct.use(probes)
        return direct.search(queries, K)

    return search


def filters(space: Space, data: VectorSet) -> list[dict[str, object]]:
    """Search under filters that pass less and less."""
    draws = np.random.default_rng(11).random(len(data.rows))
    queries = data.queries[:200]
    table = []
    for share in SHARES:
        passing = np.flatnonzero(draws < share)
        truth = passing[nearest(data.rows[passing], queries, K)]
        query = Query(k=K, filter=read_filter({"draw": {"$lt": share}}))
        found = space.search(queries, query)
        search = partial(space.search, query=query)
        times = [_microseconds(search, row[None]) for row in queries[:100]]
        whole = all(len(row) == min(K, len(passing)) for row in found)
        hits = np.array([[int(hit.id) for hit in row] for row in found])
        table.append(
            {
                "share": share,
                "matches": len(passing),
                "recall": recall(hits, truth),
                "complete": whole,
                "one_us": median(times),
            }
        )
    return table


def uniform(data: VectorSet, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Compare the automatic choice with a plain scan in numpy."""
    with collection_of(data, folder, "uniform") as (_, space):
        state = space.state()
        say(f"uniform: {state.reason}")
        plain = Query(k=K)
        ours = Contender("ours, with ids", lambda q: space.search(q, plain))
        rows = data.rows

        def scan(queries: np.ndarray) -> object:
            scores = queries @ rows.T
            return np.argpartition(-scores, K, axis=1)[:, :K]

        flat = Contender("numpy", scan)
        say("measuring")
        with realtime(args.realtime):
            take_turns([ours, flat], data.queries, args.rounds, max(2, args.singles // 20), 1)
        say("measured")
        truth = nearest(rows, data.queries[:200], K)
        return {
            "state": {"kind": state.kind, "reason": state.reason},
            "recall": recall(ids_of(space, data.queries[:200], plain), truth),
            "ours": {"one_us": ours.p50, "batch_rate": ours.batch_rate},
            "numpy": {"one_us": flat.p50, "batch_rate": flat.batch_rate},
        }


def targets_of(near: dict, far: dict) -> list[Target]:
    """Hold the figures against what was promised."""
    ours, same = near["ours"], near["same"]
    scan = far["numpy"]
    return [
        at_least("clustered: recall@10", near["recall"], 0.95),
        at_least(
            "clustered, batches of 100: rate of faiss used directly at the same parameters",
            near["layer"]["batch_rate"] / same["batch_rate"],
            0.9,
        ),
        at_least(
            "the same by the whole store, which answers with ids in objects of Python",
            ours["batch_rate"] / same["batch_rate"],
            0.9,
        ),
        at_most(
            "clustered, one query a call: microseconds added by the whole store at the median",
            ours["one_us"] - same["one_us"],
            15,
        ),
        at_least("uniform: 1 where exact search was chosen", far["state"]["kind"] == "exact", 1),
        at_least(
            "uniform, batches of 100: rate of a flat scan in numpy",
            far["ours"]["batch_rate"] / scan["batch_rate"],
            0.9,
        ),
        at_least(
            "uniform, one query a call: rate of a flat scan in numpy",
            scan["one_us"] / far["ours"]["one_us"],
            0.9,
        ),
        *(
            at_least(f"filter that passes {row['share']:.1%}: recall@10", row["recall"], 0.95)
            for row in near["filters"]
        ),
        at_least(
            "filters: 1 where every answer has min(k, matches) hits",
            all(row["complete"] for row in near["filters"]),
            1,
        ),
    ]


def text_of(near: dict, far: dict, targets: list[Target], facts: dict, args: object) -> str:
    """Write it down for people."""
    rows = [
        [
            row["library"],
            row["version"],
            f"{row['build_s']:.1f}",
            row["setting"],
            f"{row['recall']:.3f}",
            f"{row['one_us']:.0f}",
            f"{row['batch_rate']:,.0f}",
        ]
        for row in near["peers"]
    ]
    for name, key in (
        ("ours: the whole store, with ids", "ours"),
        ("ours: the index, with slots", "layer"),
        ("faiss, inverted lists, at our parameters", "same"),
    ):
        timing = near[key]
        rows.append(
            [name, "", "", "", "", f"{timing['one_us']:.0f}", f"{timing['batch_rate']:,.0f}"]
        )
    filtered = [
        [f"{r['share']:.1%}", r["matches"], f"{r['recall']:.3f}", f"{r['one_us']:.0f}"]
        for r in near["filters"]
    ]
    flat = [
        [name, f"{far[key]['one_us']:.0f}", f"{far[key]['batch_rate']:,.0f}"]
        for name, key in (("ours", "ours"), ("flat scan in numpy", "numpy"))
    ]
    return "\n".join(
        [
            "# Vector search beside the libraries it could be made of\n",
            f"`python -m benchmarks.similarity.vectors` on {facts['cpu']}; {args}; one thread.\n",
            targets_table(targets),
            f"\n## Clustered\n\n{near['state']['reason']}; recall@10 {near['recall']:.3f} on "
            "queries of their own. A library's setting (lists read, or effort) is the first that "
            f"reaches {WANTED}.\n",
            markdown_table(
                [
                    "library",
                    "version",
                    "build s",
                    "setting",
                    "recall@10",
                    "one query, us",
                    "q/s of 100",
                ],
                rows,
            ),
            "\n### Additions and removals in progress\n\n" + vectors_churn.text(near["churn"]),
            "\n### Filters\n",
            markdown_table(["passes", "matches", "recall@10", "one query, us"], filtered),
            f"\n## Uniform\n\n{far['state']['reason']}\n",
            markdown_table(["", "one query, us", "q/s of 100"], flat),
        ]
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer vectors; writes no results")
    parser.add_argument("--realtime", action="store_true", help="measure before all else")
    arguments = parser.parse_args()
    quick = arguments.quick
    count = 12_000 if quick else 100_000
    args = argparse.Namespace(
        rounds=3 if quick else 12,
        singles=100,
        batches=2 if quick else 4,
        churn=10 if quick else 50,
        realtime=arguments.realtime,
    )
    shape = f"{count:,} vectors of 256 numbers, k = {K}"
    with tempfile.TemporaryDirectory() as folder:
        near = clustered(vector_set("clustered", count, 256, 1000, 5000), Path(folder, "a"), args)
        far = uniform(vector_set("uniform", count, 256, 1000, 0), Path(folder, "b"), args)
    targets = targets_of(near, far)
    facts = machine_facts("faiss-cpu", "usearch", "hnswlib", "annoy")
    text = text_of(near, far, targets, facts, shape)
    print(text)
    if not quick:
        write_result(
            "similarity-vectors", facts, targets, {"clustered": near, "uniform": far}, text
        )


if __name__ == "__main__":
    main()
