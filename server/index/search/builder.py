"""Lists are made, tuned and read from disk here, beside searches and changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from server.index.contract import Metric, Vectors
from server.index.search.derived import Derived, fingerprints
from server.index.search.exact import Rows, search_exact
from server.index.search.inverted import Inverted, train_centres
from server.index.search.metrics import Floats, comparable
from server.index.search.plan import QUERIES, NoPlan, Plan, make_plan
from server.index.search.selection import Mask, Slots
from server.index.search.upkeep import ROWS_PER_CENTRE, lists_for

_CHUNK = 4096  # rows copied at a time

Progress = Callable[[float], bool]  # told the share that is done; False: stop


class Stopped(Exception):
    """The index is being closed."""


@dataclass(frozen=True, slots=True)
class Approximate:
    """Lists, and how to search them."""

    inverted: Inverted
    plan: Plan
    centres_for: int  # rows


def built(rows: Rows, alive: Mask, progress: Progress) -> Inverted:
    """Return lists of all rows that are alive now.

    Raises:
        Stopped: `progress` said so, or no row is left.
    """
    slots = np.flatnonzero(alive)
    _go_on(slots.size > 0)  # all may have been removed since
    lists = min(lists_for(slots.size), slots.size)
    centres = train_centres(
        _some(rows, slots, lists * ROWS_PER_CENTRE),
        lists,
        rows.metric,
        lambda done: progress(0.6 * done),
    )
    if centres is None:
        raise Stopped
    inverted = Inverted(centres, rows.metric)
    for done, part in _parts(slots):
        _go_on(progress(0.6 + 0.3 * done))
        inverted.add(part, comparable(rows.matrix[part], rows.metric))
    return inverted


def restored(rows: Rows, alive: Mask, saved: Derived, progress: Progress) -> Inverted:
    """Return lists as a file says, with rows that it does not know as they are now.

    Raises:
        Stopped: `progress` said so, or no row is left.
    """
    inverted = Inverted(saved.centres, rows.metric)
    for done, part in _parts(np.flatnonzero(alive)):
        _go_on(progress(done))
        raw = rows.matrix[part]
        into = np.full(part.size, -1, np.int64)
        known = part < saved.list_of.size
        into[known] = saved.list_of[part[known]]
        same = np.zeros(part.size, np.bool_)
        same[known] = fingerprints(raw[known]) == saved.fingerprints[part[known]]
        unit = comparable(raw, rows.metric)
        anew = (into < 0) | ~same
        into[anew] = inverted.nearest_list(unit[anew])
        inverted.add(part, unit, into)
    return inverted


def to_save(approximate: Approximate, rows: Rows) -> Derived:
    """Return what goes to disk."""
    list_of = approximate.inverted.list_of.copy()
    prints = np.zeros(list_of.size, np.uint32)
    for _, part in _parts(np.flatnonzero(list_of[: len(rows.matrix)] >= 0)):
        prints[part] = fingerprints(rows.matrix[part])
    return Derived(
        rows.metric,
        approximate.inverted.centres,
        list_of,
        prints,
        approximate.plan,
        approximate.centres_for,
    )


def moved(saved: Derived, slots: Slots) -> Derived:
    """Return what was derived for the rows of `slots` (n,), which have become 0 to n - 1."""
    list_of = np.full(slots.size, -1, np.int32)
    prints = np.zeros(slots.size, np.uint32)
    known = slots < saved.list_of.size
    list_of[known] = saved.list_of[slots[known]]
    prints[known] = saved.fingerprints[slots[known]]
    return replace(saved, list_of=list_of, fingerprints=prints)


def planned(inverted: Inverted, rows: Rows, alive: Mask, progress: Progress) -> Plan | NoPlan:
    """Return how to search lists.

    Raises:
        Stopped: `progress` said so, or no row is left.
    """
    # Rows that came after the lists were made are in the journal still: no answer may hold them.
    shared = min(alive.size, inverted.list_of.size)
    present = alive[:shared] & (inverted.list_of[:shared] >= 0)
    slots = np.flatnonzero(present)
    _go_on(slots.size > 0)
    sample = np.sort(np.random.default_rng(2).choice(slots, min(QUERIES, slots.size), False))
    queries = comparable(rows.matrix[sample], rows.metric)

    def truth(queries: Vectors, k: int) -> tuple[Slots, Floats]:
        return search_exact(rows, queries, k, present, slots.size)

    plan = make_plan(inverted, sample, queries, truth, progress)
    if plan is None:
        raise Stopped
    return plan


def _some(rows: Rows, slots: Slots, count: int) -> Vectors:
    if slots.size > count:
        slots = np.sort(np.random.default_rng(0).choice(slots, count, replace=False))
    return comparable(rows.matrix[slots], rows.metric)


def _parts(slots: Slots) -> Iterator[tuple[float, Slots]]:
    for first in range(0, slots.size, _CHUNK):
        yield first / slots.size, slots[first : first + _CHUNK]


def _go_on(wanted: bool) -> None:
    if not wanted:
        raise Stopped


def apply(inverted: Inverted, rows: Rows, change: str, slots: Slots, metric: Metric) -> None:
    """Repeat a change of the collection in lists."""
    if change == "remove":
        inverted.remove(slots)
        return
    for first in range(0, slots.size, _CHUNK):
        part = slots[first : first + _CHUNK]
        inverted.add(part, comparable(rows.matrix[part], metric))
