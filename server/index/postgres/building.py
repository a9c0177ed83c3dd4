"""Indexes are built beside the searches, by one server at a time, and tuned on a sample."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import errors, sql

from server.index.contract import Vectors
from server.index.postgres.binary import decoded_rows
from server.index.postgres.database import Connection, Database, close
from server.index.postgres.failures import first_line
from server.index.postgres.judging import (
    LADDER,
    Judgement,
    Trial,
    good_enough,
    next_step,
    verdict_on,
)
from server.index.postgres.locks import Locks
from server.index.postgres.place import Place
from server.index.postgres.searching import Found, Request, search, share_found

log = logging.getLogger(__name__)

SETTLE_S = 5.0  # a bulk load that goes on is waited for: building at once is quicker than adding
AGAIN_S = 60.0  # until the next look where one failed
LOOK_AFTER_SHARE = 0.1
STOP_LIMIT_S = 30.0
NEAREST = 10
SAMPLE = 128
SHIFT = 0.35  # of the difference of two neighbours, by which a sampled vector becomes a query
BUILD_MEMORY_KB = (65_536, 2_097_152)  # at least, at most
BYTES_BESIDE_VECTOR = 400  # of a vector's links in the index, about


@dataclass
class _Watched:
    written: int = 1  # so that it is looked at once in any case
    vectors: int = 0  # when it was last looked at
    touched: float = 0.0

    def due(self, now: float, index_from: int) -> bool:
        """Whether it changed enough, and has come to rest or grown much."""
        if self.written < max(1, LOOK_AFTER_SHARE * self.vectors):
            return False
        return now - self.touched >= SETTLE_S or self.written >= 10 * index_from


class Builder:
    """A thread that looks after the indexes of the spaces that this server writes to."""

    def __init__(self, database: Database) -> None:
        self.locks = Locks(database)
        self._database = database
        self._changed = threading.Condition()
        self._watched: dict[Place, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._closed = False

    def consider(self, place: Place, rows: int = 0) -> None:
        """Take note of a space, and of vectors that were written to it."""
        if not place.can_be_indexed:
            return
        with self._changed:
            if self._closed:
                return
            watched = self._watched.setdefault(place, _Watched())
            watched.written += rows
            watched.touched = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="indexes", daemon=True)
                self._thread.start()
            self._changed.notify()

    def cancel(self, space: int) -> None:
        """Stop whoever builds an index of a space."""
        self._database.execute(
            sql.SQL(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index"
                " WHERE relid = to_regclass(%s)"
            ),
            (f"vectors_{space}",),
        )

    def close(self) -> None:
        """Stop; an index that is half built is begun anew by whoever comes next."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            connection, thread = self._connection, self._thread
        if connection is not None:
            try:
                connection.cancel_safe(timeout=STOP_LIMIT_S)
            except psycopg.Error as error:
                log.warning("the building of an index could not be stopped: %s", error)
        if thread is not None:
            thread.join(STOP_LIMIT_S)

    def _work(self) -> None:
        while (place := self._next()) is not None:
            try:
                done = self.attend(place)
            except psycopg.Error as error:
                done = False
                if not self._closed:
                    log.warning("the index of space %r was given up: %s", place.key, error)
            except Exception:  # the other spaces are not to suffer from it
                done = False
                log.exception("the index of space %r was given up", place.key)
            if not done:
                self._look_again(place)

    def _look_again(self, place: Place) -> None:
        """Come back to a space in a while: whoever is at its index now may be killed."""
        with self._changed:
            watched = self._watched.setdefault(place, _Watched())
            watched.written, watched.vectors = max(watched.written, 1), 0
            watched.touched = time.monotonic() + AGAIN_S

    def _next(self) -> Place | None:
        """Wait for a space that calls for a look; None when closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                index_from = self._database.options.index_from
                for place, watched in self._watched.items():
                    if watched.due(now, index_from):
                        watched.written = 0
                        return place
                waiting = any(w.written for w in self._watched.values())
                self._changed.wait(SETTLE_S / 4 if waiting else None)
            return None

    def attend(self, place: Place) -> bool:
        """Build or tune the index of a space, if it calls for it; False if another server is at it.

        Raises:
            psycopg.Error: as PostgreSQL puts it; what was begun is done anew the next time.
        """
        connection = self._database.connect(statement_timeout=False)
        with self._changed:
            if self._closed:
                close(connection)
                return True
            self._connection = connection
        try:
            if not self.locks.take(connection, f"index of {place.number}"):
                return False
            self._look(connection, place)
            return True
        finally:
            with self._changed:
                self._connection = None
            close(connection)

    def _look(self, connection: Connection, place: Place) -> None:
        judgement = read_judgement(connection, place)
        if judgement is None:
            with self._changed:
                self._watched.pop(place, None)
            return
        vectors = count(connection, place)
        with self._changed:
            self._watched.setdefault(place, _Watched(written=0)).vectors = vectors
        step = next_step(judgement, vectors, self._database.options.index_from)
        if step == "build" and not build(connection, place, vectors):
            return
        if step != "nothing":
            tune(connection, place, vectors)


def count(connection: Connection, place: Place) -> int:
    """Count the vectors of a space."""
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(place.vectors)).fetchone()
    return int(row[0]) if row else 0


def build(connection: Connection, place: Place, vectors: int) -> bool:
    """Build the index while others read and write; False if it cannot hold these vectors."""
    low, high = BUILD_MEMORY_KB
    memory = vectors * (4 * place.dim + BYTES_BESIDE_VECTOR) * 5 // 4 // 1024
    connection.execute(
        "SELECT set_config('maintenance_work_mem', %s, false)", (str(min(max(memory, low), high)),)
    )
    # One that is there is broken: whoever built it was stopped.
    connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(place.index))
    create = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} USING hnsw (({}) {})").format(
        place.index, place.vectors, place.indexed(sql.SQL("embedding")), place.operator_class
    )
    try:
        connection.execute(create)
    except errors.DataError as error:  # numbers beyond those of float16
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(place.index))
        verdict = f"an index cannot hold these vectors: {first_line(error)}"
        store_verdict(connection, place, vectors, None, None, verdict)
        return False
    connection.execute(sql.SQL("ANALYZE {}, {}").format(place.vectors, place.items))
    return True


def tune(connection: Connection, place: Place, vectors: int) -> None:
    """Find the least effort that finds enough; without one, the index goes."""
    queries = sample_queries(connection, place)
    if not len(queries):
        return
    truth, exact_seconds = timed_search(connection, place, queries, None)
    trials: list[Trial] = []
    for ef_search in LADDER:
        found, seconds = timed_search(connection, place, queries, ef_search)
        trials.append(Trial(ef_search, share_found(found, truth), seconds))
        if good_enough(trials[-1]):
            break
    ef_search_found, recall, verdict = verdict_on(trials, exact_seconds, vectors)
    if ef_search_found is None:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(place.index))
    store_verdict(connection, place, vectors, ef_search_found, recall, verdict)


def store_verdict(
    connection: Connection,
    place: Place,
    vectors: int,
    ef_search: int | None,
    recall: float | None,
    verdict: str,
) -> None:
    """Keep what was found out about a space's index for all servers to see."""
    connection.execute(
        "UPDATE spaces SET ef_search = %s, verdict = %s, judged_at = %s, recall = %s "
        "WHERE number = %s",
        (ef_search, verdict, vectors, recall, place.number),
    )
    log.info("space %r: %s", place.key, verdict)


