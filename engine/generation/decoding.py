"""The door through which others drive a generation, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.generation.search import Hypothesis, Search, SlotSizes
from engine.session import MemoryReport


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did to the searches that were running, in the order of `searches`.

    Attributes:
        searches: Their handles.
        tokens: The token that each took; of a beam search the last token of its best beam.
        done: Whether it is at its end. It holds its rows until it is released.
    """

    searches: NDArray[np.int64]  # (g,)
    tokens: NDArray[np.int64]  # (g,)
    done: NDArray[np.bool_]  # (g,)


class Decoder(Protocol):
    """Static slots in which searches run side by side and move on together.

    Not thread-safe: one thread drives it. Searches join and leave between steps; what a search
    gives does not depend on its neighbours.
    """

    sizes: SlotSizes

    @property
    def free_rows(self) -> int:
        """Rows that no search holds."""

    @property
    def free_sources(self) -> int:
        """Source slots that are free."""

    @property
    def aligns(self) -> bool:
        """Whether searches can tell where they looked (`Search.alignment`)."""

    def memory_bytes(self) -> int:
        """Return the size of all slots."""

    def add_sources(self, sentences: Sequence[Sequence[int]]) -> list[int]:
        """Encode sentences (token ids) in one batch; return the source slot of each.

        Raises:
            InvalidInput: A sentence is empty or longer than `sizes.source_tokens`, or a token is
                out of range.
            ResourceLimit: There are not so many free sources.
        """

    def start(self, source: int, search: Search) -> int:
        """Begin a search over a source; return its handle. Several may share a source.

        Raises:
            InvalidInput: The search asks for what does not exist (a token out of range, ...).
            ResourceLimit: There are not `search.beams` free rows.
        """

    def step(self) -> StepResult:
        """Extend every running search by one token."""

    def hypotheses(self, handle: int) -> list[Hypothesis]:
        """Return the best `n_best` sequences, best first; of a running search, what it has."""

    def running_tokens(self, handle: int) -> list[int]:
        """Return the tokens of a running search's best sequence so far."""

    def release(self, handle: int) -> None:
        """Free the rows of a search, done or not."""

    def release_source(self, source: int) -> None:
        """Free a source slot, once no search uses it."""


class Seq2Seq(Protocol):
    """A loaded encoder-decoder. Made by `engine.load_seq2seq`; thread-safe."""

    vocabulary_size: int
    cached: bool  # whether decoding appends to static caches
    notes: tuple[str, ...]  # what was recognised, and what was not and why

    def open(self, sizes: SlotSizes) -> Decoder:
        """Make a decoder with slots of its own; several share the weights."""

    def memory(self) -> MemoryReport:
        """Return the bytes of weights and code, without the decoders' slots."""

    def close(self) -> None:
        """Free everything once all decoders are gone."""
