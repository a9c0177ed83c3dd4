"""Searches side by side over the static slots of a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from engine.errors import InvalidInput, ResourceLimit
from engine.generation.alignment import KeptQueries
from engine.generation.beam_sampling import draw_candidates
from engine.generation.beams import advance_beams, advance_single
from engine.generation.decoding import StepResult
from engine.generation.edits import Tokens
from engine.generation.hypotheses import hypotheses_of, running_tokens_of
from engine.generation.native import append_search
from engine.generation.running import Batch, RunningSearch
from engine.generation.sampling import chances
from engine.generation.search import Hypothesis, Search, SlotSizes
from engine.generation.selection import choose, forced_token
from engine.generation.settings import prepare
from engine.generation.slots import StepSlots
from engine.generation.state import DONE, LENGTH, TOKEN, SearchState


class StepDecoder:
    """A `Decoder` over the slots of any model; see there."""

    def __init__(self, slots: StepSlots, sizes: SlotSizes) -> None:
        self.sizes = sizes
        self._slots, self._state = slots, SearchState(slots)
        self.is_native = append_search(self._state)  # whether a step is one native call
        self._free_rows = list(range(sizes.rows))[::-1]
        self._sources: dict[int, int] = {}  # source slot -> searches over it
        self._leaving: set[int] = set()  # sources to free once no search uses them
        self._free_sources = list(range(sizes.sources))[::-1]
        self._searches: dict[int, RunningSearch] = {}
        self._handles = count(1)
        self._batch: Batch | None = None  # None: searches joined or left

    @property
    def free_rows(self) -> int:
        """Rows that no search holds."""
        return len(self._free_rows)

    @property
    def free_sources(self) -> int:
        """Source slots that are free."""
        return len(self._free_sources)

    @property
    def aligns(self) -> bool:
        """Whether searches can tell where they looked."""
        return self._slots.looks is not None

    def memory_bytes(self) -> int:
        """Return the size of all slots."""
        return self._slots.memory_bytes() + self._state.memory_bytes()

    def add_sources(self, sentences: Sequence[Sequence[int]]) -> list[int]:
        """Encode sentences in one batch; return the source slot of each."""
        if len(sentences) > self.free_sources:
            raise ResourceLimit("sources", f"{len(sentences)} free", self.free_sources)
        for number, sentence in enumerate(sentences):
            self._check_sentence(number, sentence)
        if not sentences:
            return []
        found = [self._free_sources.pop() for _ in sentences]
        try:
            self._slots.encode(sentences, found)
        except BaseException:
            self._free_sources += found[::-1]
            raise
        self._sources.update(dict.fromkeys(found, 0))
        return found

    def _check_sentence(self, number: int, sentence: Sequence[int]) -> None:
        most, vocabulary = self.sizes.source_tokens, self._slots.vocabulary_size
        if not 0 < len(sentence) <= most:
            raise InvalidInput(
                f"sentence {number}: expected 1 to {most} tokens, got {len(sentence)}"
            )
        wrong = next((token for token in sentence if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise InvalidInput(
                f"sentence {number}: expected tokens from 0 to {vocabulary - 1}, got {wrong}"
            )

    def start(self, source: int, search: Search) -> int:
        """Begin a search over a source; return its handle."""
        if source not in self._sources or source in self._leaving:
            raise InvalidInput(f"source: expected one from add_sources, got {source}")
        rows_in_all, positions = self._slots.history.shape
        prepared = prepare(search, self._slots.vocabulary_size, positions, rows_in_all)
        if search.beams > self.free_rows:
            raise ResourceLimit("beams", f"{search.beams} free rows", self.free_rows)
        looks = self._slots.looks
        if search.alignment and looks is None:
            raise InvalidInput(
                "alignment: this model's attention to the source is not known; see its notes"
            )
        rows = np.array([self._free_rows.pop() for _ in range(search.beams)], np.int64)
        running = RunningSearch(next(self._handles), search, prepared, source, rows)
        if search.alignment and looks is not None:
            running.queries = KeptQueries(looks, source, rows, search.max_new_tokens)
        state, record = self._state, running.record
        state.numbers[record], state.norm[record] = prepared.record, prepared.norm
        state.penalty[record] = search.repetition_penalty
        state.begin(rows, search.start)
        self._sources[source] += 1
        self._searches[running.handle] = running
        self._batch = None
        return running.handle

    def step(self) -> StepResult:
        """Extend every running search by one token."""
        batch = self._current_batch()
        if not batch.searches:
            nothing = np.empty(0, np.int64)
            return StepResult(nothing, nothing, np.empty(0, np.bool_))
        edits = batch.edit(self._state) if batch.asking else {}
        fed = [int(self._state.numbers[record, LENGTH]) for _, record, _ in batch.aligned]
        self._slots.run(batch.rows)
        for (queries, _, first), position in zip(batch.aligned, fed, strict=True):
            queries.keep(first, position)
        self._advance(batch, edits)
        numbers = self._state.numbers[batch.records]
        done = numbers[:, DONE] != 0
        if done.any():
            for place in np.flatnonzero(done):
                batch.searches[place].is_done = True
            self._batch = None
        return StepResult(batch.handles, numbers[:, TOKEN], done)

    def _current_batch(self) -> Batch:
        if self._batch is None:
            running = [search for search in self._searches.values() if not search.is_done]
            self._batch = Batch(running, self._state)
        return self._batch

    def _advance(self, batch: Batch, edits: dict[int, tuple[Tokens, Tokens]]) -> None:
        """Choose tokens: those that native code did not."""
        if self.is_native:
            for running, first in batch.sampling:
                self._draw(running, first)
            return
        state = self._state
        state.take_logits(batch.rows)
        for running, first, rules in batch.rules(edits):
            for beam, rule in enumerate(rules):
                choose(state, first + beam, rule)
            if running.search.sample:
                self._draw(running, first)
            elif running.rows.size == 1:
                token = int(state.token[first, 0])
                advance_single(state, first, running.record, running.prepared.ends, token)
            else:
                advance_beams(state, first, running.rows, running.record, running.prepared.ends)

    def _draw(self, running: RunningSearch, first: int) -> None:
        """Move a sampling search on, whose logits are edited and whose best token is known."""
        state, search = self._state, running.search
        if running.rows.size > 1:
            ends = running.prepared.ends
            draw_candidates(state, first, running.rows, search, ends.size)
            advance_beams(state, first, running.rows, running.record, ends)
            return
        token = int(state.token[first, 0])
        if token >= 0 and forced_token(state, running.record) < 0:
            logits = state.logits[first]
            found = chances(logits, search.temperature, search.top_k, search.top_p)
            token = found.draw(search.seed, int(state.numbers[running.record, LENGTH]))
            state.value[first, 0] = (logits[token] - state.peak[first]) - state.log_sum[first]
        advance_single(state, first, running.record, running.prepared.ends, token)

    def hypotheses(self, handle: int) -> list[Hypothesis]:
        """Return the best `n_best` sequences, best first; of a running search, what it has."""
        running = self._search(handle)
        return hypotheses_of(self._state, running.rows, running.search, running.queries)

    def running_tokens(self, handle: int) -> list[int]:
        """Return the tokens of a running search's best sequence so far."""
        return running_tokens_of(self._state, self._search(handle).rows)

    def release(self, handle: int) -> None:
        """Free the rows of a search, done or not."""
        running = self._search(handle)
        del self._searches[handle]
        self._free_rows += running.rows[::-1].tolist()
        self._sources[running.source] -= 1
        self._batch = None if not running.is_done else self._batch
        self._free_if_unused(running.source)

    def _search(self, handle: int) -> RunningSearch:
        try:
            return self._searches[handle]
        except KeyError:
            raise InvalidInput(
                f"handle: expected that of a search that was started and not released, got {handle}"
            ) from None

    def release_source(self, source: int) -> None:
        """Free a source slot, at once or as soon as no search uses it."""
        if source not in self._sources or source in self._leaving:
            raise InvalidInput(f"source: expected one that was not released, got {source}")
        self._leaving.add(source)
        self._free_if_unused(source)

    def _free_if_unused(self, source: int) -> None:
        if source in self._leaving and not self._sources[source]:
            self._leaving.discard(source)
            del self._sources[source]
            self._free_sources.append(source)

    def close(self) -> None:
        """Free the slots; the decoder cannot be used any more."""
        self._slots.close()
