"""What every engine is asked to do, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Tokens = list[int]


@dataclass(frozen=True)
class Work:
    """Sentences to translate, so many at a time.

    Attributes:
        sentences: Token numbers, the end included.
        batch: How many go together.
        beams: 1 is greedy.
        longest: Tokens of a translation at most, the end included.
        forced: Whether every translation takes all of them.
    """

    sentences: tuple[tuple[int, ...], ...]
    batch: int
    beams: int
    longest: int
    forced: bool

    def batches(self) -> list[Sequence[tuple[int, ...]]]:
        """Return the sentences in batches, in order."""
        starts = range(0, len(self.sentences), self.batch)
        return [self.sentences[k : k + self.batch] for k in starts]


class Engine(Protocol):
    """One engine with fixed threads and precision."""

    def translate(self, work: Work) -> list[Tokens]:
        """Return the best translation of each sentence: no start, no end."""
