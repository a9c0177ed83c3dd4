"""Translations as they are given to whoever asked: of sentences, and of the text they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from server.execution import Hypothesis, Search
from server.tasks.translation import TranslationOptions
from server.text import Codec, Detection, Plan, Sentence
from server.translation.sentence import SentenceResult
from server.translation.word_links import Link


@dataclass(frozen=True, slots=True)
class TranslatedSentence:
    """One sentence of a text.

    Attributes:
        sentence: Where it came from.
        text: Its translation.
        results: What the model gave for each of its parts.
        others: The next best translations.
        links: Which words come from which, if that was asked for and can be told.
    """

    sentence: Sentence
    text: str
    results: tuple[SentenceResult, ...]
    others: tuple[tuple[str, Hypothesis], ...] = ()
    links: tuple[Link, ...] | None = None

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """The best of each part."""
        return [result.hypotheses[0] for result in self.results]

    @property
    def truncated(self) -> bool:
        """Whether the model was stopped before it was at an end."""
        return any(not hypothesis.finished for hypothesis in self.hypotheses)

    @property
    def looped(self) -> bool:
        """Whether the model was stopped because it repeated itself."""
        return any(result.looped for result in self.results)

    def describe(self) -> dict[str, Any]:
        """Return it as plain data."""
        parts = self.hypotheses
        described: dict[str, Any] = {
            "source": self.sentence.source,
            "start": self.sentence.start,
            "text": self.text,
            "score": mean_score(parts),
            "tokens": [token for part in parts for token in part.tokens],
            "truncated": self.truncated,
            "split": self.sentence.split,
            "repetition": self.looped,
            "cached": all(result.cached for result in self.results),
        }
        if parts and all(part.log_probabilities is not None for part in parts):
            values = [value for part in parts for value in part.log_probabilities or ()]
            described["log_probabilities"] = values
        if parts and all(part.alignment is not None for part in parts):
            described["alignment"] = None if self.links is None else list(map(asdict, self.links))
        return described


@dataclass(frozen=True, slots=True)
class Translation:
    """The translation of one text.

    Attributes:
        text: All of it, with everything that stands between sentences.
        score: The mean of its sentences' scores, weighted by their tokens; 0 of nothing.
        tokens: How many were generated.
        truncated: Whether a sentence was cut off; its translation is not complete.
        split: Whether a sentence was too long and was translated in pieces.
        repetition: Whether a sentence was ended because the model repeated itself.
        untranslated: Characters that stayed as they are, as the model knows no letter of them.
        source: The language that was translated from, or None where nothing says.
        target: The language that was translated to.
        detected: What the text's language seems to be, if that was asked for.
        alternatives: The next best translations, best first.
        sentences: In their order.
    """

    text: str
    score: float
    tokens: int
    truncated: bool
    split: bool
    repetition: bool
    untranslated: int
    source: str | None
    target: str | None
    detected: Detection | None
    alternatives: tuple[tuple[str, float], ...]
    sentences: tuple[TranslatedSentence, ...] = field(repr=False)

    def token_ids(self) -> list[int]:
        """Return all tokens that were generated, one sentence after the other."""
        return [
            token for each in self.sentences for part in each.hypotheses for token in part.tokens
        ]

    def describe(self, options: TranslationOptions) -> dict[str, Any]:
        """Return it as plain data."""
        described: dict[str, Any] = {
            "text": self.text,
            "score": self.score,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "split": self.split,
            "repetition": self.repetition,
            "untranslated": self.untranslated,
            "source": self.source,
            "target": self.target,
        }
        if self.detected is not None:
            described["detected"] = {
                "language": self.detected.language,
                "confidence": round(self.detected.confidence, 4),
            }
        if options.search.n_best > 1:
            described["alternatives"] = [
                {"text": text, "score": score} for text, score in self.alternatives
            ]
        if options.search.sample:
            described["seed"] = options.search.seed
        if options.sentences:
            described["sentences"] = [sentence.describe() for sentence in self.sentences]
        return described


def put_together(
    plan: Plan,
    done: Sequence[TranslatedSentence],
    search: Search,
    options: TranslationOptions,
    codec: Codec,
    detected: Detection | None,
) -> Translation:
    """Join the sentences of a text."""
    best = [part for sentence in done for part in sentence.hypotheses]
    return Translation(
        text=plan.join([sentence.text for sentence in done]),
        score=mean_score(best),
        tokens=sum(len(part.tokens) for part in best),
        truncated=any(sentence.truncated for sentence in done),
        split=any(sentence.sentence.split for sentence in done),
        repetition=any(sentence.looped for sentence in done),
        untranslated=plan.foreign,
        source=codec.source,
        target=codec.target,
        detected=detected,
        alternatives=_alternatives(plan, done, search.n_best),
        sentences=tuple(done),
    )


def mean_score(parts: Sequence[Hypothesis]) -> float:
    """Return the mean of scores, weighted by tokens; 0 without any."""
    tokens = sum(len(part.tokens) for part in parts)
    return sum(part.score * len(part.tokens) for part in parts) / tokens if tokens else 0.0


def _alternatives(
    plan: Plan, done: Sequence[TranslatedSentence], n_best: int
) -> tuple[tuple[str, float], ...]:
    """Return the k-th best translations: of every sentence its k-th best, or else its best."""
    found: dict[str, float] = {plan.join([sentence.text for sentence in done]): 0.0}
    for place in range(n_best - 1):
        chosen = [_choice(sentence, place) for sentence in done]
        text = plan.join([text for text, _ in chosen])
        found.setdefault(text, mean_score([part for _, parts in chosen for part in parts]))
    return tuple(found.items())[1:]


def _choice(sentence: TranslatedSentence, place: int) -> tuple[str, list[Hypothesis]]:
    if place < len(sentence.others):
        text, hypothesis = sentence.others[place]
        return text, [hypothesis]
    return sentence.text, sentence.hypotheses
