"""Spaces: filled beside each other, never mixed."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from server.errors import InvalidInput, ServerError
from server.index.contract import Collection, NewItem, Query
from tests.server.index.suite_base import (
    DIM,
    SPACE,
    BaseSuite,
    Place,
    filled,
    items,
    new_collection,
    same,
    vectors,
)

NEW = "eyes@2:ba9876543210"


class SpaceSuite(BaseSuite):
    def test_spaces_are_made_once(self, collection: Collection) -> None:
        space = collection.space(SPACE, DIM)
        assert (space.key, space.dim) == (SPACE, DIM)
        collection.space(NEW, 3)
        collection.space(SPACE, DIM)
        assert collection.spaces() == [SPACE, NEW]
        with pytest.raises(InvalidInput, match="length"):
            collection.space(SPACE, DIM + 1)
        for key, dim in (("", 3), ("x" * 1000, 3), ("x", 0), ("x", 10**9)):
            with pytest.raises(InvalidInput):
                collection.space(key, dim)
        assert collection.spaces() == [SPACE, NEW]

    def test_a_new_space_fills_beside_the_old_one(self, collection: Collection) -> None:
        rows = filled(collection, 30)
        new, other = collection.space(NEW, 3), vectors(30, 3, seed=9)
        assert new.state().missing == 30 and collection.space(SPACE, DIM).state().missing == 0
        seen: list[str] = []
        while missing := new.missing(8):
            assert all(each.has_picture for each in missing) and len(missing) <= 8
            chosen = [int(each.id[1:]) for each in missing]
            assert new.fill(missing, other[chosen]) == len(missing)
            seen += [each.id for each in missing]
        assert seen == [f"i{i:04}" for i in range(30)]  # oldest first, each once
        assert (new.state().missing, new.state().vectors) == (0, 30)
        for i in (0, 13, 29):
            assert new.search(other[i : i + 1], Query(k=1))[0][0].id == f"i{i:04}"
            old = collection.space(SPACE, DIM)
            assert old.search(rows[i : i + 1], Query(k=1))[0][0].id == f"i{i:04}"
        (first, _), wrong = new.vectors(["i0005", "no such"]), old.vectors(["i0005"])
        assert same(first, other[5]) and same(wrong[0], rows[5])

    def test_what_is_put_later_is_missing_elsewhere(self, collection: Collection) -> None:
        filled(collection, 3)
        new = collection.space(NEW, 2)
        new.fill(new.missing(10), vectors(3, 2))
        collection.put([NewItem("later", {}, b"p")], {SPACE: vectors(1)})
        collection.put([NewItem("i0001")], {NEW: vectors(1, 2)})
        (missing,) = new.missing(10)
        assert missing.id == "later" and missing.has_picture
        (gone,) = collection.space(SPACE, DIM).missing(10)
        assert gone.id == "i0001" and not gone.has_picture

    def test_a_put_may_name_several_spaces(self, collection: Collection) -> None:
        rows, other = vectors(4), vectors(4, 2, seed=3)
        collection.put(items(4), {SPACE: rows, NEW: other})
        assert collection.space(SPACE, DIM).state().vectors == 4
        found = collection.space(NEW, 2).vectors(["i0003", "i0000"])
        assert same(np.stack([row for row in found if row is not None]), other[[3, 0]])

    def test_items_that_changed_meanwhile_are_not_filled(self, collection: Collection) -> None:
        filled(collection, 6)
        new, other = collection.space(NEW, 2), vectors(6, 2)
        missing = new.missing(10)
        collection.put([NewItem("i0001", {}, b"another picture")])
        collection.delete(["i0002", "i0003"])
        collection.put([NewItem("i0003", {}, b"yet another")])
        assert new.fill(missing, other) == 3
        assert new.fill(missing, other) == 0  # they are there already
        assert {each.id for each in new.missing(10)} == {"i0001", "i0003"}
        (hits,) = new.search(other[:1], Query(k=10))
        assert {hit.id for hit in hits} == {"i0000", "i0004", "i0005"}

    def test_wrong_vectors_are_not_filled(self, collection: Collection) -> None:
        filled(collection, 2)
        new = collection.space(NEW, 2)
        missing = new.missing(10)
        for wrong in (vectors(2, 3), vectors(1, 2), np.full((2, 2), np.nan, np.float32)):
            with pytest.raises(InvalidInput):
                new.fill(missing, wrong)
        assert new.state().missing == 2

    def test_dropped_spaces_are_gone(self, place: Place) -> None:
        store = place.open()
        collection = new_collection(store)
        rows = filled(collection, 5)
        old = collection.space(SPACE, DIM)
        collection.put(items(5), {NEW: vectors(5, 2)})
        collection.drop_space(SPACE)
        collection.drop_space(SPACE)
        collection.drop_space("no such")
        assert collection.spaces() == [NEW]
        with pytest.raises(ServerError):
            old.search(rows[:1], Query())
        again = collection.space(SPACE, 3)  # another one of that name
        assert again.state().vectors == 0 and again.state().missing == 5
        name = collection.spec.name
        store.close()
        store = place.open()
        try:
            assert store.open(name).spaces() == [NEW, SPACE]
            assert store.open(name).space(SPACE, 3).state().missing == 5
            assert store.open(name).space(NEW, 2).state().vectors == 5
        finally:
            store.close()

    def test_samples_are_the_same_for_the_same_seed(self, collection: Collection) -> None:
        rows = filled(collection, 50)
        space = collection.space(SPACE, DIM)
        ids, found = space.sample(10, seed=1)
        again, twin = space.sample(10, seed=1)
        assert ids == again and same(found, twin)
        assert len(set(ids)) == 10 and space.sample(10, seed=2)[0] != ids
        assert same(found, rows[[int(id[1:]) for id in ids]])
        everything, matrix = space.sample(1000)
        assert sorted(everything) == [f"i{i:04}" for i in range(50)] and matrix.shape == (50, DIM)
        empty, none = collection.space(NEW, 3).sample(5)
        assert empty == [] and none.shape == (0, 3)

    def test_only_one_is_busy_at_a_time(self, collection: Collection) -> None:
        with collection.busy("move", 0.0) as first:
            assert first
            outcome: list[bool] = []

            def other() -> None:
                for name in ("move", "else"):
                    with collection.busy(name, 0.05) as entered:
                        outcome.append(entered)

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert outcome == [False, True]
        with collection.busy("move", 0.0) as again:
            assert again

    def test_busy_may_be_left_on_another_thread(self, collection: Collection) -> None:
        inside = collection.busy("move", 1.0)
        assert inside.__enter__()
        thread = threading.Thread(target=inside.__exit__, args=(None, None, None))
        thread.start()
        thread.join()
        with collection.busy("move", 5.0) as entered:
            assert entered
