"""Decides, between two decoding steps, which sentences join and which leave. Pure.

No clock, no locks, no I/O: the sentences and the time come in. `waiting` is in order of `rank`, a
time: when the sentence came, plus what it costs. So a short text passes a long one that came just
before it, and a request of a thousand sentences, each ranked behind those in front of it, takes
turns with others; and since whatever comes later than that time ranks later, nothing waits forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from server.batching.policy import MAX_PRIORITY, PRIORITY_STEP_US

US_PER_TOKEN = 500  # how much later a sentence ranks for every token to be read before its end
MAX_HANDICAP_US = 30_000_000  # however long the request
HOLD_AFTER_US = 50_000  # so long after its rank, rows that come free are kept for a sentence
PADDING_SHARE = 0.25  # of an encoder batch that may be padding
PADDING_TOKENS = 12  # or so many tokens: a further batch costs about as much as they do
LOOK_AHEAD = 128  # waiting sentences that one plan looks at


class Candidate(Protocol):
    """What the policy must know about a sentence, waiting or running."""

    rows: int  # one per beam
    source_tokens: int
    rank: int
    deadline_us: int | None
    abandoned: bool  # nobody waits for it any more
    alone: bool  # it may have made a step fail: nothing may run beside it


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What runs at a time, and what one step may admit."""

    rows: int
    sources: int
    encode_tokens: int = 512  # padding included; running sentences wait for so much between steps


@dataclass(slots=True)
class StepPlan(Generic[C]):
    """What to do before the next step."""

    admit: list[list[C]] = field(default_factory=list)  # each list is one batch for the encoder
    dropped: list[C] = field(default_factory=list)  # waiting, but abandoned or too late
    evict: list[C] = field(default_factory=list)  # running, but abandoned or too late


def sentence_rank(
    arrived_us: int, deadline_us: int | None, priority: int, tokens_to_end: int
) -> int:
    """Return a sentence's place in the order; the smallest is next.

    Args:
        arrived_us: when its request came.
        deadline_us: when the answer is due; a rank is never later.
        priority: one step counts as ten seconds, as for other requests.
        tokens_to_end: its own tokens, and those of its request's sentences in front of it.
    """
    bounded = max(-MAX_PRIORITY, min(MAX_PRIORITY, priority))
    due_us = arrived_us + min(tokens_to_end * US_PER_TOKEN, MAX_HANDICAP_US)
    if deadline_us is not None and deadline_us < due_us:
        due_us = deadline_us
    return due_us - bounded * PRIORITY_STEP_US


def is_over(sentence: Candidate, now_us: int) -> bool:
    """Say whether nobody wants the sentence's result, or not any more."""
    if sentence.abandoned:
        return True
    return sentence.deadline_us is not None and sentence.deadline_us <= now_us


def plan_step(
    running: Iterable[C], waiting: Sequence[C], now_us: int, limits: StepLimits
) -> StepPlan[C]:
    """Return who leaves and who joins.

    The first in rank that fits joins always; others join in order while rows, sources and the
    encoder's tokens last, in batches of similar length. One that needs more rows than are free is
    passed over at first; `HOLD_AFTER_US` after its rank, rows are kept free for it.
    """
    plan: StepPlan[C] = StepPlan()
    rows, sources = limits.rows, limits.sources
    isolated = False
    for sentence in running:
        if is_over(sentence, now_us):
            plan.evict.append(sentence)
        else:
            rows -= sentence.rows
            sources -= 1
            isolated = isolated or sentence.alone
    if isolated:
        return plan
    idle = sources == limits.sources
    groups: list[_Group[C]] = []
    tokens = limits.encode_tokens
    for sentence in waiting[:LOOK_AHEAD]:
        if rows <= 0 or sources <= 0:
            break
        if is_over(sentence, now_us):
            plan.dropped.append(sentence)
            continue
        if sentence.alone:
            if idle and not groups:
                groups.append(_Group(sentence))
            break
        if sentence.rows > rows:
            if now_us - sentence.rank > HOLD_AFTER_US:
                break
            continue
        cost = _join(groups, sentence, tokens)
        if cost is None:
            continue
        tokens -= cost
        rows -= sentence.rows
        sources -= 1
        if tokens <= 0:
            break
    plan.admit = [group.members for group in groups]
    return plan


class _Group(Generic[C]):
    """An encoder batch under construction: all are padded to its longest."""

    __slots__ = ("longest", "members", "real")

    def __init__(self, first: C) -> None:
        self.members = [first]
        self.longest = self.real = first.source_tokens

    def cost_of(self, sentence: C) -> int | None:
        """Return the padded tokens that it would add, or None if it is not similar."""
        longest = max(self.longest, sentence.source_tokens)
        padded = longest * (len(self.members) + 1)
        padding = padded - self.real - sentence.source_tokens
        if padding > max(PADDING_TOKENS, PADDING_SHARE * padded):
            return None
        return padded - self.longest * len(self.members)

    def add(self, sentence: C) -> None:
        self.members.append(sentence)
        self.longest = max(self.longest, sentence.source_tokens)
        self.real += sentence.source_tokens


def _join(groups: list[_Group[C]], sentence: C, tokens: int) -> int | None:
    """Put a sentence where it pads least, and return what that costs; None: not in this step."""
    best: _Group[C] | None = None
    least = sentence.source_tokens + PADDING_TOKENS  # of a batch of its own
    for group in groups:
        cost = group.cost_of(sentence)
        if cost is not None and cost < least:
            best, least = group, cost
    if best is not None:
        if least > tokens:
            return None
        best.add(sentence)
        return least
    if groups and sentence.source_tokens > tokens:
        return None
    groups.append(_Group(sentence))
    return sentence.source_tokens
