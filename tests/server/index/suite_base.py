"""What the parts of the suite share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from server.index.contract import Collection, CollectionSpec, Metric, NewItem, Store

SPACE = "eyes@1:0123456789ab"
DIM = 8
_numbers = count()


class Place(Protocol):
    """Where a store keeps its collections: what one closed, the next one finds."""

    def open(self) -> Store: ...


class BaseSuite:
    """Gives a store and a collection to each test."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError("say where the store is")

    @pytest.fixture
    def store(self, place: Place) -> Iterator[Store]:
        store = place.open()
        yield store
        store.close()

    @pytest.fixture
    def collection(self, store: Store) -> Collection:
        return new_collection(store)


def new_collection(store: Store, metric: Metric = "cosine", model: str | None = None) -> Collection:
    return store.create(CollectionSpec(f"c{next(_numbers)}", metric, model))


def vectors(count: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def items(count: int, prefix: str = "i") -> list[NewItem]:
    return [
        NewItem(f"{prefix}{i:04}", {"n": i, "even": i % 2 == 0}, b"picture %d" % i, b"t%d" % i)
        for i in range(count)
    ]


def filled(collection: Collection, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Put items with pictures and vectors in; returns the vectors."""
    rows = vectors(count, seed=seed)
    collection.put(items(count), {SPACE: rows})
    return rows


def same(row: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    """Tell whether there are two equal vectors."""
    return row is not None and other is not None and np.array_equal(row, other)


def scores_of(
    rows: Sequence[NDArray[np.float32]], query: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    """Score rows against a query, slowly and exactly."""
    wide, one = np.asarray(rows, np.float64), np.asarray(query, np.float64)
    if metric == "l2":
        return np.asarray(-np.linalg.norm(wide - one, axis=1), np.float64)
    found = wide @ one
    if metric == "cosine":
        found = found / (np.linalg.norm(wide, axis=1) * np.linalg.norm(one))
    return np.asarray(found, np.float64)
