"""The sentences that wait in front of a decoder, in order of rank."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from operator import attrgetter

from server.translation.sentence import Sentence

_rank = attrgetter("rank")


class WaitingLine:
    """A list kept in order, and counts of what has left it, ever.

    Belongs to the decoding thread; the counts may be read by others.
    """

    __slots__ = ("sentences", "taken", "taken_rows", "taken_tokens")

    def __init__(self) -> None:
        """Start empty."""
        self.sentences: list[Sentence] = []
        self.taken = 0
        self.taken_rows = 0
        self.taken_tokens = 0  # of their sources

    def add(self, sentence: Sentence) -> None:
        """Put a sentence where its rank belongs, behind its equals."""
        waiting = self.sentences
        if waiting and sentence.rank < waiting[-1].rank:
            insort(waiting, sentence, key=_rank)
        else:
            waiting.append(sentence)

    def put_back(self, sentence: Sentence) -> None:
        """Let a sentence wait again that was taken before."""
        self._count([sentence], -1)
        self.add(sentence)

    def take(self, sentences: Sequence[Sentence]) -> None:
        """Take sentences out, wherever they are."""
        if not sentences:
            return
        self._count(sentences, 1)
        gone = set(map(id, sentences))
        front = self.sentences[: len(gone)]
        if all(id(sentence) in gone for sentence in front):  # as mostly
            del self.sentences[: len(gone)]
        else:
            self.sentences = [each for each in self.sentences if id(each) not in gone]

    def _count(self, sentences: Sequence[Sentence], sign: int) -> None:
        self.taken += sign * len(sentences)
        self.taken_rows += sign * sum([sentence.rows for sentence in sentences])
        self.taken_tokens += sign * sum([sentence.source_tokens for sentence in sentences])

    def __iter__(self) -> Iterator[Sentence]:
        """Iterate in order of rank."""
        return iter(self.sentences)

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self.sentences)
