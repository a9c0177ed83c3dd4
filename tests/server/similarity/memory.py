"""A store of collections in memory, as plain as can be, that can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from server.errors import Conflict, InvalidInput, NotFound, ServerError
from server.index.contract import (
    CollectionSpec,
    Hit,
    IndexState,
    Missing,
    NewItem,
    PutOutcome,
    Query,
    Size,
    Vectors,
)


@dataclass
class Kept:
    item: NewItem
    revision: int


class MemorySpace:
    def __init__(self, collection: MemoryCollection, key: str, dim: int) -> None:
        self.collection, self.key, self.dim = collection, key, dim
        self.rows: dict[str, tuple[int, np.ndarray]] = {}
        self.fills: list[list[str]] = []

    def search(self, queries: Vectors, query: Query) -> list[list[Hit]]:
        with self.collection.lock:
            there = self._current()
            found = []
            for row in queries:
                scores = {id: float(row @ vector) for id, vector in there.items()}
                ranked = sorted(scores, key=lambda id: -scores[id])[: query.k]
                found.append([Hit(id, scores[id]) for id in ranked])
            return found

    def _current(self) -> dict[str, np.ndarray]:
        kept = self.collection.kept
        return {id: v for id, (revision, v) in self.rows.items() if kept[id].revision == revision}

    def missing(self, limit: int) -> list[Missing]:
        self.collection.store.check()
        with self.collection.lock:
            there = self._current()
            absent = [(id, k) for id, k in self.collection.kept.items() if id not in there]
            absent.sort(key=lambda pair: pair[1].revision)
            return [Missing(id, k.revision, bool(k.item.picture)) for id, k in absent[:limit]]

    def fill(self, made_of: Sequence[Missing], vectors: Vectors) -> int:
        self.collection.store.check()
        assert vectors.shape == (len(made_of), self.dim) and np.isfinite(vectors).all()
        with self.collection.lock:
            self.fills.append([item.id for item in made_of])
            count = 0
            for item, row in zip(made_of, vectors, strict=True):
                kept = self.collection.kept.get(item.id)
                if kept is not None and kept.revision == item.revision:
                    self.rows[item.id] = (item.revision, row.copy())
                    count += 1
            return count

    def vectors(self, ids: Sequence[str]) -> list[np.ndarray | None]:
        with self.collection.lock:
            there = self._current()
            return [there.get(id) for id in ids]

    def sample(self, count: int, seed: int = 0) -> tuple[list[str], Vectors]:
        there = self._current()
        ids = sorted(there)[:count]
        return ids, np.stack([there[id] for id in ids])

    def state(self) -> IndexState:
        with self.collection.lock:
            have = len(self._current())
            return IndexState("exact", "few", have, len(self.collection.kept) - have, 0)

    def measure_recall(self, queries: Vectors, k: int = 10) -> float:
        return 1.0


class MemoryCollection:
    def __init__(self, store: MemoryStore, spec: CollectionSpec) -> None:
        self.store, self.spec = store, spec
        self.lock = threading.RLock()
        self.kept: dict[str, Kept] = {}
        self.all_spaces: dict[str, MemorySpace] = {}
        self.facts: dict[str, str] = {}
        self.inside: set[str] = set()
        self._revision = 0

    def put(
        self, items: Sequence[NewItem], vectors: Mapping[str, Vectors] | None = None
    ) -> PutOutcome:
        with self.lock:
            replaced = sum(item.id in self.kept for item in items)
            for place, item in enumerate(items):
                self._revision += 1
                self.kept[item.id] = Kept(item, self._revision)
                for space in self.all_spaces.values():
                    space.rows.pop(item.id, None)
                for key, rows in (vectors or {}).items():
                    self.all_spaces[key].rows[item.id] = (self._revision, rows[place])
            return PutOutcome(len(items) - replaced, replaced)

    def delete(self, ids: Sequence[str]) -> int:
        with self.lock:
            for space in self.all_spaces.values():
                for id in ids:
                    space.rows.pop(id, None)
            return sum(self.kept.pop(id, None) is not None for id in ids)

    def pictures(self, ids: Sequence[str], most_bytes: int | None = None) -> list[bytes | None]:
        with self.lock:
            found = [self.kept[id].item.picture if id in self.kept else None for id in ids]
        if most_bytes is None:
            return found
        return [each if each is None or len(each) <= most_bytes else None for each in found]

    def size(self) -> Size:
        self.store.check()
        with self.lock:
            pictures = sum(bool(kept.item.picture) for kept in self.kept.values())
            return Size(len(self.kept), pictures, 0)

    def space(self, key: str, dim: int) -> MemorySpace:
        with self.lock:
            found = self.all_spaces.setdefault(key, MemorySpace(self, key, dim))
            if found.dim != dim:
                raise InvalidInput("another length")
            return found

    def spaces(self) -> list[str]:
        return list(self.all_spaces)

    def drop_space(self, key: str) -> None:
        self.all_spaces.pop(key, None)

    def fact(self, name: str) -> str | None:
        return self.facts.get(name)

    def set_fact(self, name: str, value: str | None) -> None:
        if value is None:
            self.facts.pop(name, None)
        else:
            self.facts[name] = value

    @contextmanager
    def busy(self, name: str, wait_s: float) -> Iterator[bool]:
        with self.lock:
            entered = name not in self.inside
            self.inside.add(name)
        try:
            yield entered
        finally:
            if entered:
                self.inside.discard(name)


@dataclass
class MemoryStore:
    collections: dict[str, MemoryCollection] = field(default_factory=dict)
    fault: ServerError | None = None

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def create(self, spec: CollectionSpec) -> MemoryCollection:
        if spec.name in self.collections:
            raise Conflict(f"there is a collection {spec.name!r}")
        self.collections[spec.name] = MemoryCollection(self, spec)
        return self.collections[spec.name]

    def open(self, name: str) -> MemoryCollection:
        self.check()
        if name not in self.collections:
            raise NotFound(f"there is no collection {name!r}")
        return self.collections[name]

    def names(self) -> list[str]:
        self.check()
        return sorted(self.collections)

    def drop(self, name: str) -> None:
        del self.collections[name]
