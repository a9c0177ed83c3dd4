"""Exact search: every allowed row is compared, block by block, and the best are kept.

A block's scores come from one matrix product. Of these only those are looked at that can still be
among the k best: the k-th largest of the maxima of k or more disjoint groups of scores is a lower
bound of the k-th largest score, and maxima cost one pass at full width, where a partition of all
scores costs many times that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.index.contract import Metric, Vectors
from server.index.search.metrics import Floats, lengths
from server.index.search.selection import Mask, Slots

_BLOCK_SCORES = 1 << 20  # scores of one block: they stay in the cache between product and choice
_BLOCK_FLOATS = 1 << 25  # floats of one block of rows, where few queries leave room for more rows
_MIN_BLOCK_ROWS = 1024
_QUERIES = 128  # at a time: more do not make the product faster
_ANSWERS = 1 << 18  # at a time: several times as many candidates are held for them
_LOWEST = np.finfo(np.float32).min  # below every score, above that of a slot that does not count
_GATHER_BELOW = 0.3  # of a block's rows: copying these few is cheaper than comparing all


@dataclass(frozen=True, slots=True)
class Rows:
    """What is searched: rows in slots, of which some count."""

    matrix: Vectors  # (capacity, dim), as they were given
    factors: Floats  # (capacity,), see metrics
    metric: Metric
    unit: bool = False  # of cosine: every row has length 1, so that no factor is needed


def search_exact(
    rows: Rows, queries: Vectors, k: int, allowed: Mask | None, count: int
) -> tuple[Slots, Floats]:
    """Return the nearest allowed slots of each query, the nearest first.

    Equal scores come in the order of their slots.

    Args:
        rows: what is searched.
        queries: (m, dim), as `prepare_queries` returns them.
        k: how many, at least 1.
        allowed: which slots count; slots beyond its end do not. None: the first `count` do.
        count: how many of them are true.

    Returns:
        Slots and scores, both (m, min(k, count)).
    """
    k = min(k, count)
    slots = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    if not k:
        return slots, scores
    together = max(1, min(_QUERIES, _ANSWERS // k))
    for first in range(0, len(queries), together):
        part = slice(first, first + together)
        slots[part], scores[part] = _search_some(rows, queries[part], k, allowed, count)
    return slots, scores


def _search_some(
    rows: Rows, queries: Vectors, k: int, allowed: Mask | None, count: int
) -> tuple[Slots, Floats]:
    # Distances are found by a formula that loses digits where rows are close together, so that
    # some more are kept, and ordered by their true distances in the end.
    kept = min(count, k + k // 2 + 16) if rows.metric == "l2" else k
    best = _Best(len(queries), kept)
    used = count if allowed is None else min(allowed.size, len(rows.matrix))
    step = _block_rows(len(queries), rows.matrix.shape[1])
    for first in range(0, used, step):
        if allowed is None:
            best.offer(_scores(rows, queries, slice(first, min(first + step, used))), first)
            continue
        mask = allowed[first : min(first + step, used)]
        inside = int(np.count_nonzero(mask))
        if not inside:
            continue
        if inside < _GATHER_BELOW * mask.size:
            chosen = np.flatnonzero(mask) + first
            best.offer(_scores(rows, queries, chosen), chosen)
            continue
        scores = _scores(rows, queries, slice(first, first + mask.size))
        if inside < mask.size:
            scores[:, ~mask] = -np.inf
        best.offer(scores, first)
    slots, scores = best.result()
    if rows.metric == "l2":
        everything = np.ones(count, np.bool_) if allowed is None else allowed
        return _by_distance(rows, queries, k, everything, slots, scores)
    return slots, scores


def _block_rows(queries: int, dim: int) -> int:
    return max(_MIN_BLOCK_ROWS, min(_BLOCK_SCORES // queries, _BLOCK_FLOATS // dim))


def _scores(rows: Rows, queries: Vectors, which: slice | Slots) -> Floats:
    """Return scores (m, rows); for l2 something that stands in the same order per query."""
    block = rows.matrix[which]
    scores: Floats = np.matmul(queries, block.T)
    if rows.metric == "cosine" and not rows.unit:
        scores *= rows.factors[which]
    elif rows.metric == "l2":  # -(|x|^2 - 2 q x); |q|^2 is the same for all of a query's rows
        scores *= 2
        scores -= rows.factors[which]
    return scores


def _by_distance(
    rows: Rows, queries: Vectors, k: int, allowed: Mask, slots: Slots, scores: Floats
) -> tuple[Slots, Floats]:
    """Order candidates of an l2 search by true distances, and keep the k nearest.

    Rows that are no candidates stand behind the last one in the scores of `_scores`, whose error
    has a bound. Where that does not prove them farther than the k nearest, all rows that may be as
    near are compared without the formula.
    """
    nearest = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float32)
    complete = slots.shape[1] >= np.count_nonzero(allowed)
    longest = float(rows.factors[: allowed.size].max(initial=0.0))
    relative = 2 * float(np.finfo(np.float32).eps) * (4 + queries.shape[1] ** 0.5)
    for row, query in enumerate(queries):
        squared = float(query.dot(query))
        chosen, found = _nearest(rows, query, slots[row], k)
        edge = squared - float(scores[row, -1]) - relative * (squared + longest)
        if not complete and float(found[-1]) ** 2 > edge:
            reach = float(found[-1]) ** 2 + 2 * relative * (squared + longest)
            chosen, found = _nearest(rows, query, _within(rows, query, reach, allowed), k)
        nearest[row], distances[row] = chosen, found
    return nearest, -distances


def _within(rows: Rows, query: Floats, reach: float, allowed: Mask) -> Slots:
    """Return allowed slots whose squared distance is not above `reach`, as far as scores tell."""
    used = min(allowed.size, len(rows.matrix))
    squared = float(query.dot(query)) - _scores(rows, query[None], slice(0, used))[0]
    return np.flatnonzero((squared <= reach) & allowed[:used])


def _nearest(rows: Rows, query: Floats, slots: Slots, k: int) -> tuple[Slots, Floats]:
    """Return the k nearest of some slots, and their distances."""
    distances = np.empty(slots.size, np.float32)
    for first in range(0, slots.size, _MIN_BLOCK_ROWS):
        part = slice(first, first + _MIN_BLOCK_ROWS)
        distances[part] = lengths(rows.matrix[slots[part]] - query)
    order = np.lexsort((slots, distances))[:k]
    return slots[order], distances[order]


@dataclass(slots=True)
class _Best:
    """The candidates of `m` queries while blocks of scores go by."""

    queries: int
    k: int
    bound: Floats = field(init=False)  # (m, 1): lower bound of each query's k-th best score
    maxima: Floats = field(init=False)  # (m, <= k): the largest group maxima so far
    found: list[tuple[NDArray[np.int64], Slots, Floats]] = field(default_factory=list)
    waiting: int = 0  # candidates in `found`

    def __post_init__(self) -> None:
        self.bound = np.full((self.queries, 1), _LOWEST, np.float32)
        self.maxima = np.empty((self.queries, 0), np.float32)

    def offer(self, scores: Floats, slots: int | Slots) -> None:
        """Take what may be among the best of a block: scores (m, n), the first slot or all."""
        self._raise_bound(scores)
        hits = np.flatnonzero(scores >= self.bound)
        if hits.size > self._most():
            query, column = _largest(scores, self.k)
        else:
            query, column = np.divmod(hits, scores.shape[1])
        found = scores[query, column]
        self.found.append(
            (query, column + slots if isinstance(slots, int) else slots[column], found)
        )
        self.waiting += query.size
        if self.waiting > 2 * self._most():
            self._settle()

    def _most(self) -> int:
        """How many candidates are worth keeping before they are sorted out."""
        return 2 * self.queries * (self.k + 64)

    def _raise_bound(self, scores: Floats) -> None:
        columns = scores.shape[1]
        size = min(64, columns // max(2 * self.k, 64))  # several times k groups, of this size
        if size < 1:
            return
        groups = columns // size
        grouped = scores[:, : groups * size].reshape(self.queries, size, groups)
        maxima = np.concatenate((self.maxima, grouped.max(axis=1)), axis=1)
        at = maxima.shape[1] - self.k
        maxima.partition(at, axis=1)
        self.maxima = maxima[:, at:].copy()
        np.maximum(self.bound, maxima[:, at : at + 1], out=self.bound)

    def _settle(self) -> None:
        """Keep the k best of what waits."""
        query, slots, scores = self._sorted()
        self.found = [(query, slots, scores)]
        self.waiting = query.size

    def _sorted(self) -> tuple[NDArray[np.int64], Slots, Floats]:
        query, slots, scores = (np.concatenate(column) for column in zip(*self.found, strict=True))
        order = np.lexsort((slots, -scores, query))
        query, slots, scores = query[order], slots[order], scores[order]
        starts = np.searchsorted(query, np.arange(self.queries))
        kept = np.arange(query.size) - starts[query] < self.k
        return query[kept], slots[kept], scores[kept]

    def result(self) -> tuple[Slots, Floats]:
        """Return slots and scores (m, k); at least k allowed rows must have been offered."""
        _, slots, scores = self._sorted()
        return slots.reshape(self.queries, self.k), scores.reshape(self.queries, self.k)


def _largest(scores: Floats, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return query and column of the k largest scores of each row, where equal ones abound.

    Among equal scores at the edge, the lowest columns are taken.
    """
    count = min(k, scores.shape[1])
    edge = np.partition(scores, scores.shape[1] - count, axis=1)[:, -count, None]
    above = scores > edge
    equal = (scores == edge) & (edge >= _LOWEST)
    room = count - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= room))
    query, column = np.nonzero(taken)
    return query, column
