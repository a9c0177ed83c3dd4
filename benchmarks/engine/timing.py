"""Alternating measurement of several contenders that do the same work.

What else the machine does meets all of them alike: every round runs each once, and rounds begin
with another contender each time. A contender's calls of one round are a burst; the burst's time is
the median of its calls. Rounds in which threads had to wait for a core are run again while there is
patience, and the calmest count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.engine.waiting import waited_s

BURST_S = 0.03  # short networks are called until this much time has gone by
MOST_CALLS = 2000
# Workers of ONNX Runtime spin after a call for a while: the other side would lack their cores.
PAUSE_S = 0.06
REST_S = 0.005  # with one thread nobody spins
DECIDED_ROUNDS, DECIDED = 5, 1.1
CALM = 0.02  # of a burst's time
PATIENCE = 2  # times the rounds that were asked for


@dataclass
class Contender:
    """One side.

    Attributes:
        label: Names it.
        call: Does the work once.
        group: Of the contenders in a group only the fastest counts; the others may drop out.
    """

    label: str
    call: Callable[[], object]
    group: str


@dataclass(frozen=True)
class Burst:
    """Median seconds of a call, and how long threads waited for a core, over the burst's time."""

    seconds: float
    waited: float


@dataclass(frozen=True)
class Round:
    """A burst of every contender that was still in, by label."""

    bursts: Mapping[str, Burst]

    @property
    def waited(self) -> float:
        """The most disturbed burst's waiting."""
        return max(burst.waited for burst in self.bursts.values())


@dataclass(frozen=True)
class Times:
    """Seconds by label, an entry per round, and the median of the rounds' waiting."""

    seconds: Mapping[str, list[float]]
    waited: float


def burst(call: Callable[[], object], calls: int, pause_s: float) -> Burst:
    """Call so many times, after a pause and (if calls are short) one for warming up."""
    time.sleep(pause_s)
    if calls > 1:
        call()
    times = []
    waited = waited_s()
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Burst(median(times), (waited_s() - waited) / sum(times))


def calls_for(call: Callable[[], object]) -> int:
    """Return how many calls make a burst of about `BURST_S`."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    return max(1, min(MOST_CALLS, round(BURST_S / once)))


def alternate(contenders: Sequence[Contender], rounds: int, pause_s: float) -> Times:
    """Run all contenders in turn for so many rounds.

    After a few rounds those that are clearly slower than the best of their group drop out.
    """
    calls = {c.label: calls_for(c.call) for c in contenders}
    done: list[Round] = []
    left = list(contenders)
    while len(done) < PATIENCE * rounds and sum(r.waited <= CALM for r in done) < rounds:
        turn = len(done) % len(left)
        order = (*left[turn:], *left[:turn])
        done.append(Round({c.label: burst(c.call, calls[c.label], pause_s) for c in order}))
        if len(done) == DECIDED_ROUNDS:
            left = still_in(left, done)
    return times_of(done, [c.label for c in left], rounds)


def times_of(done: Sequence[Round], labels: Sequence[str], rounds: int) -> Times:
    """Return the times of the calmest rounds: chosen by their waiting, never by their times."""
    calmest = sorted(done, key=lambda r: r.waited)[:rounds]
    seconds = {label: [r.bursts[label].seconds for r in calmest] for label in labels}
    return Times(seconds, median(r.waited for r in calmest))


def still_in(contenders: Sequence[Contender], done: Sequence[Round]) -> list[Contender]:
    """Return the contenders that may yet be the fastest of their groups."""
    medians = {c.label: median(r.bursts[c.label].seconds for r in done) for c in contenders}
    best: dict[str, float] = {}
    for c in contenders:
        best[c.group] = min(best.get(c.group, float("inf")), medians[c.label])
    return [c for c in contenders if medians[c.label] <= DECIDED * best[c.group]]


def fastest(times: Times, groups: Mapping[str, str], group: str) -> str:
    """Return the label of the group's contender with the least median."""
    labels = [label for label in times.seconds if groups[label] == group]
    if not labels:
        raise ValueError(f"no contender of group {group!r} among {sorted(times.seconds)}")
    return min(labels, key=lambda label: median(times.seconds[label]))
