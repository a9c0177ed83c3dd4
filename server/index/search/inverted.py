"""Approximate search: rows in lists around centres, of which a query reads the nearest few.

The inverted file of faiss with plain rows, kept open to changes: a row is added to its list, and
taken out of it by a table of where each slot stands. Which list a slot is in is known here as well:
with it, a search under a filter goes to the nearest lists that hold something allowed, and what
goes to disk is a list's number per row instead of a copy of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.index.contract import Metric, Vectors
from server.index.search import library
from server.index.search.gate import Gate
from server.index.search.metrics import Floats
from server.index.search.selection import Allowed, Slots

_ROUNDS = 8  # of k-means: more do not change recall at the same number of rows read
_numbers = itertools.count()
_ADDED_AT_ONCE = 2048  # rows: searches wait for as long as these take


def train_centres(
    sample: Vectors, lists: int, metric: Metric, keep_going: Callable[[float], bool]
) -> Vectors | None:
    """Return centres (lists, dim) of rows as `comparable` makes them; None when told to stop.

    Args:
        sample: (n, dim), n >= lists.
        lists: how many centres.
        metric: they are unit vectors except for l2.
        keep_going: told the share that is done after each round; False stops.
    """
    faiss: Any = library.load()
    library.stay_on_one_thread(faiss)
    settings = faiss.ClusteringParameters()
    settings.niter = 1
    settings.seed = 1
    settings.spherical = metric != "l2"
    settings.min_points_per_centroid = 1  # silences a warning on standard error
    settings.max_points_per_centroid = len(sample)
    centres = sample[np.random.default_rng(1).choice(len(sample), lists, replace=False)].copy()
    for done in range(_ROUNDS):
        if not keep_going(done / _ROUNDS):
            return None
        clustering = faiss.Clustering(sample.shape[1], lists, settings)
        faiss.copy_array_to_vector(centres.ravel(), clustering.centroids)
        clustering.train(sample, _flat(faiss, sample.shape[1], metric))
        centres = faiss.vector_to_array(clustering.centroids).reshape(centres.shape)
    return centres


def _flat(faiss: Any, dim: int, metric: Metric) -> Any:
    return faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)


class Inverted:
    """Lists of rows around centres. Searches run beside each other; changes come one at a time."""

    def __init__(self, centres: Vectors, metric: Metric) -> None:
        """Make empty lists, one per row of `centres` (lists, dim)."""
        self._faiss: Any = library.load()
        self.centres = centres
        self.metric: Metric = metric
        self._pointer = self._faiss.swig_ptr
        self._coarse = _flat(self._faiss, centres.shape[1], metric)
        self._coarse.add(centres)
        kind = self._faiss.METRIC_L2 if metric == "l2" else self._faiss.METRIC_INNER_PRODUCT
        self._index = self._faiss.IndexIVFFlat(self._coarse, centres.shape[1], len(centres), kind)
        self._index.set_direct_map_type(self._faiss.DirectMap.Hashtable)
        self._search = self._index.search_c
        self._parameters: dict[int, Any] = {}  # number of lists to read -> faiss's object for it
        self._gate = Gate()
        self.list_of: NDArray[np.int32] = np.full(0, -1, np.int32)  # by slot; -1: not in here
        self._number = next(_numbers)  # an address would be given to another one later
        self._changes = 0

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return len(self.centres)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Memory of rows, their slots, the table of places and the centres."""
        row = 4 * self.centres.shape[1] + 8 + 24
        total: int = len(self) * row + self.list_of.nbytes + 2 * self.centres.nbytes
        return total

    def nearest_list(self, rows: Vectors) -> NDArray[np.int64]:
        """Return the list (n,) that each row belongs to; rows as `comparable` makes them."""
        library.stay_on_one_thread(self._faiss)
        if not len(rows):
            return np.empty(0, np.int64)
        return np.asarray(self._coarse.search(rows, 1)[1][:, 0], np.int64)

    def add(self, slots: Slots, rows: Vectors, into: NDArray[np.int64] | None = None) -> None:
        """Put rows (n, dim), as `comparable` makes them, into their lists, or the given ones."""
        lists = self.nearest_list(rows) if into is None else into
        self.remove(slots)
        if slots.size and slots.max() >= self.list_of.size:
            longer = np.full(max(int(slots.max()) + 1, 2 * self.list_of.size), -1, np.int32)
            longer[: self.list_of.size] = self.list_of
            self.list_of = longer
        for first in range(0, slots.size, _ADDED_AT_ONCE):
            part = slice(first, first + _ADDED_AT_ONCE)
            self._add_some(slots[part], rows[part], lists[part])

    def _add_some(self, slots: Slots, rows: Vectors, lists: NDArray[np.int64]) -> None:
        library.stay_on_one_thread(self._faiss)
        arrays = (
            np.ascontiguousarray(rows, np.float32),
            np.ascontiguousarray(slots, np.int64),
            np.ascontiguousarray(lists, np.int64),
        )
        with self._gate.writing():
            self._index.add_core(slots.size, *map(self._pointer, arrays))
            self.list_of[slots] = lists
            self._changes += 1

    def remove(self, slots: Slots) -> None:
        """Take slots out of their lists; those that are in none are no error."""
        known = slots[slots < self.list_of.size]
        inside = np.ascontiguousarray(np.unique(known[self.list_of[known] >= 0]))
        if not inside.size:
            return
        library.stay_on_one_thread(self._faiss)
        with self._gate.writing():
            self._index.remove_ids(self._faiss.IDSelectorArray(inside))
            self.list_of[inside] = -1
            self._changes += 1

    def search(self, queries: Vectors, k: int, probes: int) -> tuple[Slots, Floats]:
        """Return slots and scores (m, k) among the rows of the `probes` nearest lists.

        Where those hold fewer than k rows, slots end in -1.
        """
        library.stay_on_one_thread(self._faiss)
        parameters = self._parameters.get(probes)
        if parameters is None:
            parameters = self._faiss.SearchParametersIVF(nprobe=probes)
            self._parameters[probes] = parameters
        count = len(queries)
        slots = np.empty((count, k), np.int64)
        scores = np.empty((count, k), np.float32)
        pointer = self._pointer
        self._gate.enter()
        try:
            self._search(count, pointer(queries), k, pointer(scores), pointer(slots), parameters)
        finally:
            self._gate.leave()
        return slots, scores if self.metric != "l2" else _minus_distance(scores)

    def search_allowed(
        self, queries: Vectors, k: int, probes: int, allowed: Allowed, rows_to_read: float
    ) -> tuple[Slots, Floats]:
        """Return slots and scores (m, k) among allowed rows of the nearest lists that have some.

        Args:
            queries: (m, dim), as `prepare_queries` returns them.
            k: how many.
            probes: lists with allowed rows to read at least.
            allowed: which slots count.
            rows_to_read: allowed rows in these lists at least; more lists are read for them.
        """
        library.stay_on_one_thread(self._faiss)
        nearest, closeness = self._lists_with(
            self._allowed_by_list(allowed), queries, probes, rows_to_read
        )
        bits = np.packbits(allowed.mask, bitorder="little")
        parameters = self._faiss.SearchParametersIVF(
            sel=self._faiss.IDSelectorBitmap(bits), nprobe=nearest.shape[1]
        )
        slots = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        arrays = map(self._pointer, (nearest, closeness, scores, slots))
        self._gate.enter()
        try:
            self._index.search_preassigned_c(
                len(queries), self._pointer(queries), k, *arrays, False, parameters
            )
        finally:
            self._gate.leave()
        return slots, scores if self.metric != "l2" else _minus_distance(scores)

    def _allowed_by_list(self, allowed: Allowed) -> NDArray[np.int64]:
        """Return how many allowed rows each list (lists,) has."""
        key = (self._number, self._changes)
        counted = allowed.selection.counted
        if counted is None or counted[0] != key:
            chosen = allowed.selection.slots
            lists = self.list_of[chosen[: np.searchsorted(chosen, self.list_of.size)]]
            counted = key, np.bincount(lists + 1, minlength=self.lists + 1)[1:]
            allowed.selection.counted = counted
        return counted[1]

    def _lists_with(
        self, holding: NDArray[np.int64], queries: Vectors, probes: int, rows: float
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return lists (m, p) to read, nearest first and -1 at the end, and how close they are."""
        closeness = queries @ self.centres.T  # (m, lists)
        if self.metric == "l2":
            closeness = 2 * closeness - np.einsum("ld,ld->l", self.centres, self.centres)
        closeness[:, holding == 0] = -np.inf
        order = np.argsort(-closeness, axis=1)
        closeness = np.take_along_axis(closeness, order, 1)
        before = np.cumsum(holding[order], axis=1) - holding[order]
        wanted = (np.arange(self.lists) < probes) | (before < rows)
        wanted &= closeness > -np.inf
        width = max(1, int(wanted.sum(axis=1).max(initial=1)))
        nearest = np.where(wanted, order, -1)[:, :width].astype(np.int64)
        return np.ascontiguousarray(nearest), np.ascontiguousarray(closeness[:, :width])


def _minus_distance(squared: Floats) -> Floats:
    return -np.sqrt(np.maximum(squared, 0))
