"""Finds the loops that a decoder can fall into: the same tokens over and over. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from server.execution import Hypothesis

LONGEST_PERIOD = 20  # tokens
LEAST_TIMES = 4
LEAST_TOKENS = 20  # that a loop must cover
SLACK_TOKENS = 8


def loop_start(tokens: Sequence[int], source: Sequence[int]) -> int | None:
    """Return where a sequence that ends in a loop should be cut, or None if it does not.

    A loop is a piece of 1 to 20 tokens that comes at least 4 times in a row up to the end, and
    covers 20 tokens or more. What a source repeats itself, its translation may repeat, too: with a
    source that has such a stretch, a loop must be more than twice as long. The cut leaves the piece
    once.
    """
    found = _covered_at_end(tokens)
    if found is None:
        return None
    covered, period = found
    if covered <= 2 * longest_repetition(source) + SLACK_TOKENS:
        return None
    return len(tokens) - covered + period


def without_loop(hypothesis: Hypothesis, source: Sequence[int]) -> Hypothesis:
    """Return a hypothesis that did not come to its end without the loop that it is in."""
    cut = None if hypothesis.finished else loop_start(hypothesis.tokens, source)
    if cut is None:
        return hypothesis
    logs, looked = hypothesis.log_probabilities, hypothesis.alignment
    return replace(
        hypothesis,
        tokens=hypothesis.tokens[:cut],
        log_probabilities=None if logs is None else logs[:cut],
        alignment=None if looked is None else looked[:cut],
    )


def longest_repetition(tokens: Sequence[int]) -> int:
    """Return how many tokens the longest stretch has that repeats one piece, twice or more."""
    longest = 0
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // 2) + 1):
        run = 0
        for index in range(period, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - period] else 0
            if run >= period and run + period > longest:
                longest = run + period
    return longest


def _covered_at_end(tokens: Sequence[int]) -> tuple[int, int] | None:
    """Return (tokens covered, period) of the loop at the end with the shortest period."""
    count = len(tokens)
    for period in range(1, min(LONGEST_PERIOD, count // LEAST_TIMES) + 1):
        index = count - 1
        while index >= period and tokens[index] == tokens[index - period]:
            index -= 1
        covered = count - 1 - index + period
        if covered >= max(LEAST_TOKENS, LEAST_TIMES * period):
            return covered, period
    return None
