"""Any sequence of calls, beside a plain dict that does the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from server.index.contract import Collection, NewItem, Query, Store
from server.index.filters import Compare, Not
from tests.server.index.suite_archives import save
from tests.server.index.suite_base import BaseSuite, Place, new_collection, same
from tests.server.index.suite_search import check_hits

KEYS = ("one", "two")
DIMS = {"one": 2, "two": 3}
RUNS = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

ids = st.sampled_from([f"id{i}" for i in range(8)])
several = st.lists(ids, max_size=5)
metadata = st.fixed_dictionaries({"n": st.integers(0, 2)})
pictures = st.none() | st.binary(max_size=3)
seeds = st.integers(0, 10_000)


@dataclass
class Kept:
    metadata: dict[str, Any]
    picture: bytes | None
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def rows_for(count: int, key: str, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, DIMS[key])).astype(np.float32)


class MachineSuite(BaseSuite):
    @pytest.mark.timeout(900)  # of a machine whose disk is busy with other things
    def test_any_sequence_of_calls_agrees_with_a_dict(self, place: Place, tmp_path: Path) -> None:
        holder = [place.open()]

        class Machine(_Machine):
            def __init__(self) -> None:
                super().__init__(place, holder, tmp_path)

        try:
            run_state_machine_as_test(Machine, settings=RUNS)
        finally:
            holder[0].close()


class _Machine(RuleBasedStateMachine):
    def __init__(self, place: Place, holder: list[Store], folder: Path) -> None:
        super().__init__()
        self.place, self.holder, self.folder = place, holder, folder
        self.collection: Collection = new_collection(holder[0], "l2")
        for key, dim in DIMS.items():
            self.collection.space(key, dim)
        self.model: dict[str, Kept] = {}

    @rule(
        chosen=several,
        metadata=metadata,
        picture=pictures,
        seed=seeds,
        keys=st.sets(st.sampled_from(KEYS)),
    )
    def put(
        self,
        chosen: list[str],
        metadata: dict[str, Any],
        picture: bytes | None,
        seed: int,
        keys: set[str],
    ) -> None:
        given = {key: rows_for(len(chosen), key, seed) for key in keys}
        new = len(set(chosen) - set(self.model))
        outcome = self.collection.put([NewItem(id, metadata, picture) for id in chosen], given)
        assert (outcome.added, outcome.replaced) == (new, len(set(chosen)) - new)
        for i, id in enumerate(chosen):
            rows = {key: matrix[i] for key, matrix in given.items()}
            self.model[id] = Kept(metadata, picture, rows)

    @rule(chosen=several)
    def delete(self, chosen: list[str]) -> None:
        assert self.collection.delete(chosen) == len(set(chosen) & set(self.model))
        for id in chosen:
            self.model.pop(id, None)

    @rule(id=ids, metadata=metadata)
    def update(self, id: str, metadata: dict[str, Any]) -> None:
        assert self.collection.update_metadata(id, metadata) == (id in self.model)
        if id in self.model:
            self.model[id].metadata = metadata

    @rule(key=st.sampled_from(KEYS), limit=st.integers(1, 5), seed=seeds)
    def fill(self, key: str, limit: int, seed: int) -> None:
        space = self.collection.space(key, DIMS[key])
        missing = space.missing(limit)
        expected = {id for id, kept in self.model.items() if key not in kept.vectors}
        found = {each.id for each in missing}
        assert found <= expected and len(missing) == len(found) == min(limit, len(expected))
        rows = rows_for(len(missing), key, seed)
        assert space.fill(missing, rows) == len(missing)
        for each, row in zip(missing, rows, strict=True):
            assert each.has_picture == (self.model[each.id].picture is not None)
            self.model[each.id].vectors[key] = row

    @rule(key=st.sampled_from(KEYS))
    def drop_space(self, key: str) -> None:
        self.collection.drop_space(key)
        self.collection.space(key, DIMS[key])
        for kept in self.model.values():
            kept.vectors.pop(key, None)

    @rule()
    def reopen(self) -> None:
        self.holder[0].close()
        self.holder[0] = self.place.open()
        self.collection = self.holder[0].open(self.collection.spec.name)

    @rule()
    def through_an_archive(self) -> None:
        store, name = self.holder[0], self.collection.spec.name
        path = save(store, name, self.folder / "machine.tar")
        store.drop(name)
        self.collection = store.restore(name, path)

    @rule(
        key=st.sampled_from(KEYS), seed=seeds, k=st.integers(1, 10), n=st.none() | st.integers(0, 2)
    )
    def search(self, key: str, seed: int, k: int, n: int | None) -> None:
        filter = None if n is None else Not(Compare(("n",), "eq", n))
        query = rows_for(1, key, seed)
        matching = {
            id: kept.vectors[key]
            for id, kept in self.model.items()
            if key in kept.vectors and (n is None or kept.metadata["n"] != n)
        }
        (hits,) = self.collection.space(key, DIMS[key]).search(query, Query(k=k, filter=filter))
        if matching:
            check_hits(hits, matching, query[0], "l2", k)
        else:
            assert hits == []

    @invariant()
    def holds_the_same(self) -> None:
        page = self.collection.page(limit=100)
        assert {item.id: item.metadata for item in page} == {
            id: kept.metadata for id, kept in self.model.items()
        }
        names = sorted(self.model)
        assert self.collection.pictures(names) == [self.model[id].picture for id in names]
        for key, dim in DIMS.items():
            for id, row in zip(names, self.collection.space(key, dim).vectors(names), strict=True):
                expected = self.model[id].vectors.get(key)
                assert (row is None) == (expected is None)
                assert row is None or same(row, expected)
