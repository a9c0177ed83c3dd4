"""Decides what to run next. Pure: no clock, no locks, no I/O; the queue and the time come in.

The queue is in order of `rank`, a time: a request ranks by when it came, earlier when its deadline
is near or its priority high. Since everything that comes later ranks later in the end, nothing
waits forever behind a stream of more urgent requests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

PATIENCE_US = 1_000_000  # deadlines further away than this do not hasten a request
PRIORITY_STEP_US = 10_000_000  # one step of priority overtakes what came up to 10 s before
MAX_PRIORITY = 9


class Pending(Protocol):
    """What the policy must know about a part of a request that waits."""

    rows: int  # at most `max_rows`, except for what runs alone
    key: Hashable  # parts with equal keys may share a run
    arrived_us: int
    deadline_us: int | None


P = TypeVar("P", bound=Pending)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The bounds of one run."""

    max_rows: int
    max_delay_us: int = 0  # how long an idle engine may wait for company
    cost_us: int = 0  # what a run is expected to take; waiting leaves time for it


@dataclass(frozen=True, slots=True)
class Plan(Generic[P]):
    """What to do now: answer the `expired`, run the `batch`, or look again in `wait_us`."""

    expired: Sequence[P]
    batch: Sequence[P]
    wait_us: int | None = None  # only with an empty batch and something left in the queue


def rank_of(arrived_us: int, deadline_us: int | None, priority: int) -> int:
    """Return a request's place in the queue; the smallest is next."""
    bounded = max(-MAX_PRIORITY, min(MAX_PRIORITY, priority))
    due_us = arrived_us + PATIENCE_US
    if deadline_us is not None and deadline_us < due_us:
        due_us = deadline_us
    return due_us - bounded * PRIORITY_STEP_US


def form_batch(queue: Sequence[P], now_us: int, limits: BatchLimits) -> Plan[P]:
    """Return what an idle engine should do with a queue in order of rank.

    The first that has not expired always runs; those with its key that fit are taken along, in
    order. One that does not fit is passed over and so becomes the first of a later run.
    """
    expired: list[P] = []
    batch: list[P] = []
    room = limits.max_rows
    key: Hashable = None
    for pending in queue:
        if pending.deadline_us is not None and pending.deadline_us <= now_us:
            expired.append(pending)
        elif not batch:
            batch.append(pending)
            key = pending.key
            room -= pending.rows
        elif pending.rows <= room and pending.key == key:
            batch.append(pending)
            room -= pending.rows
    wait_us = _worth_waiting_us(batch, room, now_us, limits)
    if wait_us > 0:
        return Plan(expired, (), wait_us)
    return Plan(expired, batch)


def _worth_waiting_us(batch: Sequence[P], room: int, now_us: int, limits: BatchLimits) -> int:
    if limits.max_delay_us == 0 or not batch or room <= 0:
        return 0
    start_us = min(pending.arrived_us for pending in batch) + limits.max_delay_us
    for pending in batch:
        if pending.deadline_us is not None:
            start_us = min(start_us, pending.deadline_us - limits.cost_us)
    return start_us - now_us
