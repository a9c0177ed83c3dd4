"""Searches that hold rows, and the batch that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.generation.alignment import KeptQueries
from engine.generation.edits import NONE, Tokens, banned, penalized
from engine.generation.search import Search
from engine.generation.selection import RowRules
from engine.generation.settings import Prepared
from engine.generation.state import (
    BANNED,
    BANNED_COUNT,
    LENGTH,
    PENALIZED,
    PENALIZED_COUNT,
    SearchState,
)


@dataclass(eq=False, slots=True)
class RunningSearch:
    """A search and what it holds.

    Attributes:
        handle: Its name outside.
        search, prepared: Its settings.
        source: Its source slot.
        rows: Its cache rows, one per beam; the first is its record. (k,)
        queries: What it asked its source, if it wants to know where it looked.
        is_done: Whether it is over, and so in no batch.
    """

    handle: int
    search: Search
    prepared: Prepared
    source: int
    rows: NDArray[np.int64]
    queries: KeptQueries | None = None
    is_done: bool = False

    @property
    def record(self) -> int:
        """The number of its record."""
        return int(self.rows[0])


class Batch:
    """The searches that a step moves on, in the order of their batch rows.

    Attributes:
        searches: They.
        first: The first batch row of each. (g,)
        handles: Their handles. (g,)
        records: Their records. (g,)
        rows: How many batch rows there are.
        asking: Those whose choices depend on what they chose before, with their batch rows.
        sampling: Those that draw tokens, with their batch rows.
        aligned: Queries of those that want to know where they looked; record and first batch row.
    """

    def __init__(self, searches: Sequence[RunningSearch], state: SearchState) -> None:
        self.searches = list(searches)
        beams = np.array([search.rows.size for search in searches], np.int64)
        self.first = np.cumsum(beams) - beams
        self.rows = int(beams.sum())
        self.handles = np.array([search.handle for search in searches], np.int64)
        self.records = np.array([search.record for search in searches], np.int64)
        placed = list(zip(searches, self.first.tolist(), strict=True))
        self.asking = [pair for pair in placed if pair[0].prepared.asks]
        self.sampling = [pair for pair in placed if pair[0].search.sample]
        self.aligned = [
            (search.queries, search.record, first)
            for search, first in placed
            if search.queries is not None
        ]
        self._kept: list[Tokens] = []  # what the addresses in the state point to
        self._lay_out(state, beams)

    def _lay_out(self, state: SearchState, beams: NDArray[np.int64]) -> None:
        if not self.searches:
            return
        slots, count = state.slots, self.rows
        rows = np.concatenate([search.rows for search in self.searches])
        lengths = np.repeat(state.numbers[self.records, LENGTH], beams)
        slots.slot[:count] = rows
        slots.source[:count] = np.repeat([search.source for search in self.searches], beams)
        slots.position[:count] = lengths
        slots.tokens[:count, 0] = state.token_at[rows, lengths]
        state.owner[:count] = np.repeat(self.records, beams)
        state.edits[:] = 0

    def edit(self, state: SearchState) -> dict[int, tuple[Tokens, Tokens]]:
        """Note what the tokens so far penalize and ban; return it by batch row."""
        found: dict[int, tuple[Tokens, Tokens]] = {}
        self._kept = []
        for running, first in self.asking:
            length = int(state.numbers[running.record, LENGTH])
            for beam, row in enumerate(running.rows):
                history = state.slots.history[row, : length + 1]
                sequence = state.token_at[history, np.arange(length + 1)]
                forbidden = banned(running.search, running.prepared.words, sequence)
                pair = penalized(running.search, sequence), forbidden
                found[first + beam] = pair
                self._kept += pair
                edits = state.edits[first + beam]
                edits[PENALIZED], edits[PENALIZED_COUNT] = pair[0].ctypes.data, pair[0].size
                edits[BANNED], edits[BANNED_COUNT] = pair[1].ctypes.data, pair[1].size
        return found

    def rules(
        self, edits: dict[int, tuple[Tokens, Tokens]]
    ) -> list[tuple[RunningSearch, int, list[RowRules]]]:
        """Return each search with its first batch row and what holds for each of its rows."""
        return [
            (
                running,
                first,
                [
                    RowRules(
                        running.record,
                        running.rows.size > 1,
                        running.prepared.ends,
                        running.prepared.bans,
                        *edits.get(first + beam, (NONE, NONE)),
                    )
                    for beam in range(running.rows.size)
                ],
            )
            for running, first in zip(self.searches, self.first.tolist(), strict=True)
        ]
