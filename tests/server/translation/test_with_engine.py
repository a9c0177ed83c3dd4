"""The decode loop over the engine's own decoder: together gives what alone gives."""

import asyncio

import pytest

from engine import SlotSizes
from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.search import Search
from server.batching.steps import StepLimits
from server.errors import InvalidInput
from server.metrics import Metrics, TranslationMetrics
from server.translation.cache import SentenceCache
from server.translation.loop import DecodeLoop
from server.translation.sentences import Sentences
from tests.engine.generation.toy import END, SECOND_END, START, Tables, ToyModel

VOCABULARY, SOURCES = 40, 12
TABLES = Tables(VOCABULARY, SOURCES, seed=3, end_bonus=1.0)
SIZES = SlotSizes(rows=10, sources=6, source_tokens=4, target_tokens=40)


def decoder():
    return StepDecoder(RecomputingSlots(ToyModel(TABLES), SIZES), SIZES)


def wanted(**options) -> Search:
    return Search(start=START, end=(END, SECOND_END), **{"max_new_tokens": 30, **options})


SEARCHES = (
    wanted(),
    wanted(max_new_tokens=7, log_probabilities=True),
    wanted(beams=4, n_best=3, length_penalty=0.6),
    wanted(beams=2, early_stopping=True, no_repeat_ngram=2),
    wanted(sample=True, temperature=0.8, top_k=9, seed=11),
    wanted(repetition_penalty=1.3, min_new_tokens=5),
)


def alone(source, search):
    single = decoder()
    (slot,) = single.add_sources([[source]])
    handle = single.start(slot, search)
    while not single.step().done.all():
        pass
    return tuple(single.hypotheses(handle))


@pytest.fixture
async def sentences():
    counted = TranslationMetrics(SIZES.rows)
    loop = DecodeLoop(
        decoder(), StepLimits(SIZES.rows, SIZES.sources), counted, max_waiting=500, guard=False
    )
    metrics = Metrics().model("toy", "1")
    yield Sentences(loop, SIZES, SentenceCache(0), metrics, counted)
    await loop.close()


async def test_what_a_sentence_gives_does_not_depend_on_its_neighbours(sentences):
    cases = [(source, search) for source in range(SOURCES) for search in SEARCHES]
    results = await asyncio.gather(
        *(sentences.submit([source], search) for source, search in cases)
    )
    for (source, search), result in zip(cases, results, strict=True):
        assert result.hypotheses == alone(source, search)
    assert sentences.decoding.row_steps > 4 * sentences.decoding.step_seconds.count


async def test_a_stream_is_the_result_token_by_token(sentences):
    heard = [[] for _ in range(SOURCES)]
    results = await asyncio.gather(
        *(
            sentences.submit([source], SEARCHES[0], on_token=heard[source].append)
            for source in range(SOURCES)
        )
    )
    for result, tokens in zip(results, heard, strict=True):
        best = result.hypotheses[0]
        assert tokens == list(best.tokens[:-1] if best.finished else best.tokens)


async def test_what_the_decoder_refuses_is_told_to_the_one_who_asked(sentences):
    outcomes = await asyncio.gather(
        sentences.submit([VOCABULARY], SEARCHES[0]),
        sentences.submit([1], SEARCHES[0]),
        sentences.submit([2], wanted(suppressed=(VOCABULARY,))),
        return_exceptions=True,
    )
    assert [type(outcomes[0]), type(outcomes[2])] == [InvalidInput, InvalidInput]
    assert outcomes[1].hypotheses == alone(1, SEARCHES[0])
