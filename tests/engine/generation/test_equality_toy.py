"""Searches over tables equal Hugging Face's `generate`, token for token, in every setting."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.search import Hypothesis, Search, SlotSizes
from tests.engine.generation.settings_table import SETTINGS
from tests.engine.generation.toy import END, START, Tables, ToyModel

EXPECTED = Path(__file__).with_name("expected_toy.json")
SOURCES = 6
TABLES = [(40, SOURCES, 0, 0.5), (300, SOURCES, 1, 4.0)]
SIZES = SlotSizes(rows=30, sources=SOURCES, source_tokens=1, target_tokens=32)


def search_all(decoder: StepDecoder, asked: Search) -> list[list[Hypothesis]]:
    """Search over all sources at the same time."""
    sources = decoder.add_sources([[number] for number in range(SOURCES)])
    handles = [decoder.start(source, asked) for source in sources]
    while decoder.step().searches.size:
        pass
    return [decoder.hypotheses(handle) for handle in handles]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXPECTED.read_text())
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_searches_equal_hugging_face(name: str, expected: dict[str, Any]) -> None:
    asked = Search(**{"start": START, "end": (END,), "max_new_tokens": 20, **SETTINGS[name]})
    found: list[list[Hypothesis]] = []
    for numbers in TABLES:
        model = ToyModel(Tables(*numbers))
        found += search_all(StepDecoder(RecomputingSlots(model, SIZES), SIZES), asked)
    assert len(found) == len(expected[name]) == 2 * SOURCES
    for hypotheses, answer in zip(found, expected[name], strict=True):
        assert [list(one.tokens) for one in hypotheses] == [tokens for tokens, _ in answer]
        for one, (_, score) in zip(hypotheses, answer, strict=True):
            if score is not None:
                assert one.score == pytest.approx(score, rel=1e-5, abs=1e-6)


def test_the_settings_matter(expected: dict[str, Any]) -> None:
    """What was recorded differs between most settings, and sequences of many lengths are in it."""
    assert len({json.dumps(found) for found in expected.values()}) > 0.8 * len(expected)
    lengths = {
        len(tokens) for found in expected["beams 4 length 1 early False"] for tokens, _ in found
    }
    assert len(lengths) > 4


def test_what_was_recorded_is_what_hugging_face_answers(expected: dict[str, Any]) -> None:
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        pytest.skip("torch and transformers are not installed: the recorded answers are trusted")
    from tests.engine.generation import hugging_face

    for name, answers in hugging_face.expected().items():
        for answer, recorded in zip(answers, expected[name], strict=True):
            assert [tokens for tokens, _ in answer] == [tokens for tokens, _ in recorded]
