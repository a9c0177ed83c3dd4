"""What translation needs of a tokenizer, whatever files it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .streaming import TokenStream


class Vocabulary(Protocol):
    """Text to token ids and back, without anything that a model adds around them. Thread-safe."""

    size: int  # one more than the largest id
    unknown: int | None  # the id that stands for what the vocabulary lacks

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Names of special tokens in it are plain text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens and ids out of range leave no trace."""


@dataclass(frozen=True)
class Codec:
    """A vocabulary as one model uses it for one pair of languages.

    Attributes:
        vocabulary: Text to ids and back.
        lead: Ids in front of every source (a language, as M2M-100 has it).
        tail: Ids behind every source (the end, a language).
        prefix: Text in front of every source ("translate English to German: ", as T5 has it).
        forced_first: The token that a target must begin with, or None.
        source: The source language as it was asked for or declared, or None.
        target: The target language likewise.
        settings: What the model's files say about generating for this pair (T5's tasks).
    """

    vocabulary: Vocabulary
    lead: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    prefix: str = ""
    forced_first: int | None = None
    source: str | None = None
    target: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids that the encoder reads for `text`."""
        return (*self.lead, *self.vocabulary.encode(self.prefix + text), *self.tail)

    def count(self, text: str) -> int:
        """Return how many ids `encode` gives."""
        ids = self.vocabulary.encode(self.prefix + text)
        return len(self.lead) + len(ids) + len(self.tail)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return self.vocabulary.decode(ids)

    def stream(self) -> TokenStream:
        """Return a decoder of a sequence that grows token by token."""
        return TokenStream(self.vocabulary.decode)

    def has_unknown(self, text: str) -> bool:
        """Return whether the vocabulary lacks something of `text`."""
        return self.vocabulary.unknown in self.vocabulary.encode(text)
