"""Runs one batch, and finds the bad item when it fails. Knows no queue and no event loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from server.batching.collate import Array, Tensors, collate, split
from server.errors import InternalFault, ServerError
from server.execution import as_server_error

log = logging.getLogger(__name__)

Run = Callable[[Mapping[str, Array], tuple[str, ...] | None], Mapping[str, Array]]


@dataclass(slots=True)
class Outcome:
    """What became of a batch: per member its outputs or its error, and what it all took."""

    shares: list[Tensors | ServerError] = field(default_factory=list)
    runs: list[RunCost] = field(default_factory=list)


@dataclass(slots=True)
class RunCost:
    """One call of the engine."""

    rows: int
    collate_s: float
    compute_s: float
    split_s: float


class BatchRunner:
    """Collates members, runs the engine once, splits its outputs; halves a batch that fails."""

    __slots__ = ("_batched_inputs", "_batched_outputs", "_run")

    def __init__(
        self, run: Run, batched_inputs: frozenset[str], batched_outputs: frozenset[str]
    ) -> None:
        """Call `run(inputs, fetches)`; the names are those whose axis 0 is the batch."""
        self._run = run
        self._batched_inputs = batched_inputs
        self._batched_outputs = batched_outputs

    def execute(
        self,
        members: Sequence[Mapping[str, Array]],
        rows: Sequence[int],
        fetches: tuple[str, ...] | None,
    ) -> Outcome:
        """Run the members as one batch. Never raises: each member gets its share or its error."""
        outcome = Outcome()
        self._into(outcome, members, rows, fetches)
        return outcome

    def _into(
        self,
        outcome: Outcome,
        members: Sequence[Mapping[str, Array]],
        rows: Sequence[int],
        fetches: tuple[str, ...] | None,
    ) -> None:
        try:
            shares, cost = self._once(members, rows, fetches)
        except Exception as error:
            if len(members) == 1:
                outcome.shares.append(_told(error))
                return
            # Some member is at fault, not all: halving finds it in about 2 log2(n) runs, and
            # everybody else gets the answer they would have got alone.
            half = len(members) // 2
            self._into(outcome, members[:half], rows[:half], fetches)
            self._into(outcome, members[half:], rows[half:], fetches)
        else:
            outcome.shares.extend(shares)
            outcome.runs.append(cost)

    def _once(
        self,
        members: Sequence[Mapping[str, Array]],
        rows: Sequence[int],
        fetches: tuple[str, ...] | None,
    ) -> tuple[list[Tensors], RunCost]:
        start = time.perf_counter()
        inputs = collate(members, self._batched_inputs)
        collated = time.perf_counter()
        outputs = self._run(inputs, fetches)
        computed = time.perf_counter()
        shares = split(outputs, rows, self._batched_outputs)
        done = time.perf_counter()
        cost = RunCost(sum(rows), collated - start, computed - collated, done - computed)
        return shares, cost


def _told(error: Exception) -> ServerError:
    told = as_server_error(error)
    if isinstance(told, InternalFault):
        log.error("running a model failed", exc_info=error)
    return told
