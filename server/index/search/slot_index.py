"""Search over vectors that live in numbered slots of a matrix that somebody else owns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from server.index.contract import IndexState, Metric, Vectors
from server.index.search.exact import Rows, search_exact
from server.index.search.metrics import Floats, factors, prepare_queries
from server.index.search.selection import Mask, Selection, Slots

Scalar = TypeVar("Scalar", bound=np.generic)

_FACTOR_ROWS = 16384  # rows whose factors are made at a time


class SlotIndex:
    """The nearest slots of queries.

    The owner writes a row first and adds its slot then; it removes a slot before it writes
    another row into it. Every method may be called from any thread at any time.
    """

    def __init__(self, dim: int, metric: Metric, path: Path | None = None) -> None:
        """Make an index without rows; `path` is the file of what can be derived from them."""
        self.dim = dim
        self.metric: Metric = metric
        self._changing = threading.Lock()
        self._rows = Rows(np.empty((0, dim), np.float32), np.empty(0, np.float32), metric)
        self._alive: Mask = np.zeros(0, np.bool_)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def attach(self, matrix: Vectors, slots: Slots) -> None:
        """Begin with a matrix (capacity, dim) and the slots of it that count."""
        self.grow(matrix)
        self.add(slots)

    def grow(self, matrix: Vectors) -> None:
        """Go on with a larger matrix that holds the same rows in the same slots."""
        with self._changing:
            old = self._rows
            self._rows = Rows(matrix, _longer(old.factors, len(matrix)), self.metric)
            self._alive = _longer(self._alive, len(matrix))

    def add(self, slots: Slots | Sequence[int]) -> None:
        """Let slots count whose rows are written."""
        chosen = np.asarray(slots, np.int64)
        with self._changing:
            rows = self._rows
            for first in range(0, chosen.size, _FACTOR_ROWS):
                part = chosen[first : first + _FACTOR_ROWS]
                rows.factors[part] = factors(rows.matrix[part], self.metric)
            fresh = np.unique(chosen[~self._alive[chosen]])
            self._alive[fresh] = True
            self._count += fresh.size

    def remove(self, slots: Slots | Sequence[int]) -> None:
        """Let slots count no more; those that did not are no error."""
        chosen = np.asarray(slots, np.int64)
        with self._changing:
            gone = np.unique(chosen[self._alive[chosen]])
            self._alive[gone] = False
            self._count -= gone.size

    def search(
        self, queries: Vectors, k: int, selection: Selection | None = None, exact: bool = False
    ) -> tuple[Slots, Floats]:
        """Return the nearest slots of each row of `queries` (m, dim), nearest first.

        Returns:
            Slots and scores, both (m, min(k, rows)); slots are -1 (scores -inf) only beyond what
            the selection has.

        Raises:
            InvalidInput: the queries have another length, or are not finite.
        """
        queries = prepare_queries(queries, self.dim, self.metric)
        rows, alive, width = self._rows, self._alive, min(k, self._count)
        allowed = alive if selection is None else selection.within(alive)
        allowed = allowed.copy() if selection is None else allowed
        found = search_exact(rows, queries, width, allowed, int(np.count_nonzero(allowed)))
        return _padded(*found, width)

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        """Return the share of the k nearest that an automatic search finds."""
        return 1.0

    def state(self) -> IndexState:
        """Tell how it searches, and why."""
        return IndexState("exact", "few vectors", self._count, 0, self._alive.nbytes * 5)

    def settle(self, timeout_s: float) -> bool:
        """Wait for work in the background; False if it takes longer."""
        return True

    def close(self) -> None:
        """Stop work in the background, and keep what was derived."""


def _longer(values: NDArray[Scalar], size: int) -> NDArray[Scalar]:
    longer = np.zeros(max(size, values.size), values.dtype)
    longer[: values.size] = values
    return longer


def _padded(slots: Slots, scores: Floats, width: int) -> tuple[Slots, Floats]:
    missing = width - slots.shape[1]
    if missing <= 0:
        return slots, scores
    return (
        np.pad(slots, ((0, 0), (0, missing)), constant_values=-1),
        np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
    )
