"""Search over vectors that live in numbered slots of a matrix that somebody else owns."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from server.errors import how_to_install
from server.index.contract import IndexState, Metric, Vectors
from server.index.search import library
from server.index.search.automatic import search_lists
from server.index.search.exact import Rows, search_exact
from server.index.search.metrics import Floats, factors, prepare_queries
from server.index.search.plan import ASKED, matches
from server.index.search.selection import Mask, Selection, Slots
from server.index.search.upkeep import is_large
from server.index.search.worker import Worker

Scalar = TypeVar("Scalar", bound=np.generic)

_FACTOR_ROWS = 16384  # rows whose factors are made at a time
_UNIT = 1e-6  # a length so near 1 changes a score by no more than rounding does
_RECALL_KEPT = 200  # queries that the measured recall is the mean of
_RECALL_ENOUGH = 20  # queries from which on it counts

_log = logging.getLogger(__name__)


class SlotIndex:
    """The nearest slots of queries, found exactly or through lists, whichever is better.

    The owner writes a row first and adds its slot then; it removes a slot before it writes
    another row into it. Every method may be called from any thread at any time. Lists are built
    in the background; meanwhile every row is compared, or the lists from before are read.
    """

    def __init__(self, dim: int, metric: Metric, path: Path | None = None) -> None:
        """Make an index without rows; `path` is the file of what can be derived from them."""
        self.dim = dim
        self.metric: Metric = metric
        self._changing = threading.RLock()
        nothing = np.empty((0, dim), np.float32)
        self._rows = Rows(nothing, np.empty(0, np.float32), metric, unit=metric == "cosine")
        self._alive: Mask = np.zeros(0, np.bool_)
        self._count = 0
        self._end = 0  # behind the last slot that ever counted: beyond it is only room to grow
        self._recalls: deque[float] = deque(maxlen=_RECALL_KEPT)
        self._worker = Worker(self._changing, self._now, dim, path, self._recalls.clear)

    def _now(self) -> tuple[Rows, Mask, int]:
        return self._rows, self._alive, self._count

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
            matrix = np.asarray(matrix)  # a memmap's own class would slow every step down
            self._rows = replace(old, matrix=matrix, factors=_longer(old.factors, len(matrix)))
            self._alive = _longer(self._alive, len(matrix))

    def add(self, slots: Slots | Sequence[int]) -> None:
        """Let slots count whose rows are written."""
        chosen = np.unique(np.asarray(slots, np.int64))
        with self._changing:
            rows, unit = self._rows, self._rows.unit
            for first in range(0, chosen.size, _FACTOR_ROWS):
                part = chosen[first : first + _FACTOR_ROWS]
                made = rows.factors[part] = factors(rows.matrix[part], self.metric)
                unit = unit and bool(np.all(np.abs(made - 1) < _UNIT))
            if unit != rows.unit:
                self._rows = replace(rows, unit=unit)
            self._count += chosen.size - int(np.count_nonzero(self._alive[chosen]))
            self._alive[chosen] = True
            self._end = max(self._end, int(chosen[-1]) + 1) if chosen.size else self._end
            self._worker.changed("add", chosen)

    def remove(self, slots: Slots | Sequence[int]) -> None:
        """Let slots count no more; those that did not are no error."""
        chosen = np.unique(np.asarray(slots, np.int64))
        with self._changing:
            chosen = chosen[self._alive[chosen]]
            self._alive[chosen] = False
            self._count -= chosen.size
            self._worker.changed("remove", chosen)

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
        width = max(0, min(k, self._count))
        approximate = self._worker.approximate
        if approximate is None or exact or not width or not len(queries):
            return self._compare_all(queries, width, selection)
        allowed = None if selection is None else selection.within(self._alive)
        found = search_lists(approximate, queries, width, allowed)
        if found is None:
            return self._compare_all(queries, width, selection)
        slots, scores = found
        if slots[0, -1] >= 0 and (len(slots) == 1 or (slots[:, -1] >= 0).all()):
            return found
        # The lists that were read held fewer than k: these queries are answered exactly.
        short = np.flatnonzero(slots[:, -1] < 0)
        slots[short], scores[short] = self._compare_all(queries[short], width, selection)
        return slots, scores

    def _compare_all(
        self, queries: Vectors, width: int, selection: Selection | None
    ) -> tuple[Slots, Floats]:
        rows, end, count = self._rows, self._end, self._count
        if selection is None and end == count <= len(rows.matrix):
            slots, scores = search_exact(rows, queries, width, None, count)
            if self._alive[slots].all():  # else some were removed between the two numbers
                return _padded(slots, scores, width)
        alive = self._alive[: min(end, len(rows.matrix))]
        mask = alive.copy() if selection is None else selection.within(alive).mask
        found = search_exact(rows, queries, width, mask, int(np.count_nonzero(mask)))
        return _padded(*found, width)

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        """Return the share of the k nearest that an automatic search finds.

        Where lists are found to give too little over a number of queries, more are read from then
        on, or none.
        """
        _, found = self.search(queries, k)
        _, best = self.search(queries, k, exact=True)
        if not found.size or found.shape != best.shape:  # rows were removed between the two
            return 1.0
        recalls = matches(found, best).mean(axis=1)
        with self._changing:
            self._recalls.extend(recalls.tolist())
            recall = float(np.mean(self._recalls))
            if len(self._recalls) >= _RECALL_ENOUGH and recall < ASKED:
                _log.warning("recall is low: more is read from now on", extra={"recall": recall})
                self._worker.be_more_careful(recall)
        return float(recalls.mean())

    def state(self) -> IndexState:
        """Tell how it searches, and why. Items that have no vector are not known here."""
        with self._changing:
            worker, approximate = self._worker, self._worker.approximate
            measured = float(np.mean(self._recalls)) if self._recalls else None
            held = int(self._rows.factors.nbytes + self._alive.nbytes) + worker.file_bytes()
            if approximate is None:
                return IndexState(
                    "exact", self._why_exact(), self._count, 0, held, worker.progress, measured
                )
            plan = approximate.plan
            return IndexState(
                "approximate",
                f"{self._count:,} rows in {plan.lists:,} lists, of which {plan.probes[0][1]:,} "
                f"are read for ten answers: recall@10 {plan.recall:.3f} on a sample of the rows",
                self._count,
                0,
                held + approximate.inverted.nbytes,
                worker.progress,
                plan.recall if measured is None else measured,
                {
                    "library": "faiss",
                    "index": "inverted lists",
                    "lists": plan.lists,
                    "probes": dict(plan.probes),
                },
            )

    def _why_exact(self) -> str:
        if not is_large(self._count, self.dim):
            return f"{self._count:,} rows are few: comparing every one is fastest"
        if not library.is_installed():
            return "every row is compared: approximate search needs faiss-cpu: " + how_to_install(
                "faiss-cpu", library.EXTRA
            )
        if self._worker.refused is not None:
            return self._worker.refused.reason
        return f"every row is compared until the lists of {self._count:,} rows are made"

    def settle(self, timeout_s: float) -> bool:
        """Wait for work in the background; False if it takes longer."""
        return self._worker.settle(timeout_s)

    @property
    def is_loading(self) -> bool:
        """Whether what was derived is being read from its file, or is about to be."""
        return self._worker.is_loading

    def save_for(self, path: Path, slots: Slots) -> None:
        """Write what was derived for another index, which has the rows of `slots` (n,), as 0..n-1.

        Lists that there are not, and a disk that is full, are no error: it makes them itself.
        """
        self._worker.save_for(path, slots)

    def close(self, *, keep: bool = True) -> None:
        """Stop work in the background, and keep what was derived."""
        self._worker.close(keep=keep)


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
