"""Processes that write together, that are killed, and a server that restarts under them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from psycopg import sql

from benchmarks.common.postgres import PostgresServer
from server.errors import StoreUnavailable
from server.index.contract import Collection, CollectionSpec, NewItem, Query, Store
from server.index.postgres import open_store
from server.index.postgres.store import PostgresStore
from tests.server.index.postgres.writer import (
    DIM,
    SPACES,
    ids_of,
    picture_of,
    vector_of,
)
from tests.waiting import wait_until

NAME, VICTIM = "shared", "victim"


@pytest.fixture
def shared(store: PostgresStore) -> Collection:
    collection = store.create(CollectionSpec(NAME, "l2"))
    for key in SPACES:
        collection.space(key, DIM)
    return collection


class Writer:
    """The process that forks writers, and what they said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def go(self, seed: int) -> None:
        self._tell(f"go {seed}")

    def until(self, line: str) -> None:
        for each in self._out:
            if each.strip() == line:
                return
        raise AssertionError(f"the writer ended before it said {line!r}")

    def kill(self) -> tuple[int, int]:
        """Return the last turn that had begun, and the last that was done."""
        self._tell("kill")
        begun = done = 0
        for line in self._out:
            word, *turn = line.split()
            if word == "dead":
                return begun, done
            begun = int(turn[0]) if word == "begins" else begun
            done = int(turn[0]) if word == "done" else done
        raise AssertionError("the writer ended by itself")

    def _tell(self, line: str) -> None:
        self._in.write(line + "\n")
        self._in.flush()


@contextmanager
def writer(url: str) -> Iterator[Writer]:
    command = [sys.executable, "-m", "tests.server.index.postgres.writer", url, NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield Writer(process)
        finally:
            process.kill()


def turns_there(collection: Collection, seed: int) -> set[int]:
    """Return the turns of which items are there, having checked that each is whole."""
    ids = ids_of(seed)
    items, pictures = collection.get(ids), collection.pictures(ids)
    rows = {key: collection.space(key, DIM).vectors(ids) for key in SPACES}
    turns = set()
    for place, (id, item) in enumerate(zip(ids, items, strict=True)):
        if item is None:
            assert pictures[place] is None and all(rows[key][place] is None for key in SPACES)
            turns.add(0)
            continue
        turn = item.metadata["turn"]
        assert pictures[place] == picture_of(id, turn)
        for key in SPACES:
            row = rows[key][place]
            assert row is not None and np.array_equal(row, vector_of(id, turn))
        turns.add(turn)
    return turns


def wait_until_gone(store: PostgresStore) -> None:
    """Wait until the server has done with the call of a client that is dead already."""
    query = sql.SQL("SELECT FROM pg_stat_activity WHERE application_name = %s")
    wait_until(lambda: not store._database.rows(query, (VICTIM,)))


@pytest.mark.parametrize(
    "kills", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_killed_writer_loses_nothing_and_leaves_no_half(
    store: PostgresStore, shared: Collection, url: str, kills: int
) -> None:
    random = np.random.default_rng(0)
    met = 0
    with writer(f"{url}&application_name={VICTIM}") as process:
        for seed in range(kills):
            process.go(seed)
            first = int(random.integers(1, 6))
            process.until(f"begins {first}")
            time.sleep(random.uniform(0, 0.01))
            begun, done = process.kill()
            begun, done = max(begun, first), max(done, first - 1)
            wait_until_gone(store)
            (there,) = turns_there(shared, seed)  # one turn only: all of a call, or none of it
            assert there in {0 if turn % 4 == 0 else turn for turn in (done, begun)}
            met += begun > done
    assert met >= kills // 5  # that many at least were killed within a call


def test_processes_write_and_search_together(shared: Collection, url: str) -> None:
    """Two other processes write the same items while this one searches."""
    with writer(url) as one, writer(url) as two:
        one.go(7)
        two.go(7)
        one.until("begins 1")
        two.until("begins 1")
        space = shared.space("one", DIM)
        seen = []
        while len(seen) < 60:
            (hits,) = space.search(np.ones((1, DIM), np.float32), Query(k=20))
            assert {hit.id for hit in hits} in (set(), set(ids_of(7)))
            seen.append(len(hits))
        one.until("done 8")
        two.until("done 8")
        one.kill()
        two.kill()
    assert len(turns_there(shared, 7)) == 1
    assert shared.size().items in (0, len(ids_of(7)))


def test_a_restart_under_load_loses_nothing(
    postgres: PostgresServer, shared: Collection, url: str
) -> None:
    stop = threading.Event()
    acknowledged: list[str] = []
    searches, failures = [0], []

    def put(number: int) -> None:
        turn = 0
        while not stop.is_set():
            id = f"{number}-{turn}"
            shared.put([NewItem(id, {}, b"p")], {"one": vector_of(id, 0)[np.newaxis]})
            acknowledged.append(id)
            turn += 1

    def search() -> None:
        space = shared.space("one", DIM)
        while not stop.is_set():
            space.search(np.ones((2, DIM), np.float32), Query(k=3))
            searches[0] += 1

    def watched(work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except Exception as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=watched, args=(put, n)) for n in range(2)]
    threads += [threading.Thread(target=watched, args=(search,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for hard in (False, True):
        _wait_for_progress(acknowledged, searches, stop)
        postgres.stop(hard=hard)
        postgres.start()
    _wait_for_progress(acknowledged, searches, stop)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(item is not None for item in shared.get(acknowledged))
    found = shared.space("one", DIM).vectors(acknowledged)
    assert all(
        row is not None and np.array_equal(row, vector_of(id, 0))
        for id, row in zip(acknowledged, found, strict=True)
    )


def _wait_for_progress(acknowledged: list[str], searches: list[int], stop: threading.Event) -> None:
    puts, asked = len(acknowledged) + 5, searches[0] + 5
    wait_until(lambda: stop.is_set() or (len(acknowledged) >= puts and searches[0] >= asked))


def test_a_server_that_stays_away_is_given_up(postgres: PostgresServer, url: str) -> None:
    store = open_store(url.replace("patience_s=60", "patience_s=0.2"))
    collection = store.create(CollectionSpec("a"))
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            collection.put([NewItem("x")])
        with pytest.raises(StoreUnavailable), collection.busy("x", 0):
            pass
        with pytest.raises(StoreUnavailable), store.snapshot("a"):
            pass
    finally:
        postgres.start()
    wait_until(lambda: answers(store))
    assert collection.put([NewItem("x")]).added == 1  # and is found again when it is back
    store.close()


def answers(store: Store) -> bool:
    try:
        return store.names() == ["a"]
    except StoreUnavailable:  # a busy machine may take longer to connect than it is waited for
        return False
