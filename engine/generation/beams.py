"""Searches moved on by one token: the definition that native code is compared with.

Beam search is that of Hugging Face (transformers 5, `_beam_search`): of each step the best
candidates over all beams count, more of them than there are beams, so that enough go on when some
end. Those that end within the first `beams` places become hypotheses; a hypothesis replaces the
worst when it is better; and the search is over when no running beam can still improve on them.

Beams of one search never run as copies of a finished sequence, which in Hugging Face's arrays
takes a vocabulary smaller than the number of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.generation.state import (
    DONE,
    EARLY,
    HOPED,
    KEEP,
    LEAST_SCORE,
    LENGTH,
    MOST,
    TOKEN,
    SearchState,
)

Rows = NDArray[np.int64]
DEAD = np.float32(-np.inf)


def append_token(state: SearchState, row: int, record: int, token: int, value: float) -> int:
    """Add a token to a beam; return the new length."""
    length = int(state.numbers[record, LENGTH]) + 1
    state.token_at[row, length] = token
    state.value_at[row, length] = value
    state.slots.history[row, length] = row
    return length


def advance_single(
    state: SearchState, batch_row: int, record: int, ends: NDArray[np.int32], token: int
) -> None:
    """Move a search of one beam on by this token, which has the first candidate's value.

    Where there is no token (-1), the search is over as it was.
    """
    row, numbers = record, state.numbers[record]
    if token < 0:
        numbers[TOKEN], numbers[DONE] = -1, 1
        state.score[row] = DEAD
        return
    value = state.value[batch_row, 0]
    length = append_token(state, row, record, token, float(value))
    state.score[row] += value
    numbers[LENGTH], numbers[TOKEN] = length, token
    numbers[DONE] = token in ends or length == numbers[MOST]
    _feed(state, batch_row, token, length)


def _feed(state: SearchState, batch_row: int, token: int, position: int) -> None:
    state.slots.tokens[batch_row, 0] = token
    state.slots.position[batch_row] = position


@dataclass(frozen=True, slots=True)
class Candidates:
    """What counts in a step of one search, best first.

    Attributes:
        score: Sum of log-probabilities. (C,)
        beam: The beam it continues. (C,)
        token, value: The new token and its log-probability. (C,)
        ends: Whether it does not go on: an end token, or all of the length. (C,)
        is_end: Whether the token is an end token. (C,)
    """

    score: NDArray[np.float32]
    beam: Rows
    token: NDArray[np.int32]
    value: NDArray[np.float32]
    ends: NDArray[np.bool_]


def merge(
    state: SearchState, first: int, rows: Rows, record: int, ends: NDArray[np.int32]
) -> Candidates:
    """Return the best candidates over all beams; of equal ones the lower beam's comes first."""
    beams, keep = rows.size, int(state.numbers[record, KEEP])
    token = state.token[first : first + beams, :keep]
    value = state.value[first : first + beams, :keep]
    with np.errstate(invalid="ignore"):
        sums = np.where(token < 0, DEAD, state.score[rows][:, None] + value)
    sums = np.where(np.isnan(sums), DEAD, sums)
    order = np.argsort(-sums.ravel(), kind="stable")[:keep]
    order = order[sums.ravel()[order] > DEAD]
    tokens = token.ravel()[order]
    length = state.numbers[record, LENGTH] + 1
    stops = np.isin(tokens, ends) | (length == state.numbers[record, MOST])
    return Candidates(sums.ravel()[order], order // keep, tokens, value.ravel()[order], stops)


def advance_beams(
    state: SearchState, first: int, rows: Rows, record: int, ends: NDArray[np.int32]
) -> None:
    """Move a beam search on: `first` is its first batch row, `rows` are its cache rows."""
    numbers = state.numbers[record]
    found = merge(state, first, rows, record, ends)
    length = int(numbers[LENGTH]) + 1
    for place in np.flatnonzero(found.ends[: rows.size]):
        _finish(state, rows, found, int(place), length, record)
    running = np.flatnonzero(~found.ends)[: rows.size]
    _continue(state, first, rows, found, running, record, ends)
    numbers[LENGTH] = length
    best = running[0] if running.size else 0
    numbers[TOKEN] = found.token[best] if found.token.size else -1
    numbers[DONE] = _is_done(state, rows, record)


def _finish(
    state: SearchState, rows: Rows, found: Candidates, place: int, length: int, record: int
) -> None:
    """Take a candidate up among the hypotheses if it is better than the worst."""
    if found.score[place] <= LEAST_SCORE:
        return
    score = found.score[place] / state.norm[record, length]
    scores = state.pool_score[rows]
    worst = rows[scores.size - 1 - int(np.argmin(scores[::-1]))]  # the last of equal ones
    if not score > state.pool_score[worst]:
        return
    state.pool_score[worst], state.pool_length[worst] = score, length
    state.pool_token[worst] = found.token[place]
    state.pool_value[worst] = found.value[place]
    parent = rows[found.beam[place]]
    state.pool_history[worst, :length] = state.slots.history[parent, :length]


def _continue(
    state: SearchState,
    first: int,
    rows: Rows,
    found: Candidates,
    running: Rows,
    record: int,
    ends: NDArray[np.int32],
) -> None:
    """Let the best candidates that go on take the beams; a beam without one is dead."""
    length = int(state.numbers[record, LENGTH]) + 1
    history = state.slots.history
    filler = ends[0] if ends.size else 0
    parents = np.zeros(rows.size, np.int64)
    parents[: running.size] = found.beam[running]
    history[rows, :length] = history[rows[parents], :length]
    for beam, row in enumerate(rows):
        alive = beam < running.size
        place = running[beam] if alive else 0
        token = int(found.token[place]) if alive else int(filler)
        state.score[row] = found.score[place] if alive else DEAD
        append_token(state, row, record, token, float(found.value[place]) if alive else 0.0)
        _feed(state, first + beam, token, length)


def _is_done(state: SearchState, rows: Rows, record: int) -> bool:
    """Whether a beam search, whose length counts the new token already, is over."""
    numbers = state.numbers[record]
    if numbers[LENGTH] == numbers[MOST]:
        return True
    if numbers[EARLY] and (state.pool_length[rows] > 0).all():
        return True
    hoped = numbers[HOPED] or numbers[LENGTH]
    possible = state.score[rows[0]] / state.norm[record, hoped]
    return not possible > state.pool_score[rows].min()  # minus a billion where one is free
