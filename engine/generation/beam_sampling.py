"""Beams that are drawn: of the continuations of all beams as many as a beam search would look at.

Hugging Face (transformers 5, `_beam_search` with `do_sample`) draws them without replacement, each
with the probability that its sum of log-probabilities gives it. The same is had by adding Gumbel
noise to the sums and taking the largest (Kool, van Hoof and Welling, "Stochastic Beams and Where to
Find Them", 2019). What is drawn then moves the search on as the best candidates do otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.generation.sampling import chances
from engine.generation.search import Search
from engine.generation.selection import forced_token
from engine.generation.state import KEEP, LENGTH, SearchState

NOTHING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What a beam could go on with.

    Attributes:
        tokens: In ascending order. (n,)
        values: Their log-probabilities over the temperature. (n,)
        score: The beam's sum so far.
    """

    tokens: NDArray[np.int64]
    values: NDArray[np.float64]
    score: float


def offer_of(
    log_probabilities: NDArray[np.float32], score: float, search: Search, least: int
) -> Offer:
    """Return what a beam offers: `least` tokens or more, so that the search can go on."""
    top_k = max(search.top_k, least) if search.top_k else 0
    found = chances(log_probabilities, search.temperature, top_k, search.top_p)
    tokens = found.tokens
    if tokens.size < least:
        best = np.argsort(-log_probabilities, kind="stable")[:least]
        tokens = np.sort(best[log_probabilities[best] > -np.inf])
    values = log_probabilities[tokens].astype(np.float64) / search.temperature
    return Offer(tokens, values, score)


def drawn(offers: list[Offer], count: int, seed: int, step: int) -> list[NDArray[np.int64]]:
    """Return the places that are drawn of each offer, `count` of all together, best first."""
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128, counter=step))
    sums = [offer.score + offer.values for offer in offers]
    lost = np.concatenate([each + generator.gumbel(size=each.size) for each in sums])
    taken = np.argsort(-lost, kind="stable")[:count]
    found, begin = [], 0
    for each in sums:
        mine = taken[(taken >= begin) & (taken < begin + each.size)] - begin
        found.append(mine[np.argsort(-each[mine], kind="stable")])
        begin += each.size
    return found


def draw_candidates(
    state: SearchState, first: int, rows: NDArray[np.int64], search: Search, ends: int
) -> None:
    """Put drawn tokens in the place of the best ones, for the rows of one search.

    Args:
        state: Holds edited logits, and the best tokens, which are no more where none can come.
        first: The search's first batch row.
        rows: Its cache rows.
        search: Its settings.
        ends: How many tokens end it.
    """
    record, beams = int(rows[0]), range(rows.size)
    if forced_token(state, record) >= 0:
        return
    alive = [beam for beam in beams if state.token[first + beam, 0] >= 0]
    if not alive:
        return
    offers = []
    for beam in alive:
        row = first + beam
        logs = (state.logits[row] - state.peak[row]) - state.log_sum[row]
        offers.append(offer_of(logs, float(state.score[rows[beam]]), search, 1 + max(1, ends)))
    keep = int(state.numbers[record, KEEP])
    places = drawn(offers, keep, search.seed, int(state.numbers[record, LENGTH]))
    for beam, offer, chosen in zip(alive, offers, places, strict=True):
        row, count = first + beam, chosen.size
        state.token[row, :count], state.token[row, count:keep] = offer.tokens[chosen], NOTHING
        state.value[row, :count], state.value[row, count:keep] = offer.values[chosen], -np.inf
