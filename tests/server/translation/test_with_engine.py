"""The decode loop over the engine's own decoders: together gives what alone gives."""

import asyncio
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import engine
from engine import Decoder, SlotSizes
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

NETWORKS = Path(__file__).parents[2] / "engine" / "generation" / "fixtures"
SIZES = SlotSizes(rows=10, sources=6, source_tokens=16, target_tokens=24)


@dataclass
class Case:
    """A model: how to open slots, its tokens, and sentences that it takes."""

    open: Callable[[], Decoder]
    vocabulary: int
    start: int
    end: tuple[int, ...]
    sentences: list[list[int]]

    def searches(self):
        common = {"start": self.start, "end": self.end, "max_new_tokens": 20}
        settings = (
            {},
            {"max_new_tokens": 7, "log_probabilities": True},
            {"beams": 4, "n_best": 3, "length_penalty": 0.6},
            {"beams": 2, "early_stopping": True, "no_repeat_ngram": 2},
            {"sample": True, "temperature": 0.8, "top_k": 9, "seed": 11},
            {"repetition_penalty": 1.3, "min_new_tokens": 5},
        )
        return [Search(**{**common, **each}) for each in settings]

    def alone(self, tokens, search):
        single = self.open()
        (slot,) = single.add_sources([tokens])
        handle = single.start(slot, search)
        while not single.step().done.all():
            pass
        return tuple(single.hypotheses(handle))


def tables():
    """A model made of tables, decoding whole prefixes."""
    made = Tables(40, 12, seed=3, end_bonus=1.0)

    def decoder():
        return StepDecoder(RecomputingSlots(ToyModel(made), SIZES), SIZES)

    return Case(decoder, 40, START, (END, SECOND_END), [[k] for k in range(12)])


def marian(folder):
    """A tiny export with random weights, stepping over static caches."""
    with zipfile.ZipFile(NETWORKS / "marian.zip") as archive:
        archive.extractall(folder)
    model = engine.load_seq2seq(folder, device="cpu")
    assert model.cached
    rng = random.Random(1)
    sentences = [[*rng.choices(range(2, 60), k=rng.randint(1, 14)), 0] for _ in range(12)]
    return Case(lambda: model.open(SIZES), 61, 60, (0,), sentences)


@pytest.fixture(scope="module", params=["tables", pytest.param("cpu", marks=pytest.mark.native)])
def case(request, tmp_path_factory):
    if request.param == "tables":
        return tables()
    return marian(tmp_path_factory.mktemp("marian"))


@pytest.fixture
async def sentences(case):
    counted = TranslationMetrics(SIZES.rows)
    limits = StepLimits(SIZES.rows, SIZES.sources)
    loop = DecodeLoop(case.open(), limits, counted, max_waiting=500, guard=False)
    metrics = Metrics().model("toy", "1")
    yield Sentences(loop, SIZES, SentenceCache(0), metrics, counted)
    await loop.close()


async def test_what_a_sentence_gives_does_not_depend_on_its_neighbours(case, sentences):
    asked = [(tokens, search) for tokens in case.sentences for search in case.searches()]
    results = await asyncio.gather(*(sentences.submit(*each) for each in asked))
    for (tokens, search), result in zip(asked, results, strict=True):
        assert result.hypotheses == case.alone(tokens, search)
    assert sentences.decoding.row_steps > 4 * sentences.decoding.step_seconds.count


async def test_a_stream_is_the_result_token_by_token(case, sentences):
    search = case.searches()[0]
    heard = [[] for _ in case.sentences]
    results = await asyncio.gather(
        *(
            sentences.submit(tokens, search, on_token=tell.append)
            for tokens, tell in zip(case.sentences, heard, strict=True)
        )
    )
    for result, tokens in zip(results, heard, strict=True):
        best = result.hypotheses[0]
        assert tokens == list(best.tokens[:-1] if best.finished else best.tokens)


async def test_what_the_decoder_refuses_is_told_to_the_one_who_asked(case, sentences):
    greedy = case.searches()[0]
    wrong = Search(start=case.start, end=case.end, suppressed=(case.vocabulary,), max_new_tokens=5)
    outcomes = await asyncio.gather(
        sentences.submit([case.vocabulary], greedy),
        sentences.submit(case.sentences[1], greedy),
        sentences.submit(case.sentences[2], wrong),
        return_exceptions=True,
    )
    assert [type(outcomes[0]), type(outcomes[2])] == [InvalidInput, InvalidInput]
    assert outcomes[1].hypotheses == case.alone(case.sentences[1], greedy)
