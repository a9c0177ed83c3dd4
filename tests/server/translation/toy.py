"""A decoder whose translations are known: every token plus one, then the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

import engine
from engine import Hypothesis, Search, SlotSizes, StepResult

END = 0
VOCABULARY = 1000
POISON = 666  # a step with it fails, as a value that breaks an operator does
UNREADABLE = 667  # the encoder refuses it
UNSTARTABLE = 668  # a search over it cannot begin
STUCK = 900  # a sentence that begins with it is translated to the same three tokens for ever


def search(**options) -> Search:
    return Search(start=1, end=(END,), **{"max_new_tokens": 60, **options})


def translation(tokens: Sequence[int]) -> tuple[int, ...]:
    return (*(token + 1 for token in tokens), END)


class _Row:
    def __init__(self, source: int, wanted: Search) -> None:
        self.source = source
        self.search = wanted
        self.tokens: list[int] = []
        self.done = False


class ToyDecoder:
    """Keeps the contract of `engine.Decoder` strictly: one thread, no more than the slots."""

    def __init__(self, sizes: SlotSizes | None = None) -> None:
        self.sizes = sizes or SlotSizes(rows=8, sources=8, source_tokens=64, target_tokens=64)
        self.sources: dict[int, tuple[int, ...]] = {}
        self.rows: dict[int, _Row] = {}
        self.batches: list[list[int]] = []  # lengths of the encoder's batches
        self.steps = 0
        self.widths: list[int] = []  # searches in each step
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self._handles = 0
        self._thread: int | None = None

    aligns = False

    @property
    def free_rows(self) -> int:
        return self.sizes.rows - sum(row.search.beams for row in self.rows.values())

    @property
    def free_sources(self) -> int:
        return self.sizes.sources - len(self.sources)

    def memory_bytes(self) -> int:
        return 4096

    def add_sources(self, sentences: Sequence[Sequence[int]]) -> list[int]:
        self._one_thread()
        if len(sentences) > self.free_sources:
            raise engine.ResourceLimit("no free sources")
        for tokens in sentences:
            if not 1 <= len(tokens) <= self.sizes.source_tokens or UNREADABLE in tokens:
                raise engine.InvalidInput("a token is out of range")
        self.batches.append([len(tokens) for tokens in sentences])
        names = []
        for tokens in sentences:
            name = next(k for k in range(self.sizes.sources) if k not in self.sources)
            self.sources[name] = tuple(tokens)
            names.append(name)
        return names

    def start(self, source: int, search: Search) -> int:
        self._one_thread()
        if UNSTARTABLE in self.sources[source]:
            raise engine.InvalidInput("a token that must not come up is out of range")
        if search.beams > self.free_rows:
            raise engine.ResourceLimit("no free rows")
        self._handles += 1
        self.rows[self._handles] = _Row(source, search)
        return self._handles

    def step(self) -> StepResult:
        self._one_thread()
        self.stepping.set()
        if not self.gate.wait(timeout=300):
            raise TimeoutError("the test never opened the gate")
        moving = {name: row for name, row in self.rows.items() if not row.done}
        if any(POISON in self.sources[row.source] for row in moving.values()):
            raise engine.RunFailed("node_7", "Gather", "index out of range")
        self.steps += 1
        self.widths.append(len(moving))
        for row in moving.values():
            token = self._next(row)
            row.tokens.append(token)
            row.done = token == END or len(row.tokens) == row.search.max_new_tokens
        return StepResult(
            np.array(list(moving), np.int64),
            np.array([row.tokens[-1] for row in moving.values()], np.int64),
            np.array([row.done for row in moving.values()], np.bool_),
        )

    def hypotheses(self, handle: int) -> list[Hypothesis]:
        row = self.rows[handle]
        tokens = tuple(row.tokens)
        logs = tuple(-0.5 for _ in tokens) if row.search.log_probabilities else None
        finished = bool(tokens) and tokens[-1] == END
        return [
            Hypothesis(tokens, -float(len(tokens)) - k, finished, logs)
            for k in range(row.search.n_best)
        ]

    def running_tokens(self, handle: int) -> list[int]:
        return list(self.rows[handle].tokens)

    def release(self, handle: int) -> None:
        self._one_thread()
        del self.rows[handle]

    def release_source(self, source: int) -> None:
        self._one_thread()
        if any(row.source == source for row in self.rows.values()):
            raise AssertionError("a search uses this source still")
        del self.sources[source]

    def _next(self, row: _Row) -> int:
        tokens = self.sources[row.source]
        if tokens[0] == STUCK:
            return 11 + len(row.tokens) % 3
        return translation(tokens)[len(row.tokens)]

    def _one_thread(self) -> None:
        here = threading.get_ident()
        if not self.sources:  # an empty decoder may be handed to another thread
            self._thread = here
        if self._thread != here:
            raise AssertionError("two threads drive one decoder")