def timed_search(
    connection: Connection, place: Place, queries: Vectors, ef_search: int | None
) -> tuple[list[Found], float]:
    """Search one by one; return the answers and the seconds of a query in the middle."""
    request = Request(place, NEAREST, ef_search=ef_search)
    found: list[Found] = []
    seconds: list[float] = []
    for row in queries:
        before = time.perf_counter()
        found += search(connection, request, row[np.newaxis], 0)
        seconds.append(time.perf_counter() - before)
    return found, float(np.median(seconds))


def sample_queries(connection: Connection, place: Place) -> Vectors:
    """Return vectors (n, dim) like those of the space, but none of them.

    A vector that the index holds is found more easily than a new one. So each is shifted by a
    part of the difference of two of its neighbours, which is how vectors differ thereabouts.
    """
    rows = connection.execute(
        sql.SQL("SELECT embedding FROM {} ORDER BY hashtextextended(id, 1) LIMIT %s").format(
            place.vectors
        ),
        (SAMPLE,),
        binary=True,
    ).fetchall()
    base = decoded_rows([raw for (raw,) in rows], place.dim)
    around, _ = timed_search(connection, place, base, None)
    shifted = [
        row + SHIFT * (one - other)
        for row, near in zip(base, around, strict=True)
        for one, other in [_vectors_of(connection, place, near)]
    ]
    return np.array(shifted, dtype=np.float32).reshape(len(shifted), place.dim)


def _vectors_of(connection: Connection, place: Place, near: Found) -> Vectors:
    """Return the vectors of the middle and of the last of some neighbours."""
    ids = [near[len(near) // 2][0], near[-1][0]]
    rows = connection.execute(
        sql.SQL("SELECT id, embedding FROM {} WHERE id = ANY(%s)").format(place.vectors),
        (ids,),
        binary=True,
    ).fetchall()
    raw = [row[1] for row in rows]
    return decoded_rows((raw * 2)[:2], place.dim)


def read_judgement(connection: Connection, place: Place) -> Judgement | None:
    """Read what is known of a space's index; None where the space is gone."""
    row = connection.execute(
        "SELECT greatest(c.reltuples, s.judged_at, 0)::bigint, x.indisvalid, s.ef_search,"
        " s.verdict, coalesce(s.judged_at, 0), s.recall,"
        " p.blocks_done::float8 / nullif(p.blocks_total, 0), p.pid"
        " FROM spaces s JOIN pg_class c ON c.oid = to_regclass(%s)"
        " LEFT JOIN pg_index x ON x.indexrelid = to_regclass(%s)"
        " LEFT JOIN pg_stat_progress_create_index p ON p.relid = c.oid"
        " WHERE s.number = %s",
        (f"vectors_{place.number}", place.index_name, place.number),
    ).fetchone()
    if row is None:
        return None
    vectors, valid, ef_search, verdict, judged_at, recall, share, builder = row
    return Judgement(
        vectors=vectors,
        index="none" if valid is None else "valid" if valid else "broken",
        tuned_to=ef_search,
        verdict=verdict,
        judged_at=judged_at,
        recall=recall,
        building=None if builder is None else share or 0.0,
    )


def store_recall(connection: Connection, place: Place, recall: float) -> None:
    """Keep a measured recall for all servers to see."""
    connection.execute("UPDATE spaces SET recall = %s WHERE number = %s", (recall, place.number))
