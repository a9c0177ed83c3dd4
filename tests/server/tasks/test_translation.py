"""What a request may ask of a translation model."""

from __future__ import annotations

import pytest

from server.errors import InvalidInput
from server.execution import Search
from server.tasks import TranslationTask

TASK = TranslationTask(Search(start=1, end=(0,), beams=4), rows=8, target_tokens=64)


def options(**parameters: object):
    return TASK.options(TASK.parameters(parameters))


def test_nothing_asked_is_the_models_own_way():
    found = options()
    assert found.search == Search(start=1, end=(0,), beams=4)
    assert (found.source, found.target, found.format, found.glossary) == (None, None, "text", None)
    assert not found.sentences


def test_what_is_asked_is_taken_also_as_text():
    found = options(beams="2", length_penalty="0.6", early_stopping="never", source="de")
    assert (found.search.beams, found.search.length_penalty) == (2, 0.6)
    assert (found.search.early_stopping, found.source) == ("never", "de")
    assert options(early_stopping="true").search.early_stopping is True


def test_alternatives_need_beams_and_chance_needs_none():
    assert options(n_best=6).search.beams == 6
    assert options(n_best=2).search.beams == 4
    assert options(sample=True).search.beams == 1
    assert options(sample=True, seed=5).search.seed == 5
    assert options(sample=True, n_best=2).search.beams == 2
    assert options(sample=True, beams=3).search.beams == 3


def test_alignment_comes_with_sentences():
    assert options(alignment=True).sentences and options(alignment="true").search.alignment
    assert not options().search.alignment


def test_log_probabilities_come_with_sentences():
    assert options(log_probabilities=True).sentences and options(sentences=True).sentences


def test_a_list_of_terms_keeps_them():
    assert options(glossary=["Haus"]).glossary == {"Haus": "Haus"}
    assert options(glossary=None, source="").glossary is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"beams": 9},
        {"beams": 1.0},
        {"beams": True},
        {"n_best": 3, "beams": 2},
        {"n_best": 2, "sample": True, "beams": 1},
        {"max_new_tokens": 64},
        {"max_new_tokens": "9" * 30},
        {"min_new_tokens": 10, "max_new_tokens": 9},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"length_penalty": "x"},
        {"seed": -1},
        {"source": 5},
        {"source": "x" * 41},
        {"target": "a\nb"},
        {"format": "markdown"},
        {"glossary": "Haus"},
        {"glossary": {"Haus": 5}},
        {"glossary": {"": "x"}},
        {"glossary": {"a" * 201: "x"}},
        {"glossary": {str(k): "x" for k in range(1001)}},
        {"glossary": [1]},
        {"start": 5},
        {"unknown": 1},
    ],
)
def test_what_cannot_be_is_told_by_name(parameters: dict):
    with pytest.raises(InvalidInput) as caught:
        options(**parameters)
    assert caught.value.extra["field"].startswith("parameters.")
