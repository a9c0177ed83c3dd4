"""Collections in PostgreSQL beside the same questions asked by hand with psycopg.

    python -m benchmarks.similarity.postgres            # 100,000 vectors of 256 dimensions
    python -m benchmarks.similarity.postgres --quick    # 5,000

Both sides use one server, one table and one index. The data are loaded and indexed first; `--home`
keeps them for another run. Sides take turns; a figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.common.machine import machine_facts
from benchmarks.common.postgres import PostgresServer
from benchmarks.common.results import write_result
from benchmarks.engine.priority import realtime
from benchmarks.similarity.postgres_report import report, targets_of, versions
from server.index.contract import CollectionSpec, Hit, NewItem, Query, Vectors
from server.index.filters import Compare
from server.index.postgres.space import PostgresSpace
from server.index.postgres.store import PostgresStore

DIM, K, BATCH, QUERIES, CLUSTERS = 256, 10, 100, 500, 1000
SPACE = "bench@1:0"
LOAD_BATCH = 1000
INDEX_LIMIT_S = 3600.0
SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "30min"}
SHARES = {"half": 2, "twentieth": 20, "thousandth": 1000}  # field -> one of so many passes


@dataclass(frozen=True)
class Side:
    """One way to ask, and what came of it."""

    answers: list[list[str]]
    per_second: float


def made_data(kind: str, count: int) -> tuple[Vectors, Vectors]:
    """Return unit rows to be stored (count, 256) and to be asked for (500, 256)."""
    random = np.random.default_rng(7)
    total = count + QUERIES
    rows = random.standard_normal((total, DIM), dtype=np.float32)
    if kind == "clustered":
        centres = random.standard_normal((CLUSTERS, DIM), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        rows = centres[random.integers(0, CLUSTERS, total)] + rows * np.float32(0.7 / DIM**0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:count], rows[count:]


def metadata(number: int) -> dict[str, int]:
    return {"n": number, **{name: number % share for name, share in SHARES.items()}}


def load(store: PostgresStore, kind: str, rows: Vectors) -> dict[str, float]:
    """Put everything in, and wait for the index or for the verdict that none is worth it."""
    collection = store.create(CollectionSpec(kind, "cosine"))
    start = time.perf_counter()
    for first in range(0, len(rows), LOAD_BATCH):
        part = rows[first : first + LOAD_BATCH]
        items = [NewItem(str(first + i), metadata(first + i)) for i in range(len(part))]
        collection.put(items, {SPACE: part})
    loaded = time.perf_counter()
    space = collection.space(SPACE, DIM)
    while "measured on" not in space.state().reason:
        if time.perf_counter() - loaded > INDEX_LIMIT_S:
            raise TimeoutError("no index within an hour")
        time.sleep(1)
    return {
        "load_s": round(loaded - start, 1),
        "index_s": round(time.perf_counter() - loaded, 1),
    }


class ByHand:
    """The statements that somebody would write who has the table, its index and psycopg."""

    def __init__(self, url: str, space: PostgresSpace, ef_search: int | None) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(f"SET search_path TO {space_schema(url)}, public")
        self._connection.execute("SET hnsw.iterative_scan = relaxed_order")
        if ef_search is not None:
            self._connection.execute(f"SET hnsw.ef_search = {ef_search}")
        # What an exact side is to be compared with must not use an index either.
        order = "embedding <=> %b::vector" if ef_search else "(embedding <=> %b::vector) + 0"
        number, items = space.number, space.place.collection
        self._one = f"SELECT id FROM vectors_{number} ORDER BY {order} LIMIT {K}"
        self._filtered = (
            f"SELECT v.id FROM vectors_{number} v JOIN items_{items} i ON i.id = v.id"
            f" WHERE i.metadata @> %s::jsonb ORDER BY v.{order.removeprefix('(')} LIMIT {K}"
            if ef_search
            else f"SELECT v.id FROM vectors_{number} v JOIN items_{items} i ON i.id = v.id"
            f" WHERE i.metadata @> %s::jsonb ORDER BY (v.embedding <=> %b::vector) + 0 LIMIT {K}"
        )

    def one(self, row: Vectors) -> list[str]:
        return [id for (id,) in self._connection.execute(self._one, (as_text(row),)).fetchall()]

    def batch(self, rows: Vectors) -> list[list[str]]:
        with self._connection.pipeline():
            cursors = [self._connection.execute(self._one, (as_text(row),)) for row in rows]
            return [[id for (id,) in cursor.fetchall()] for cursor in cursors]

    def filtered(self, row: Vectors, wanted: str) -> list[str]:
        rows = self._connection.execute(self._filtered, (wanted, as_text(row)))
        return [id for (id,) in rows.fetchall()]

    def close(self) -> None:
        self._connection.close()


def space_schema(url: str) -> str:
    return "millrace" if "schema=" not in url else url.split("schema=")[1].split("&")[0]


def as_text(row: Vectors) -> str:
    """Return a vector as pgvector's manual writes it."""
    return "[" + ",".join(map(str, row.tolist())) + "]"


