"""What a search found, read from the state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunFailed
from engine.generation.alignment import KeptQueries, Weights
from engine.generation.search import Hypothesis, Search
from engine.generation.state import DONE, LEAST_SCORE, LENGTH, SearchState


def hypotheses_of(
    state: SearchState,
    rows: NDArray[np.int64],
    search: Search,
    queries: KeptQueries | None = None,
) -> list[Hypothesis]:
    """Return the best `n_best` sequences, best first; of a running search what it has so far.

    Fewer come where fewer exist: a search whose every token was forced has one.

    Raises:
        RunFailed: No token could be chosen: the model's logits are not numbers, or all tokens were
            forbidden.
    """
    found = _finished(state, rows, search, queries)
    if not state.numbers[rows[0], DONE] or not found:
        found += _running(state, rows, search, queries)
    if not found:
        reason = "no token can be chosen: logits are not numbers, or every token is forbidden"
        raise RunFailed("decoder", "search", reason)
    found.sort(key=lambda hypothesis: -hypothesis.score)  # stable
    return found[: search.n_best]


def _finished(
    state: SearchState, rows: NDArray[np.int64], search: Search, queries: KeptQueries | None
) -> list[Hypothesis]:
    found = []
    for row in rows:
        length = int(state.pool_length[row])
        if length:
            history = state.pool_history[row]
            tokens = [*state.tokens_of(history, length - 1).tolist(), int(state.pool_token[row])]
            values = [*state.values_of(history, length - 1).tolist(), float(state.pool_value[row])]
            looked = None if queries is None else queries.weights(history, length)
            score = float(state.pool_score[row])
            found.append(_hypothesis(search, tokens, values, score, looked))
    return found


def _running(
    state: SearchState, rows: NDArray[np.int64], search: Search, queries: KeptQueries | None
) -> list[Hypothesis]:
    record = rows[0]
    length = int(state.numbers[record, LENGTH])
    found = []
    for row in rows:
        if state.score[row] > LEAST_SCORE:
            history = state.slots.history[row]
            tokens = state.tokens_of(history, length).tolist()
            values = state.values_of(history, length).tolist()
            score = float(state.score[row] / state.norm[record, length])
            looked = None if queries is None else queries.weights(history, length)
            found.append(_hypothesis(search, tokens, values, score, looked))
    return found


def _hypothesis(
    search: Search, tokens: list[int], values: list[float], score: float, looked: Weights | None
) -> Hypothesis:
    finished = bool(tokens) and tokens[-1] in search.end
    values_asked = tuple(values) if search.log_probabilities else None
    return Hypothesis(tuple(tokens), score, finished, values_asked, looked)


def running_tokens_of(state: SearchState, rows: NDArray[np.int64]) -> list[int]:
    """Return the tokens of the best sequence that is still running, or was last."""
    length = int(state.numbers[rows[0], LENGTH])
    tokens: list[int] = state.tokens_of(state.slots.history[rows[0]], length).tolist()
    return tokens
