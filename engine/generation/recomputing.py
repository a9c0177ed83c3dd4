"""Slots of a model without a cache: every step computes the whole sequence again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.generation.alignment import SourceLooks
from engine.generation.search import SlotSizes


class PrefixModel(Protocol):
    """Computes the next token's logits from all tokens before it."""

    vocabulary_size: int

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Encode sentences in one batch and keep them under these numbers."""

    def logits_of(
        self, prefixes: NDArray[np.int64], lengths: NDArray[np.int64], sources: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return the logits after each prefix.

        Args:
            prefixes: Padded at the right. (n, t)
            lengths: How many tokens of each row count. (n,)
            sources: The source of each row. (n,)

        Returns:
            (n, V)
        """

    def memory_bytes(self) -> int:
        """Return the bytes of the sources that are kept."""

    def close(self) -> None:
        """Forget them."""


class RecomputingSlots:
    """`StepSlots` whose cache holds tokens instead of keys and values."""

    def __init__(self, model: PrefixModel, sizes: SlotSizes) -> None:
        rows, positions = sizes.rows, sizes.target_tokens
        self.model, self.vocabulary_size = model, model.vocabulary_size
        self.tokens = np.zeros((rows, 1), np.int64)
        self.position = np.zeros(rows, np.int64)
        self.slot = np.zeros(rows, np.int64)
        self.source = np.zeros(rows, np.int64)
        self.history = np.zeros((rows, positions), np.int32)
        self.logits = np.zeros((rows, model.vocabulary_size), np.float32)
        self.looks: SourceLooks | None = None
        self._fed = np.zeros((rows, positions), np.int64)  # by cache row

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Encode sentences in one batch into these source slots."""
        self.model.encode(sentences, sources)

    def run(self, rows: int) -> None:
        """Feed the first rows of the batch."""
        slot, lengths = self.slot[:rows], self.position[:rows] + 1
        self._fed[slot, lengths - 1] = self.tokens[:rows, 0]
        columns = np.arange(lengths.max(initial=0))
        prefixes = self._fed[self.history[slot][:, : columns.size], columns]
        prefixes[columns >= lengths[:, None]] = 0  # any token will do
        sources = self.source[:rows].tolist()
        self.logits[:rows] = self.model.logits_of(prefixes, lengths, sources)

    def append_tail(self, steps: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bool:
        """There is no native program to append to."""
        return False

    def memory_bytes(self) -> int:
        """Return the size of the static memory and of the sources."""
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return sum(array.nbytes for array in arrays) + self.model.memory_bytes()

    def close(self) -> None:
        """Forget the sources."""
        self.model.close()
