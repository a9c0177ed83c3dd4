"""One space: the vectors of a collection that one model version made."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from server.errors import NotFound
from server.index.checks import check_vectors, is_clean
from server.index.contract import Hits, IndexState, Missing, Query, Vectors
from server.index.filters import Filter
from server.index.postgres import writing
from server.index.postgres.binary import decoded_rows, encoded_rows
from server.index.postgres.building import Builder, read_judgement, store_recall
from server.index.postgres.database import LARGEST_EF_SEARCH, Runner
from server.index.postgres.filter_sql import Parameters, condition
from server.index.postgres.judging import Judgement, next_step
from server.index.postgres.place import Place
from server.index.postgres.searching import Found, Request, search, share_found

FRESH_S = 2.0  # for so long what was read about the index holds
COUNT_FRESH_S = 10.0
COUNTS_KEPT = 256

# With fewer matches than this, all of them may be compared; with more, the index is followed until
# enough of what it yields matches.
FEW_MATCHES = 10_000
COUNT_TO = 50_000
LOOK = 8  # a look at a vector of the index is taken to cost as much as so many that match
MARGIN = 4  # times as many vectors of the index are looked at as would just do
# Beyond, an index has to be asked for more than it is good at.
MANY_WANTED = 400
# Numbers in the vectors that one exact statement compares. PostgreSQL spreads one large search over
# several processes, but not many in one statement; of what a filter gathers they take turns.
ALONE_WORK = 20_000_000
GATHERED_WORK = 2_000_000_000
QUERIES_AT_ONCE = 128


def filtered_effort(wanted: int, matches: int, vectors: int) -> int | None:
    """Return how many vectors of the index to look at, or None to compare all that match."""
    effort = math.ceil(MARGIN * wanted * max(1, vectors) / max(1, matches))
    dear = effort > LARGEST_EF_SEARCH or matches < LOOK * effort
    return None if matches <= FEW_MATCHES and dear else max(effort, wanted)


@dataclass(frozen=True, slots=True)
class _Count:
    at: float
    matches: int


class PostgresSpace:
    """See `server.index.contract.Space`."""

    def __init__(self, runner: Runner, builder: Builder, place: Place, vector_oid: int) -> None:
        self.place, self.number = place, place.number
        self._runner, self._builder, self._vector_oid = runner, builder, vector_oid
        self._lock = threading.Lock()
        self._judgement: tuple[float, Judgement] | None = None
        self._counts: dict[bytes, _Count] = {}  # by what tells one filter from another
        self._complete_to = 0  # no item of this revision or an older one is missing
        builder.consider(place)

    @property
    def key(self) -> str:
        """Name the space."""
        return self.place.key

    @property
    def dim(self) -> int:
        """Return the length of its vectors."""
        return self.place.dim

    def wrote(self, rows: int) -> None:
        """Take note that vectors were written, which may call for an index."""
        self._builder.consider(self.place, rows)

    # --- searching

    def search(self, queries: Vectors, query: Query) -> list[Hits]:
        """Return the nearest items of each row of `queries`; see the contract."""
        rows = check_vectors(queries, len(queries), self.dim, self.place.metric)
        wanted = query.k + query.offset
        if query.k < 1 or not len(rows):
            return [Hits([], []) for _ in rows]
        judgement = self._judged()
        ef_search = self._ef_search(query, wanted, judgement)
        found = self._find(rows, query, wanted, ef_search, judgement.vectors)
        if ef_search is not None:
            self._complete(rows, query, wanted, found, judgement.vectors)
        return [self._hits(each, query) for each in found]

    def _ef_search(self, query: Query, wanted: int, judgement: Judgement) -> int | None:
        """Return how hard to search the index, or None to compare with everything."""
        ef_search = judgement.ef_search
        if ef_search is None or query.exact or wanted > MANY_WANTED:
            return None
        if query.filter is None:
            return max(ef_search, wanted)
        effort = filtered_effort(wanted, self._matches(query.filter), judgement.vectors)
        return None if effort is None else max(ef_search, effort)

    def _find(
        self, rows: Vectors, query: Query, wanted: int, ef_search: int | None, vectors: int
    ) -> list[Found]:
        exclude = sorted(id for id in query.exclude if is_clean(id))
        request = Request(self.place, wanted, query.filter, exclude, ef_search)
        at_once = QUERIES_AT_ONCE
        if ef_search is None:
            work = ALONE_WORK if query.filter is None else GATHERED_WORK
            at_once = max(1, min(at_once, work // max(1, vectors * self.dim)))
        found: list[Found] = []
        for start in range(0, len(rows), at_once):
            found += self._search_part(request, rows[start : start + at_once])
        return found

    def _search_part(self, request: Request, rows: Vectors) -> list[Found]:
        return self._runner.run(lambda c: search(c, request, rows, self._vector_oid))

    def _complete(
        self, rows: Vectors, query: Query, wanted: int, found: list[Found], vectors: int
    ) -> None:
        """Compare with everything where the index gave up before there were enough."""
        short = [i for i, each in enumerate(found) if len(each) < wanted]
        if short:
            exact = self._find(rows[short], query, wanted, None, vectors)
            for place, each in zip(short, exact, strict=True):
                found[place] = each

    def _hits(self, found: Found, query: Query) -> Hits:
        distances = np.array([distance for _, distance in found], dtype=np.float64)
        scores = self.place.scores(distances).tolist()
        hits = Hits([id for id, _ in found], scores)
        if query.min_score is not None:
            # The nearest stand first, so that those that are alike enough do.
            hits = hits[: sum(score >= query.min_score for score in scores)]
        return hits[query.offset :]

    def _judged(self) -> Judgement:
        """Return what is known of the index, read anew every few seconds."""
        known, now = self._judgement, time.monotonic()
        if known is not None and now - known[0] < FRESH_S:
            return known[1]
        judgement = self._runner.run(lambda c: read_judgement(c, self.place))
        if judgement is None:
            raise NotFound(f"the space {self.key!r} was removed meanwhile")
        self._judgement = (now, judgement)
        return judgement

    def _matches(self, filter: Filter) -> int:
        """Count what matches, as far as it decides anything; a moment old at most."""
        now = time.monotonic()
        # Not by itself: 1 and True are equal, and some filters are megabytes.
        name = hashlib.sha256(repr(filter).encode()).digest()
        with self._lock:
            known = self._counts.get(name)
        if known is not None and now - known.at < COUNT_FRESH_S:
            return known.matches
        parameters = Parameters()
        rows = self._runner.rows(
            sql.SQL("SELECT count(*) FROM (SELECT FROM {} i WHERE {} LIMIT {}) few").format(
                self.place.items, condition(filter, parameters), sql.Literal(COUNT_TO)
            ),
            parameters,
        )
        matches = int(rows[0][0])
        with self._lock:
            if len(self._counts) >= COUNTS_KEPT:
                self._counts.clear()
            self._counts[name] = _Count(now, matches)
        return matches

    # --- filling

    def missing(self, limit: int) -> list[Missing]:
        """Return items whose vector is still to be made, oldest first."""
        found = self._missing_after(self._complete_to, limit)
        if len(found) < limit and self._complete_to:
            # A transaction that was under way may have left something behind that mark.
            found = self._missing_after(0, limit)
        self._complete_to = found[0].revision - 1 if found else 0
        return found

    def _missing_after(self, revision: int, limit: int) -> list[Missing]:
        rows = self._runner.rows(
            sql.SQL(
                "SELECT i.id, i.revision, i.has_picture FROM {} i WHERE i.revision > %s"
                " AND NOT EXISTS (SELECT FROM {} v WHERE v.id = i.id)"
                " ORDER BY i.revision LIMIT %s"
            ).format(self.place.items, self.place.vectors),
            (revision, max(limit, 0)),
        )
        return [Missing(*row) for row in rows]

    def fill(self, made_of: Sequence[Missing], vectors: Vectors) -> int:
        """Store vectors of `missing` items; those that changed meanwhile are left out."""
        rows = encoded_rows(check_vectors(vectors, len(made_of), self.dim, self.place.metric))
        stored = self._runner.transaction(
            lambda c: writing.fill(c, self.place.collection, self.number, made_of, rows)
        )
        self.wrote(stored)
        return stored

    # --- looking

    def vectors(self, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """Return the vectors (dim,) of items, as they were given; None where there is none."""
        found_ids, rows = self._read("WHERE id = ANY(%s)", ([id for id in ids if is_clean(id)],))
        found = dict(zip(found_ids, rows, strict=True))
        return [found.get(id) for id in ids]

    def sample(self, count: int, seed: int = 0) -> tuple[list[str], Vectors]:
        """Return at most `count` items and their vectors, the same for the same seed."""
        order = "ORDER BY hashtextextended(id, %s), id LIMIT %s"
        return self._read(order, (seed % 2**63, max(count, 0)))

    def _read(self, which: str, parameters: Sequence[object]) -> tuple[list[str], Vectors]:
        query = sql.SQL("SELECT id, embedding FROM {} {}").format(
            self.place.vectors,
            sql.SQL(which),
        )
        rows = self._runner.run(lambda c: c.execute(query, parameters, binary=True).fetchall())
        return [id for id, _ in rows], decoded_rows([raw for _, raw in rows], self.dim)

    def state(self) -> IndexState:
        """Tell how it is searched."""
        rows = self._runner.rows(
            sql.SQL(
                "SELECT (SELECT count(*) FROM {vectors}), (SELECT count(*) FROM {items}),"
                " pg_total_relation_size(%s::regclass)"
            ).format(vectors=self.place.vectors, items=self.place.items),
            (f"vectors_{self.number}",),
        )
        vectors, items, size = rows[0]
        self._judgement = None
        judgement = self._judged()
        index_from = self._runner.options.index_from
        if self.place.can_be_indexed and next_step(judgement, vectors, index_from) == "build":
            judgement = replace(judgement, building=judgement.building or 0.0)
        return judgement.state(vectors, items - vectors, size, self.place.can_be_indexed)

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        """Compare an automatic search with an exact one; the result is in `state()` from then."""
        rows = check_vectors(queries, len(queries), self.dim, self.place.metric)
        judgement = self._judged()
        ask = Query(k=k)
        truth = self._find(rows, ask, k, None, judgement.vectors)
        found = truth
        if judgement.ef_search is not None:
            found = self._find(rows, ask, k, max(judgement.ef_search, k), judgement.vectors)
            self._complete(rows, ask, k, found, judgement.vectors)
        recall = share_found(found, truth)
        self._runner.run(lambda c: store_recall(c, self.place, recall))
        self._judgement = None
        return recall
