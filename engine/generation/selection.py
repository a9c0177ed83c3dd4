"""The best next tokens of each batch row: the definition that native code is compared with.

Log-probabilities are a beam's own after penalties and bans, not normalized again, as in Hugging
Face's beam search; a forced token has log-probability 0. Greedy search penalizes logits instead of
log-probabilities, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.generation.edits import Tokens
from engine.generation.state import FIRST, KEEP, LAST, LEAST, LENGTH, MOST, SearchState

MINUS_INFINITY = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class RowRules:
    """What holds for the next token of one batch row.

    Attributes:
        record: The record of its search.
        is_beam: Whether it is one of several beams.
        ends: Tokens that end its search.
        bans: Tokens that never come in its search.
        penalized, banned: Tokens that its history discourages or forbids.
    """

    record: int
    is_beam: bool
    ends: Tokens
    bans: Tokens
    penalized: Tokens
    banned: Tokens


def choose(state: SearchState, batch_row: int, rules: RowRules) -> None:
    """Set the candidates of a batch row; edits its logits in place."""
    logits = state.logits[batch_row]
    with np.errstate(invalid="ignore", over="ignore"):
        peak = logits.max()
        log_sum = np.log(np.exp(logits - peak).sum(dtype=np.float32))
        state.peak[batch_row], state.log_sum[batch_row] = peak, log_sum
        _penalize(logits, peak, log_sum, rules, state.penalty[rules.record])
        _ban(state, logits, rules)
        state.token[batch_row], state.value[batch_row] = -1, MINUS_INFINITY
        if not np.isfinite(peak + log_sum):
            return  # where a logit is not a number, no log-probability is one
        forced = forced_token(state, rules.record)
        if forced >= 0:
            state.token[batch_row, 0], state.value[batch_row, 0] = forced, 0.0
            return
        best = best_tokens(logits, int(state.numbers[rules.record, KEEP]))
        state.token[batch_row, : best.size] = best
        state.value[batch_row, : best.size] = (logits[best] - peak) - log_sum


def forced_token(state: SearchState, record: int) -> int:
    """Return the only token that may come next, or -1."""
    numbers = state.numbers[record]
    length = numbers[LENGTH]
    if numbers[LAST] >= 0 and length == numbers[MOST] - 1:
        return int(numbers[LAST])
    return int(numbers[FIRST]) if length == 0 else -1


def _penalize(
    logits: NDArray[np.float32],
    peak: np.float32,
    log_sum: np.float32,
    rules: RowRules,
    penalty: np.float32,
) -> None:
    tokens = rules.penalized
    if not tokens.size:
        return
    scores = logits[tokens]
    if rules.is_beam:
        scores = (scores - peak) - log_sum
    scores = np.where(scores < 0, scores * penalty, scores / penalty)
    logits[tokens] = (scores + log_sum) + peak if rules.is_beam else scores


def _ban(state: SearchState, logits: NDArray[np.float32], rules: RowRules) -> None:
    logits[rules.banned] = MINUS_INFINITY
    logits[rules.bans] = MINUS_INFINITY
    numbers = state.numbers[rules.record]
    if numbers[LENGTH] < numbers[LEAST]:
        logits[rules.ends] = MINUS_INFINITY


def best_tokens(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the tokens with the largest logits above minus infinity, at most `count`, best first.

    Of equal ones the smaller token comes first.
    """
    count = min(count, logits.size)
    least = np.partition(logits, -count)[-count]
    found = np.flatnonzero((logits >= least) & (logits > MINUS_INFINITY))
    return found[np.argsort(-logits[found], kind="stable")[:count]]
