"""A document through a stand-in for a model, as the server drives it."""

from __future__ import annotations

from collections.abc import Callable

from server.text import Plan, PlanOptions, Sentence, plan_document
from tests.server.text.tokenizers import plain_codec

Model = Callable[[str], str]


def plan(text: str, **options: object) -> Plan:
    return plan_document(text, plain_codec(), PlanOptions(**options))  # type: ignore[arg-type]


def translated(text: str, model: Model, **options: object) -> str:
    document = plan(text, **options)
    return document.join([sentence_through(model, each) for each in document.sentences])


def sentence_through(model: Model, sentence: Sentence) -> str:
    for attempt in sentence.attempts():
        assert all(len(source.tokens) <= sentence.max_tokens for source in attempt.sources)
        done = attempt.finish([model(source.text) for source in attempt.sources])
        if done is not None:
            return done
    raise AssertionError("the last attempt has to succeed")


def sources(text: str, **options: object) -> list[str]:
    """Return what the model reads first of each sentence."""
    sentences = plan(text, **options).sentences
    return [next(iter(sentence.attempts())).sources[0].text for sentence in sentences]