def ids_of(found: Sequence[Sequence[Hit]]) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in found]


def recall(answers: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    wanted = sum(len(ids) for ids in truth)
    hits = sum(len(set(a) & set(b)) for a, b in zip(answers, truth, strict=True))
    return hits / max(1, wanted)


def truth_of(rows: Vectors, queries: Vectors, every: int = 1) -> list[list[str]]:
    """Return the nearest among the rows whose number is a multiple of `every`."""
    kept = rows[::every]
    order = np.argsort(-(queries @ kept.T), axis=1)[:, :K] * every
    return [[str(i) for i in row] for row in order]


def in_turns(
    sides: dict[str, Callable[[], list[list[str]]]], queries: int, rounds: int
) -> dict[str, Side]:
    """Run each side once a round; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, list[list[str]]] = {}
    for turn in range(rounds + 1):
        for name, ask in sides.items():
            before = time.perf_counter()
            answers[name] = ask()
            if turn:
                seconds[name].append(time.perf_counter() - before)
    return {name: Side(answers[name], queries / statistics.median(seconds[name])) for name in sides}


def measure(
    store: PostgresStore, url: str, kind: str, rows: Vectors, queries: Vectors, rounds: int
) -> dict[str, Any]:
    """Return all figures of one data set."""
    collection = store.open(kind)
    space = collection.space(SPACE, DIM)
    state = space.state()
    approximate = state.kind == "approximate"
    single = queries[: 100 if approximate else 10]
    many = queries[: 500 if approximate else 20]
    hand = ByHand(url, space, space.state().parameters.get("ef_search"))
    truth = truth_of(rows, queries)
    ask = Query(k=K)
    one = in_turns(
        {
            "ours": lambda: [ids_of(space.search(row[None], ask))[0] for row in single],
            "by hand": lambda: [hand.one(row) for row in single],
        },
        len(single),
        rounds,
    )
    parts = [many[first : first + BATCH] for first in range(0, len(many), BATCH)]
    batches = in_turns(
        {
            "ours": lambda: [ids for part in parts for ids in ids_of(space.search(part, ask))],
            "by hand": lambda: [ids for part in parts for ids in hand.batch(part)],
        },
        len(many),
        rounds,
    )
    filters = {
        name: _filtered(space, hand, rows, single[:50], name, every, rounds)
        for name, every in SHARES.items()
    }
    writing = _while_writing(store, kind, single, truth, rows)
    hand.close()
    return {
        "kind": state.kind,
        "reason": state.reason,
        "bytes": state.bytes,
        "one": _summary(one, truth),
        "batches": _summary(batches, truth),
        "filters": filters,
        "while_writing": writing,
    }


def _summary(sides: dict[str, Side], truth: list[list[str]]) -> dict[str, Any]:
    return {
        name: {
            "recall": round(recall(side.answers, truth[: len(side.answers)]), 4),
            "per_second": round(side.per_second, 1),
        }
        for name, side in sides.items()
    }


def _filtered(
    space: PostgresSpace,
    hand: ByHand,
    rows: Vectors,
    queries: Vectors,
    name: str,
    every: int,
    rounds: int,
) -> dict[str, Any]:
    truth = truth_of(rows, queries, every)
    ask = Query(k=K, filter=Compare((name,), "eq", 0))
    sides = in_turns(
        {
            "ours": lambda: [ids_of(space.search(row[None], ask))[0] for row in queries],
            "by hand": lambda: [hand.filtered(row, f'{{"{name}": 0}}') for row in queries],
        },
        len(queries),
        rounds,
    )
    short = {
        label: sum(len(a) < len(t) for a, t in zip(side.answers, truth, strict=True))
        for label, side in sides.items()
    }
    return {"passes": 1 / every, "short": short, **_summary(sides, truth)}


def _while_writing(
    store: PostgresStore, kind: str, queries: Vectors, truth: list[list[str]], rows: Vectors
) -> dict[str, Any]:
    """Search while items far away are added and deleted in turns by another thread."""
    collection = store.open(kind)
    space = collection.space(SPACE, DIM)
    stop, written = threading.Event(), [0]

    def write() -> None:
        turn = 0
        while not stop.is_set():
            ids = [f"extra {turn} {i}" for i in range(20)]
            far = -rows[turn * 20 % len(rows) :][:20]
            collection.put([NewItem(id) for id in ids[: len(far)]], {SPACE: far})
            collection.delete(ids)
            written[0] += 2 * len(far)
            turn += 1

    thread = threading.Thread(target=write)
    thread.start()
    before = time.perf_counter()
    answers = [ids_of(space.search(row[None], Query(k=K)))[0] for row in queries]
    seconds = time.perf_counter() - before
    stop.set()
    thread.join()
    return {
        "recall": round(recall(answers, truth[: len(answers)]), 4),
        "per_second": round(len(queries) / seconds, 1),
        "adds_and_deletes_per_second": round(written[0] / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5,000 vectors; writes no results")
    parser.add_argument("--home", type=Path, help="keep the data here, or use those that are here")
    parser.add_argument(
        "--only", choices=("clustered", "uniform"), help="one data set; writes no results"
    )
    parser.add_argument("--realtime", action="store_true", help="measure before all else")
    parser.add_argument("--load-only", action="store_true", help="load and index, measure later")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    count = 5_000 if arguments.quick else 100_000
    kinds = [arguments.only] if arguments.only else ["clustered", "uniform"]
    with tempfile.TemporaryDirectory(prefix="mr-bench-") as spare:
        Path(spare).chmod(0o755)  # the server may run under another account
        home = arguments.home or Path(spare) / "pg"
        run(home, count, kinds, arguments)


def run(home: Path, count: int, kinds: list[str], arguments: argparse.Namespace) -> None:
    data = {kind: made_data(kind, count) for kind in kinds}
    options = f"&index_from={2000 if arguments.quick else 20000}&statement_timeout_s=600"
    loads: dict[str, dict[str, float]] = {}
    with PostgresServer(home=home, durable=True, options=SERVER) as server:
        store = PostgresStore(server.url() + options)
        for kind in kinds:
            if kind not in store.names():
                store.create(CollectionSpec(f"load-of-{kind}")).set_fact(
                    "times", json.dumps(load(store, kind, data[kind][0]))
                )
            loads[kind] = json.loads(store.open(f"load-of-{kind}").fact("times") or "{}")
        store.close()
    if arguments.load_only:
        print(loads)
        return
    with (
        realtime(arguments.realtime),
        PostgresServer(home=home, durable=True, options=SERVER) as server,
    ):
        store = PostgresStore(server.url() + options)
        figures = {
            kind: loads[kind]
            | measure(store, server.url(), kind, *data[kind], rounds=arguments.rounds)
            for kind in kinds
        }
        facts = machine_facts("psycopg") | versions(server.url())
        store.close()
    text = report(facts, count, DIM, K, BATCH, figures)
    print(text)
    if not arguments.quick and not arguments.only:
        targets = [t for kind, found in figures.items() for t in targets_of(kind, found)]
        write_result("similarity-postgres", facts, targets, figures, text)


if __name__ == "__main__":
    main()
