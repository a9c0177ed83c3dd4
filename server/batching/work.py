"""What goes into a batcher and what comes out, and the parts that wait in between."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from server.batching.collate import Array, Tensors, join
from server.batching.policy import rank_of
from server.errors import ServerError


@dataclass(slots=True)
class Work:
    """One request's tensors; every batched input has `rows` rows along axis 0."""

    inputs: Mapping[str, Array]
    rows: int
    fetches: tuple[str, ...] | None = None  # None: the model's outputs
    deadline_us: int | None = None  # on the batcher's clock
    priority: int = 0  # higher is sooner, from -9 to 9


@dataclass(slots=True)
class WorkResult:
    """A request's outputs, and where its time went."""

    outputs: Tensors
    queue_us: int
    batch_us: int  # collating and splitting, of the whole batch
    compute_us: int  # of the whole batch
    batch_rows: int  # rows of the run, other requests' included


class Part:
    """A request, or a piece of an oversized one, that waits and then runs in one batch."""

    __slots__ = (
        *("arrived_us", "deadline_us", "fetches", "future", "index", "inputs", "key", "rank"),
        *("rows", "weight", "whole"),
    )

    def __init__(
        self,
        inputs: Mapping[str, Array],
        rows: int,
        fetches: tuple[str, ...] | None,
        key: Hashable,
        arrived_us: int,
        deadline_us: int | None,
        rank: int,
        future: asyncio.Future[WorkResult],
        weight: int,
        whole: Oversized | None = None,
        index: int = 0,
    ) -> None:
        """Describe the part.

        `weight` is what it takes of the queue: its rows and those of the pieces that follow it.
        `whole` and `index` are for pieces of an oversized request.
        """
        self.inputs = inputs
        self.rows = rows
        self.fetches = fetches
        self.key = key
        self.arrived_us = arrived_us
        self.deadline_us = deadline_us
        self.rank = rank
        self.future = future
        self.weight = weight
        self.whole = whole
        self.index = index

    def resolve(self, result: WorkResult) -> None:
        """Hand the result to whoever waits; nobody may be left."""
        if self.whole is not None:
            self.whole.add(self.index, result)
        elif not self.future.done():
            self.future.set_result(result)

    def fail(self, error: ServerError) -> None:
        """Hand the error to whoever waits; one failed piece fails its whole request."""
        if not self.future.done():
            self.future.set_exception(error)

    def successor(self, now_us: int) -> Part | None:
        """Return the next piece of an oversized request, ranked as if it came now."""
        whole, index = self.whole, self.index + 1
        if whole is None or index == len(whole.pieces) or self.future.done():
            return None
        inputs, rows = whole.pieces[index]
        return Part(
            inputs,
            rows,
            self.fetches,
            self.key,
            now_us,
            self.deadline_us,
            rank_of(now_us, self.deadline_us, whole.priority),
            self.future,
            self.weight - self.rows,
            whole,
            index,
        )


class Oversized:
    """A request of more rows than one run takes: its pieces queue one after the other.

    A piece enters the queue when the one before it is taken, behind all that wait by then: so a
    large request takes turns with the small ones instead of holding them up.
    """

    __slots__ = ("_future", "_results", "pieces", "priority")

    def __init__(
        self,
        pieces: Sequence[tuple[Mapping[str, Array], int]],
        priority: int,
        future: asyncio.Future[WorkResult],
    ) -> None:
        """Take the pieces, (inputs, rows) each, in order."""
        self.pieces = pieces
        self.priority = priority
        self._future = future
        self._results: dict[int, WorkResult] = {}

    def add(self, index: int, result: WorkResult) -> None:
        """Take a piece's result; with several lanes they come in any order."""
        self._results[index] = result
        if len(self._results) == len(self.pieces) and not self._future.done():
            self._future.set_result(self._joined())

    def _joined(self) -> WorkResult:
        results = [self._results[index] for index in range(len(self.pieces))]
        return WorkResult(
            outputs=join([result.outputs for result in results]),
            queue_us=sum(result.queue_us for result in results),
            batch_us=sum(result.batch_us for result in results),
            compute_us=sum(result.compute_us for result in results),
            batch_rows=max(result.batch_rows for result in results),
        )
