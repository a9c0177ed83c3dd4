"""A tiny encoder-decoder made of tables, the same in numpy and in torch to the last bit.

The next token's logits are sums of four rows: one for the last token, one for the one before it,
one for the source, one for the position. Sums of two float32 numbers are the same everywhere, so
that searches over it must agree exactly, whatever computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PAD = 0
END = 1
SECOND_END = 2
START = 3
POSITIONS = 64


class Tables:
    """The numbers: V tokens, S sources; tables for last and second last token, source, position."""

    def __init__(self, vocabulary_size: int, sources: int, seed: int, end_bonus: float) -> None:
        rng = np.random.default_rng(seed)
        self.vocabulary_size = vocabulary_size
        square = (vocabulary_size, vocabulary_size)
        self.last = (2.0 * rng.standard_normal(square)).astype(np.float32)
        self.before = rng.standard_normal(square).astype(np.float32)
        self.source = rng.standard_normal((sources, vocabulary_size)).astype(np.float32)
        self.source[:, END] += np.float32(end_bonus)
        self.source[:, PAD] -= 5
        self.position = rng.standard_normal((POSITIONS, vocabulary_size)).astype(np.float32)


class ToyModel:
    """A `PrefixModel` over tables; a sentence is the number of its source."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.vocabulary_size = tables, tables.vocabulary_size
        self.kept: dict[int, int] = {}

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        for sentence, source in zip(sentences, sources, strict=True):
            self.kept[source] = sentence[0]

    def logits_of(
        self, prefixes: NDArray[np.int64], lengths: NDArray[np.int64], sources: Sequence[int]
    ) -> NDArray[np.float32]:
        rows = np.arange(len(lengths))
        last = prefixes[rows, lengths - 1]
        before = prefixes[rows, np.maximum(lengths - 2, 0)]
        tables = self.tables
        numbers = [self.kept[source] for source in sources]
        rows = (tables.last[last] + tables.before[before]) + tables.source[numbers]
        return rows + tables.position[lengths]

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.kept.clear()
