"""Searches side by side over a small model: who joins, who leaves, and what they find."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.search import Search, SlotSizes
from tests.engine.generation.toy import END, START, Tables, ToyModel

SIZES = SlotSizes(rows=12, sources=6, source_tokens=8, target_tokens=24)


def decoder(sizes: SlotSizes = SIZES, vocabulary: int = 40, seed: int = 0) -> StepDecoder:
    model = ToyModel(Tables(vocabulary, 8, seed, 2.0))
    return StepDecoder(RecomputingSlots(model, sizes), sizes)


def search(**changes: object) -> Search:
    return Search(**{"start": START, "end": (END,), "max_new_tokens": 20, **changes})  # type: ignore[arg-type]


def finish(one: StepDecoder, handle: int) -> list[engine.Hypothesis]:
    while True:
        result = one.step()
        if result.done[result.searches.tolist().index(handle)]:
            return one.hypotheses(handle)


def alone(source: int, asked: Search) -> list[engine.Hypothesis]:
    one = decoder()
    handle = one.start(one.add_sources([[source]])[0], asked)
    return finish(one, handle)


MIXED = [
    search(),
    search(beams=4, n_best=4),
    search(beams=2, length_penalty=0.6),
    search(sample=True, seed=7, temperature=1.5),
    search(beams=3, no_repeat_ngram=2, repetition_penalty=1.3),
    search(max_new_tokens=3),
]


def test_a_search_finds_the_same_whoever_runs_beside_it() -> None:
    rng = np.random.default_rng(1)
    one = decoder()
    sources = one.add_sources([[k] for k in range(6)])
    running: dict[int, tuple[int, Search]] = {}
    found = 0
    for _ in range(400):
        number, asked = int(rng.integers(6)), MIXED[rng.integers(len(MIXED))]
        if rng.random() < 0.3 and asked.beams <= one.free_rows:
            running[one.start(sources[number], asked)] = number, asked
        elif running and rng.random() < 0.05:
            handle = next(iter(running))
            one.release(handle)  # given up
            del running[handle]
        result = one.step()
        assert result.searches.tolist() == sorted(running)
        for handle in result.searches[result.done].tolist():
            number, asked = running.pop(handle)
            assert one.hypotheses(handle) == alone(number, asked)
            one.release(handle)
            found += 1
    assert found > 50


def test_greedy_takes_the_largest_logit() -> None:
    tables = Tables(40, 8, 0, 2.0)
    tokens: list[int] = []
    last = before = START
    while len(tokens) < 20 and (not tokens or tokens[-1] != END):
        rows = tables.last[last] + tables.before[before] + tables.source[2]
        tokens.append(int(np.argmax(rows + tables.position[len(tokens) + 1])))
        last, before = tokens[-1], last
    found = alone(2, search(log_probabilities=True))
    assert found[0].tokens == tuple(tokens)
    assert found[0].finished == (tokens[-1] == END)
    assert found[0].log_probabilities is not None
    assert found[0].score == pytest.approx(np.mean(found[0].log_probabilities), rel=1e-5)


@pytest.mark.parametrize("beams", [2, 5])
def test_beam_scores_add_up(beams: int) -> None:
    for one in alone(1, search(beams=beams, n_best=beams, log_probabilities=True)):
        assert one.log_probabilities is not None
        assert len(one.log_probabilities) == len(one.tokens)
        assert one.score == pytest.approx(sum(one.log_probabilities) / len(one.tokens), rel=1e-4)


def test_steps_report_tokens_and_ends() -> None:
    one = decoder()
    handle = one.start(one.add_sources([[3]])[0], search())
    tokens: list[int] = []
    while True:
        result = one.step()
        tokens += result.tokens.tolist()
        assert one.running_tokens(handle) == tokens
        if result.done[0]:
            break
    assert one.hypotheses(handle)[0].tokens == tuple(tokens)
    assert one.step().searches.size == 0  # it holds its row, and is in no step
    assert one.free_rows == SIZES.rows - 1
    one.release(handle)
    assert one.free_rows == SIZES.rows


def test_running_searches_tell_what_they_have() -> None:
    one = decoder()
    handle = one.start(one.add_sources([[3]])[0], search(beams=3, n_best=2, min_new_tokens=9))
    assert one.hypotheses(handle)[0].tokens == ()
    one.step()
    one.step()
    best, second = one.hypotheses(handle)
    assert (len(best.tokens), len(second.tokens)) == (2, 2)
    assert best.score >= second.score
    assert not best.finished


def test_rows_and_sources_are_counted() -> None:
    one = decoder()
    first, second = one.add_sources([[1], [2]])
    assert one.free_sources == SIZES.sources - 2
    handle = one.start(first, search(beams=8))
    with pytest.raises(engine.ResourceLimit, match="5 free rows"):
        one.start(second, search(beams=5))
    one.release_source(first)  # waits for the search
    assert one.free_sources == SIZES.sources - 2
    with pytest.raises(engine.InvalidInput, match="add_sources"):
        one.start(first, search())
    one.release(handle)
    assert one.free_sources == SIZES.sources - 1
    assert one.free_rows == SIZES.rows
    one.release_source(second)
    with pytest.raises(engine.InvalidInput, match="not released"):
        one.release_source(second)
    with pytest.raises(engine.InvalidInput, match="handle"):
        one.release(handle)
    with pytest.raises(engine.ResourceLimit):
        one.add_sources([[1]] * 7)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"start": 40}, "start"),
        ({"end": (-1,)}, "end"),
        ({"suppressed": (40,)}, "suppressed"),
        ({"bad_words": ((1, 99),)}, "bad_words"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"forced_first": 40}, "forced_first"),
        ({"forced_first": 5, "suppressed": (5,)}, "forced_first"),
        ({"max_new_tokens": 24}, "max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"beams": 0}, "beams"),
        ({"beams": 13}, "beams"),
        ({"beams": 2, "n_best": 3}, "n_best"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"early_stopping": "always"}, "early_stopping"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], named: str) -> None:
    one = decoder()
    source = one.add_sources([[0]])[0]
    with pytest.raises(engine.InvalidInput, match=named):
        one.start(source, search(**changes))
    assert one.free_rows == SIZES.rows


@pytest.mark.parametrize("sentence", [[], [1] * 9, [40], [-1]])
def test_sentences_are_checked(sentence: list[int]) -> None:
    one = decoder()
    with pytest.raises(engine.InvalidInput, match="sentence 1"):
        one.add_sources([[1], sentence])
    assert one.free_sources == SIZES.sources


def test_logits_that_are_no_numbers_end_their_search_alone() -> None:
    one = decoder()
    sources = one.add_sources([[0], [1], [2]])
    one._slots.model.tables.source[1, 7] = np.nan  # type: ignore[attr-defined]
    handles = [one.start(source, search(beams=2)) for source in sources]
    greedy = one.start(sources[1], search())
    drawn = one.start(sources[1], search(beams=2, sample=True))
    result = one.step()
    assert result.done.tolist() == [False, True, False, True, True]
    for broken in (handles[1], greedy, drawn):
        with pytest.raises(engine.RunFailed, match="not numbers"):
            one.hypotheses(broken)
    assert finish(one, handles[0])


class HalfSlots(RecomputingSlots):
    """Slots of a model that gives logits of half precision."""

    def __init__(self, model: ToyModel, sizes: SlotSizes) -> None:
        super().__init__(model, sizes)
        self.logits = self.logits.astype(np.float16)  # type: ignore[assignment]


def test_narrow_logits_are_widened_before_they_are_summed() -> None:
    vocabulary = 1000  # whose probabilities add up in float32, not in float16
    model = ToyModel(Tables(vocabulary, 8, 0, 2.0))
    one = StepDecoder(HalfSlots(model, SIZES), SIZES)
    exact = StepDecoder(RecomputingSlots(model, SIZES), SIZES)
    found = []
    for each in (one, exact):
        handle = each.start(each.add_sources([[3]])[0], search(beams=2, max_new_tokens=4))
        found.append(finish(each, handle)[0])
    assert found[0].tokens == found[1].tokens
    assert found[0].score == pytest.approx(found[1].score, rel=2e-3)
