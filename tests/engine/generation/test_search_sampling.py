"""What is drawn: the right probabilities, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.sampling import chances
from engine.generation.search import Search, SlotSizes
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
