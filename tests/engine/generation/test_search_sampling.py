"""What is drawn: the right probabilities, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.generation.beam_sampling import drawn, offer_of
from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.sampling import chances
from engine.generation.search import Hypothesis, Search, SlotSizes
from tests.engine.generation.native_slots import NativeSlots
from tests.engine.generation.toy import END, START, Tables, ToyModel

VOCABULARY = 30
SIZES = SlotSizes(rows=64, sources=2, source_tokens=1, target_tokens=8)


def plain(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The definition, token by token, best first."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if top_k:
        least = logits[order[min(top_k, len(order)) - 1]]
        order = [token for token in order if logits[token] >= least]
    weights = {t: np.exp((float(logits[t]) - float(logits[order[0]])) / temperature) for t in order}
    total = sum(weights.values())
    found, before = np.zeros(len(logits)), 0.0
    for token in order:
        if token == order[0] or before < top_p:
            found[token] = weights[token]
        before += weights[token] / total
    return np.asarray(found / found.sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.9, 1.0])
def test_chances_are_as_defined(temperature: float, top_k: int, top_p: float) -> None:
    rng = np.random.default_rng(3)
    for width in (1, 2, 9, 400):
        logits = (3 * rng.standard_normal(width)).astype(np.float32)
        logits[rng.random(width) < 0.2] = -np.inf
        logits[-1] = 1.0
        found = chances(logits, temperature, top_k, top_p)
        dense = np.zeros(width)
        dense[found.tokens] = found.weights
        np.testing.assert_allclose(dense, plain(logits, temperature, top_k, top_p), atol=1e-12)


@pytest.mark.parametrize("slots", [RecomputingSlots, NativeSlots])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (1.7, 9, 0.9)])
def test_first_tokens_are_distributed_as_defined(
    slots: type[RecomputingSlots], temperature: float, top_k: int, top_p: float
) -> None:
    tables = Tables(VOCABULARY, 2, 5, 0.0)
    decoder = StepDecoder(slots(ToyModel(tables), SIZES), SIZES)
    source = decoder.add_sources([[1]])[0]
    counts = np.zeros(VOCABULARY)
    draws = 64 * 60
    for seed in range(0, draws, 64):
        handles = [
            decoder.start(
                source,
                Search(
                    start=START,
                    end=(END,),
                    max_new_tokens=4,
                    sample=True,
                    seed=seed + k,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    suppressed=(6,),
                ),
            )
            for k in range(64)
        ]
        np.add.at(counts, decoder.step().tokens, 1)
        for handle in handles:
            decoder.release(handle)
    logits = (tables.last[START] + tables.before[START]) + tables.source[1] + tables.position[1]
    logits[6] = -np.inf
    wanted = plain(logits, temperature, top_k, top_p)
    assert counts[wanted == 0].sum() == 0
    likely = wanted > 0
    squares = (counts - draws * wanted)[likely] ** 2 / (draws * wanted[likely])
    freedom = likely.sum() - 1
    assert squares.sum() < freedom + 5 * np.sqrt(2 * freedom)  # chi squared; seeds are fixed


def test_a_seed_draws_the_same_alone_and_beside_others() -> None:
    def run(seeds: list[int], wanted: int) -> tuple[int, ...]:
        decoder = StepDecoder(
            RecomputingSlots(ToyModel(Tables(VOCABULARY, 2, 5, 0.0)), SIZES), SIZES
        )
        source = decoder.add_sources([[0]])[0]
        handles = {}
        for seed in seeds:
            asked = Search(start=START, end=(END,), max_new_tokens=7, sample=True, seed=seed)
            handles[seed] = decoder.start(source, asked)
            decoder.step()  # each is at a position of its own
        while decoder.step().searches.size:
            pass
        return decoder.hypotheses(handles[wanted])[0].tokens

    assert run([4], 4) == run([1, 2, 4, 3], 4) == run([4, 8, 9], 4)
    assert len({run([seed], seed) for seed in range(20)}) > 15


# --- with beams


def drawn_with(slots: type[RecomputingSlots], seed: int, **options: object) -> list[Hypothesis]:
    decoder = StepDecoder(slots(ToyModel(Tables(VOCABULARY, 2, 5, 1.0)), SIZES), SIZES)
    [source] = decoder.add_sources([[1]])
    settings: dict[str, Any] = {"max_new_tokens": 6, "beams": 3, "n_best": 3, **options}
    other = decoder.start(source, Search(START, (END,), beams=2, max_new_tokens=3))
    decoder.step()
    handle = decoder.start(source, Search(START, (END,), sample=True, seed=seed, **settings))
    while decoder.step().searches.size:
        pass
    assert decoder.hypotheses(other)
    return decoder.hypotheses(handle)


def test_drawn_beams_are_those_of_their_sums() -> None:
    """One candidate of two beams: each comes as often as its sum says."""
    logs = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], np.float32))
    search = Search(START, (END,), beams=2, sample=True, temperature=0.7)
    offers = [
        offer_of(row, score, search, 2) for row, score in zip(logs, (-1.0, -1.7), strict=True)
    ]
    sums = np.concatenate([offer.score + offer.values for offer in offers])
    wanted = np.exp(sums) / np.exp(sums).sum()
    counts, draws = np.zeros(6), 4000
    for seed in range(draws):
        places = drawn(offers, 1, seed, 3)
        [place] = [3 * beam + int(p) for beam, chosen in enumerate(places) for p in chosen]
        counts[place] += 1
    squares = (counts - draws * wanted) ** 2 / (draws * wanted)
    assert squares.sum() < 5 + 5 * np.sqrt(10)  # chi squared; seeds are fixed


def test_nothing_is_drawn_twice_and_all_can_be() -> None:
    search = Search(START, (END,), beams=2, sample=True)
    offers = [offer_of(np.log(np.full(4, 0.25, np.float32)), -1.0, search, 2) for _ in range(2)]
    places = drawn(offers, 8, 1, 0)
    assert [sorted(chosen.tolist()) for chosen in places] == [[0, 1, 2, 3]] * 2
    assert sum(chosen.size for chosen in drawn(offers, 5, 1, 0)) == 5


def test_offers_hold_enough_to_go_on() -> None:
    logs = np.array([-0.1, -3.0, -np.inf, -4.0, -9.0], np.float32)
    few = Search(START, (END,), beams=2, sample=True, top_k=1)
    assert offer_of(logs, 0.0, few, 2).tokens.tolist() == [0, 1]
    few = Search(START, (END,), beams=2, sample=True, top_p=0.01)
    assert offer_of(logs, 0.0, few, 3).tokens.tolist() == [0, 1, 3]
    assert offer_of(logs, 0.0, few, 9).tokens.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.6, "top_k": 4},
        {"top_p": 0.5, "suppressed": (6,), "min_new_tokens": 3},
        {"forced_first": 9, "forced_last": END, "early_stopping": True},
        {"repetition_penalty": 1.4, "no_repeat_ngram": 2, "log_probabilities": True},
        {"beams": 8, "n_best": 8, "top_k": 1},
    ],
)
def test_native_and_plain_draw_the_same_beams(options: dict[str, object]) -> None:
    for seed in range(4):
        plain_found = drawn_with(RecomputingSlots, seed, **options)
        native_found = drawn_with(NativeSlots, seed, **options)
        assert [h.tokens for h in plain_found] == [h.tokens for h in native_found]
        scores = [[h.score for h in found] for found in (plain_found, native_found)]
        np.testing.assert_allclose(*scores, rtol=1e-5)
        assert len({h.tokens for h in plain_found}) == len(plain_found)
        if "forced_first" in options:
            assert all(h.tokens[0] == 9 and h.tokens[-1] == END for h in plain_found)


def test_seeds_draw_other_beams() -> None:
    found = {tuple(h.tokens for h in drawn_with(RecomputingSlots, seed)) for seed in range(12)}
    assert len(found) > 8


def test_a_cold_draw_is_the_beam_search() -> None:
    """Where the temperature leaves no doubt, the best are drawn."""
    cold = drawn_with(RecomputingSlots, 1, temperature=1e-3, n_best=1)
    warm = [drawn_with(RecomputingSlots, seed, n_best=1)[0].tokens for seed in range(3)]
    again = drawn_with(RecomputingSlots, 2, temperature=1e-3, n_best=1)
    assert cold[0].tokens == again[0].tokens
    assert any(tokens != cold[0].tokens for tokens in warm)
