"""How many lists to read, found by trying on the collection itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from server.index.contract import Vectors
from server.index.search.inverted import Inverted
from server.index.search.metrics import Floats
from server.index.search.selection import Slots

ASKED = 0.95  # the recall that an approximate search owes
WANTED = 0.985  # on the sample: queries from elsewhere are answered a little worse
LARGEST_SHARE = 1 / 8  # of all lists: beyond it a batch is searched faster by comparing every row
LEVELS = (10, 40, 160, 640)  # answers per query that a number of lists is found for
QUERIES = 200

Truth = Callable[[Vectors, int], tuple[Slots, Floats]]  # exact search


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search lists."""

    probes: tuple[tuple[int, int], ...]  # (k, lists to read for up to k answers), rising
    lists: int
    recall: float  # of the first entry, as measured
    rows: int  # there were so many then

    def probes_for(self, k: int) -> int | None:
        """Return how many lists to read; None: compare every row."""
        for level, probes in self.probes:
            if k <= level:
                return probes
        return None

    def more_careful(self, recall: float) -> Plan | None:
        """Return a plan that reads twice as much, after a recall too low; None: too much."""
        doubled = tuple((k, 2 * p) for k, p in self.probes if 2 * p <= most_probes(self.lists))
        return replace(self, probes=doubled, recall=recall) if doubled else None


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Why lists are of no use here."""

    reason: str
    rows: int


def most_probes(lists: int) -> int:
    """Return the largest number of lists that is worth reading."""
    return max(1, int(lists * LARGEST_SHARE))


def steps(limit: int) -> list[int]:
    """Return numbers of lists to try: 1, 2, 3, 4, 6, 8, 12 ... and the limit."""
    tried = {1, limit}
    power = 2
    while power <= limit:
        tried |= {power, power * 3 // 2}
        power *= 2
    return sorted(n for n in tried if n <= limit)


def make_plan(
    inverted: Inverted,
    sample: Slots,
    queries: Vectors,
    truth: Truth,
    keep_going: Callable[[float], bool],
) -> Plan | NoPlan | None:
    """Find the least numbers of lists that reach the recall wanted; None when told to stop.

    Args:
        inverted: what is tried.
        sample: slots (m,) that `queries` are the rows of; that a row finds itself does not count.
        queries: (m, dim) as `prepare_queries` makes them.
        truth: exact search of queries and k.
        keep_going: told the share that is done; False stops.
    """
    rows = len(inverted)
    levels = [level for level in LEVELS if level < rows] or [LEVELS[0]]
    _, best = truth(queries, levels[-1] + 1)
    limit = most_probes(inverted.lists)
    found: dict[int, int] = {}
    reached = dict.fromkeys(levels, 0.0)
    for probes in steps(limit):
        if not keep_going(probes / limit):
            return None
        slots, scores = inverted.search(queries, best.shape[1], probes)
        for level in levels:
            if level not in found:
                reached[level] = _recall(level, sample, slots, scores, best)
                if reached[level] >= WANTED:
                    found[level] = probes
        if len(found) == len(levels):
            break
    if levels[0] not in found:
        return NoPlan(_reason(inverted, limit, reached[levels[0]]), rows)
    return Plan(tuple(sorted(found.items())), inverted.lists, reached[levels[0]], rows)


def _recall(level: int, own: Slots, slots: Slots, scores: Floats, best: Floats) -> float:
    """Return the share of the `level` nearest that are found beside the query's own row."""
    itself = (slots[:, : level + 1] == own[:, None]).any(axis=1)
    hits = matches(scores[:, : level + 1], best[:, : level + 1]).sum(axis=1)
    return float(np.mean((hits - itself) / (level + 1 - itself)))


def matches(scores: Floats, best: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return, per answer (m, k), whether its score belongs to the k best: equal ones all do."""
    edge = best[:, -1:]
    return scores >= edge - (1e-6 + 1e-5 * np.abs(edge))


def _reason(inverted: Inverted, limit: int, recall: float) -> str:
    return (
        f"every row is compared: {len(inverted):,} rows in {inverted.lists:,} lists gave "
        f"recall@10 {recall:.2f} when {limit:,} lists were read, and {ASKED} is asked; reading "
        "more would take as long as comparing every row"
    )
