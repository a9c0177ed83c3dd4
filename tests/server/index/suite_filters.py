"""Filters: every store means the same by them as the evaluator in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.index.contract import Collection, NewItem, Query, Store
from server.index.filter_reading import MAX_CONDITIONS, read_filter
from server.index.filters import All, Compare, Exists, Filter, Not, OneOf, Some
from tests.server.index.evaluator import matches
from tests.server.index.suite_base import DIM, SPACE, BaseSuite, filled, new_collection, vectors

QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = ("a", "b", "ü", "1", "a b", "$x", "x'y")
# That JSON has to escape, or that mean something in a path.
NASTY_KEYS = (
    '"',
    'a"b',
    "\\",
    "a\\",
    '\\"',
    "\\n",
    "\n",
    "\x1f",
    "a.b",
    ".",
    "[0]",
    "$",
    "u\\u0041",
)
TEXTS = (
    "",
    "a",
    "ab",
    "b",
    "B",
    "ü",
    "z",
    "🐈",
    "\uffff",
    "1",
    "true",
    "null",
    "a'b",
    '"',
    "\\",
    "%",
)
NUMBERS = (
    0,
    1,
    -1,
    1.0,
    0.5,
    -0.0,
    1e-7,
    0.1,
    0.30000000000000004,
    10,
    9,
    2**53,
    -(2**63),
    2**63 - 1,
    1e300,
)
SCALARS: tuple[Any, ...] = (None, True, False, *TEXTS, *NUMBERS)

scalars = st.sampled_from(SCALARS)
keys = st.sampled_from(KEYS + NASTY_KEYS)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
metadata = st.dictionaries(keys, values, max_size=4)
paths = st.lists(keys, min_size=1, max_size=2).map(tuple)
ordinals = st.sampled_from(TEXTS + NUMBERS)
leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, paths, st.just("eq"), scalars),
    st.builds(Compare, paths, st.sampled_from(("gt", "gte", "lt", "lte")), ordinals),
    st.builds(OneOf, paths, st.lists(scalars, max_size=4).map(tuple)),
    st.builds(Exists, paths),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Some, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)

TRICKY: list[dict[str, Any]] = [
    {},
    *({"a": value} for value in SCALARS),
    {"a": {}},
    {"a": []},
    {"a": ["b"]},
    {"a": {"b": None}},
    {"a": {"b": 1, "1": "x"}},
    {"a": [{"b": 1}]},
    {"a": ["zero", "one"]},
    {"a": '{"b": 1}'},
    {"a.b": 1},
    {"b": True, "ü": {"a b": "ab"}},
    {"x'y": 1, "$x": 2, "a b": "ü"},
    *({key: 1} for key in NASTY_KEYS),
    *({key: {key: "a"}} for key in NASTY_KEYS),
    {NASTY_KEYS[0]: '{"\\"": 1}', NASTY_KEYS[2]: [1, {"\\": "a"}]},
]


def ids_of(collection: Collection, filter: Filter) -> set[str]:
    return {item.id for item in collection.page(limit=10_000, filter=filter)}


class FilterSuite(BaseSuite):
    @pytest.fixture
    def tricky(self, store: Store) -> Collection:
        collection = new_collection(store, "l2")
        collection.put(
            [NewItem(str(i), each) for i, each in enumerate(TRICKY)],
            {SPACE: vectors(len(TRICKY))},
        )
        return collection

    def test_filters_mean_what_they_say(self, tricky: Collection) -> None:
        space, query = tricky.space(SPACE, DIM), vectors(1, seed=5)

        @QUICK
        @given(filters)
        def check(filter: Filter) -> None:
            expected = {str(i) for i, each in enumerate(TRICKY) if matches(filter, each)}
            assert ids_of(tricky, filter) == expected
            (hits,) = space.search(query, Query(k=1000, filter=filter))
            assert {hit.id for hit in hits} == expected and len(hits) == len(expected)

        check()

    def test_filters_mean_the_same_of_any_metadata(self, store: Store) -> None:
        collection = new_collection(store)

        @QUICK
        @given(st.lists(metadata, min_size=1, max_size=4), filters)
        def check(many: list[dict[str, Any]], filter: Filter) -> None:
            collection.put([NewItem(str(i), each) for i, each in enumerate(many)])
            expected = {str(i) for i, each in enumerate(many) if matches(filter, each)}
            collection.delete([str(i) for i in range(len(many), 10)])
            assert ids_of(collection, filter) == expected

        check()

    @pytest.mark.parametrize("value", SCALARS, ids=repr)
    def test_equality_and_order_agree_with_python(self, tricky: Collection, value: Any) -> None:
        asked: list[Filter] = [Compare(("a",), "eq", value), OneOf(("a",), (value, "no such"))]
        if value is not None and not isinstance(value, bool):
            asked += [Compare(("a",), order, value) for order in ("gt", "gte", "lt", "lte")]
        for filter in asked:
            for each in (filter, Not(filter)):
                expected = {str(i) for i, one in enumerate(TRICKY) if matches(each, one)}
                assert ids_of(tricky, each) == expected

    @pytest.mark.parametrize("key", NASTY_KEYS)
    def test_any_name_of_a_field_can_be_asked_for(self, store: Store, key: str) -> None:
        collection = new_collection(store)
        collection.put([NewItem(str(i), each) for i, each in enumerate(TRICKY)])
        written = "".join("\\" + each if each in ".$\\" else each for each in key)
        asked: list[dict[str, Any]] = [
            {written: 1},
            {written: {"$gte": 0}},
            {f"{written}.{written}": "a"},
            {f"{written}.{written}": {"$in": ["a", "b", 1, None]}},
            {written: {"$exists": True}},
            {written: {"$ne": 1}},
            {f"{written}.{written}": {"$exists": False}},
            {f"a.{written}": {"$not": {"$lt": "b"}}},
        ]
        for each in asked:
            filter = read_filter(each)
            expected = {str(i) for i, one in enumerate(TRICKY) if matches(filter, one)}
            assert ids_of(collection, filter) == expected
        assert ids_of(collection, read_filter(asked[0])) and ids_of(
            collection, read_filter(asked[2])
        )

    def test_the_largest_filters_are_answered(self, tricky: Collection) -> None:
        wide = read_filter({f"f{i}": i for i in range(MAX_CONDITIONS)})
        every = read_filter({"$or": [{"a": {"$ne": "no such"}}] * 80})
        assert ids_of(tricky, wide) == set()
        assert len(ids_of(tricky, every)) == len(TRICKY)

    def test_a_filter_never_shortens_an_answer(self, store: Store) -> None:
        collection = new_collection(store)
        rows = filled(collection, 500)
        space = collection.space(SPACE, DIM)
        for least in (0, 250, 475, 499, 500):
            filter = read_filter({"n": {"$gte": least}})
            for k in (1, 10, 600):
                found = space.search(rows[:2], Query(k=k, filter=filter))
                assert [len(hits) for hits in found] == [min(k, 500 - least)] * 2
                assert all(int(hit.id[1:]) >= least for hits in found for hit in hits)

    def test_filters_see_every_change_at_once(self, store: Store) -> None:
        collection = new_collection(store)
        rows = filled(collection, 20)
        space = collection.space(SPACE, DIM)
        filter = read_filter({"n": {"$lt": 10}, "even": True})

        def found() -> set[str]:
            (hits,) = space.search(rows[:1], Query(k=100, filter=filter))
            assert {hit.id for hit in hits} == ids_of(collection, filter)
            return {hit.id for hit in hits}

        even = {f"i{i:04}" for i in range(0, 10, 2)}
        assert found() == even
        collection.delete(["i0002"])
        assert found() == even - {"i0002"}
        collection.update_metadata("i0019", {"n": 4, "even": True})
        collection.update_metadata("i0004", {"n": 4})
        assert found() == (even | {"i0019"}) - {"i0002", "i0004"}
        collection.put([NewItem("new", {"n": -1, "even": True})], {SPACE: rows[:1]})
        collection.put([NewItem("i0000", {"n": 100})], {SPACE: rows[:1]})
        assert found() == {"i0006", "i0008", "i0019", "new"}
        for i in range(600):  # more changes than are looked at one by one
            if i % 200 == 0:
                collection.update_metadata("i0006", {"n": i})
            collection.update_metadata("i0018", {"n": i % 9, "even": True})
        assert found() == {"i0008", "i0018", "i0019", "new"}

    def test_filters_work_together_with_the_other_wishes(self, store: Store) -> None:
        collection = new_collection(store, "dot")
        collection.put(
            [NewItem(str(i), {"third": i % 3}) for i in range(200)],
            {SPACE: np.arange(200, dtype=np.float32)[:, None]},
        )
        space, one = collection.space(SPACE, 1), np.ones((1, 1), np.float32)
        third = Compare(("third",), "eq", 1)
        (hits,) = space.search(
            one, Query(k=2, filter=third, offset=1, exclude=frozenset(("199", "196")))
        )
        assert [hit.id for hit in hits] == ["190", "187"]
        (hits,) = space.search(one, Query(k=9, filter=third, min_score=192.5))
        assert [hit.id for hit in hits] == ["199", "196", "193"]
        many = frozenset(str(i) for i in range(100, 200))
        (hits,) = space.search(one, Query(k=2, filter=third, exclude=many))
        assert [hit.id for hit in hits] == ["97", "94"]

    def test_true_is_not_one_even_right_after_it(self, tricky: Collection) -> None:
        """1, 1.0 and True are one key of a dict: what remembers filters must not be one."""
        for value in (1, True, 1.0, True, 1):
            expected = {str(i) for i, one in enumerate(TRICKY) if one.get("a") is value} | {
                str(i)
                for i, one in enumerate(TRICKY)
                if value is not True and type(one.get("a")) in (int, float) and one["a"] == 1
            }
            (hits,) = tricky.space(SPACE, DIM).search(
                vectors(1), Query(k=1000, filter=Compare(("a",), "eq", value))
            )
            assert {hit.id for hit in hits} == expected
