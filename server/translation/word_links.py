"""Which words of a sentence its translation's words come from, told by what the model looked at.

The model's weights are between tokens; people want words. A word is what stands between spaces,
without the marks around it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.text import Codec

Span = tuple[int, int]
WORD = re.compile(r"\S+")
INNER = re.compile(r"\w(?:.*\w)?", re.DOTALL)  # a word without the marks around it
LEAST_WEIGHT = 0.2  # of a word that is not the one looked at most


@dataclass(frozen=True, slots=True)
class Link:
    """A word of the translation, and a word that it comes from.

    Attributes:
        source, target: Where they are, in characters of the sentence and of its translation.
        weight: How much of its look at words went to this one.
    """

    source: Span
    target: Span
    weight: float


@dataclass(frozen=True, slots=True)
class Read:
    """A text and the tokens that the model read or wrote for it."""

    text: str
    tokens: Sequence[int]


def word_links(
    source: Read, target: Read, weights: Sequence[Sequence[float]], codec: Codec
) -> list[Link] | None:
    """Return the links of every word of a translation, in its order, the strongest first.

    None where words of the texts are not those of the tokens one by one: where a stand-in travelled
    for several words, or tags were put between them.

    Args:
        source: The sentence as it stands in the document, and what the encoder read.
        target: Its translation in the document, and what the decoder wrote.
        weights: Per token of the target, of the tokens of the source.
        codec: What the tokens mean.
    """
    sources = _owners(source, codec)
    targets = _owners(target, codec)
    if sources is None or targets is None:
        return None
    links = []
    for word, span in enumerate(targets.words):
        rows = [weights[token] for token in targets.tokens_of(word)]
        looked = [
            sum(row[token] for token in sources.tokens_of(place) for row in rows)
            for place in range(len(sources.words))
        ]
        total = sum(looked)
        if total <= 0:
            continue
        found = [
            Link(sources.words[place], span, round(part / total, 4))
            for place, part in enumerate(looked)
            if part == max(looked) or part >= LEAST_WEIGHT * total
        ]
        links += sorted(found, key=lambda link: -link.weight)
    return links


@dataclass(frozen=True, slots=True)
class _Owners:
    """The words of a text, and the word that each token belongs to; -1 of tokens that are none."""

    words: list[Span]
    of_token: list[int]

    def tokens_of(self, word: int) -> list[int]:
        return [token for token, owner in enumerate(self.of_token) if owner == word]


def _owners(read: Read, codec: Codec) -> _Owners | None:
    """Return who owns the tokens; None if the text has not the words that the tokens have."""
    of_token, before = [], ""
    for end in range(1, len(read.tokens) + 1):
        now = codec.decode(read.tokens[:end])
        more = now[len(before) :] if now.startswith(before) else now
        spoken = any(map(str.isalnum, more))
        of_token.append(len(now.split()) - 1 if spoken else -1)
        before = now
    written = [found.span() for found in WORD.finditer(read.text)]
    if len(written) != len(before.split()):
        return None
    return _Owners([_inner(read.text, span) for span in written], of_token)


def _inner(text: str, span: Span) -> Span:
    found = INNER.search(text[slice(*span)])
    return span if found is None else (span[0] + found.start(), span[0] + found.end())
