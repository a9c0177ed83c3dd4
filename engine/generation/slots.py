"""What a search needs of a model: static arrays to write, a step to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.generation.alignment import SourceLooks


class StepSlots(Protocol):
    """Static memory of one decoder, and the runs over it.

    A step feeds one token for each of the first rows of the batch. Keys and values lie in cache
    rows, which the batch's rows name by number: row n appends to cache row `slot[n]` and attends
    to position t of cache row `history[slot[n], t]`. So beams change places by rewriting numbers.

    Attributes:
        vocabulary_size: V.
        tokens: What to feed. (R, 1) int64
        position: How many tokens came before. (R,) int64
        slot: The cache row that takes the token's keys and values. (R,) int64
        source: The source slot that is translated. (R,) int64
        history: Where the keys and values of each position are. (R, T) int32
        logits: Of the next token, written by `run`; the search may write into them. (R, V) float32
        looks: Where rows look in their sources; None where the model's attention is not known.
    """

    vocabulary_size: int
    tokens: NDArray[np.int64]
    position: NDArray[np.int64]
    slot: NDArray[np.int64]
    source: NDArray[np.int64]
    history: NDArray[np.int32]
    logits: NDArray[np.float32]
    looks: SourceLooks | None

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Encode sentences in one batch into these source slots."""

    def run(self, rows: int) -> None:
        """Feed the first rows of the batch."""

    def append_tail(self, steps: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bool:
        """Run kernels over the same rows after every step, in this order: their names, and the
        arrays that are their operands.

        Returns:
            Whether the device can; otherwise nothing is appended.
        """

    def memory_bytes(self) -> int:
        """Return the size of the static memory."""

    def close(self) -> None:
        """Free it."""
