"""Filters as they come in requests: read, or refused with the way to the fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidInput
from server.index.filter_reading import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_PATH,
    MAX_TEXT,
    MAX_VALUES,
    read_filter,
)
from server.index.filters import All, Compare, Exists, Filter, Not, OneOf, Some
from tests.server.index.evaluator import matches

A = ("a",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, All(())),
        ({"a": "x"}, Compare(A, "eq", "x")),
        ({"a": None}, Compare(A, "eq", None)),
        ({"a.b.c": 1.5}, Compare(("a", "b", "c"), "eq", 1.5)),
        ({r"a\.b.c": 1}, Compare(("a.b", "c"), "eq", 1)),
        ({r"\$x": 1}, Compare(("$x",), "eq", 1)),
        ({"a\\\\.b": 1}, Compare(("a\\", "b"), "eq", 1)),
        ({'a"\n': {"$exists": True}}, Exists(('a"\n',))),
        ({"a": {"$eq": True}}, Compare(A, "eq", True)),
        ({"a": {"$ne": 1}}, Not(Compare(A, "eq", 1))),
        ({"a": {"$gte": 1, "$lt": 2}}, All((Compare(A, "gte", 1), Compare(A, "lt", 2)))),
        ({"a": {"$gt": "x"}}, Compare(A, "gt", "x")),
        ({"a": {"$in": [1, "x", None]}}, OneOf(A, (1, "x", None))),
        ({"a": {"$nin": []}}, Not(OneOf(A, ()))),
        ({"a": {"$exists": True}}, Exists(A)),
        ({"a": {"$exists": False}}, Not(Exists(A))),
        ({"a": {"$not": {"$lte": 3}}}, Not(Compare(A, "lte", 3))),
        ({"$not": {"a": 1}}, Not(Compare(A, "eq", 1))),
        ({"$and": [{"a": 1}]}, All((Compare(A, "eq", 1),))),
        (
            {"$or": [{"a": 1}, {"b": 2}], "c": 3},
            All((Some((Compare(A, "eq", 1), Compare(("b",), "eq", 2))), Compare(("c",), "eq", 3))),
        ),
    ],
    ids=str,
)
def test_filters_are_read(value: Any, expected: Filter) -> None:
    assert read_filter(value) == expected


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        value = {"$not": value}
    return value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([], "filter"),
        ("a", "filter"),
        (None, "filter"),
        ({1: 2}, "filter"),
        ({"$nor": []}, "filter.$nor"),
        ({"$or": []}, "filter.$or"),
        ({"$and": {"a": 1}}, "filter.$and"),
        ({"$or": [{"a": 1}, 7]}, "filter.$or[1]"),
        ({"$not": [1]}, "filter.$not"),
        ({"": 1}, "filter."),
        ({"a..b": 1}, "filter.a..b"),
        ({"a\\b": 1}, "filter.a\\b"),
        ({"a\\": 1}, "filter.a\\"),
        ({"a.": 1}, "filter.a."),
        ({"a" * (MAX_TEXT + 1): 1}, "filter." + "a" * 100),
        ({f"f{i}": i for i in range(MAX_CONDITIONS + 1)}, "filter"),
        ({"a\0": 1}, "filter.a\0"),
        ({"\ud800": 1}, "filter.\ud800"),
        ({".".join("a" * (MAX_PATH + 1)): 1}, "filter." + ".".join("a" * (MAX_PATH + 1))),
        ({"a": [1]}, "filter.a"),
        ({"a": {}}, "filter.a"),
        ({"a": {"b": 1}}, "filter.a"),
        ({"a": {1: 1}}, "filter.a"),
        ({"a": {"$regex": "x"}}, "filter.a"),
        ({"a": {"$gt": None}}, "filter.a.$gt"),
        ({"a": {"$lte": True}}, "filter.a.$lte"),
        ({"a": {"$lt": [1]}}, "filter.a.$lt"),
        ({"a": {"$in": 1}}, "filter.a.$in"),
        ({"a": {"$in": [1, {}]}}, "filter.a.$in[1]"),
        ({"a": {"$exists": 1}}, "filter.a.$exists"),
        ({"a": {"$not": 1}}, "filter.a.$not"),
        ({"a": float("nan")}, "filter.a"),
        ({"a": float("inf")}, "filter.a"),
        ({"a": 2**63}, "filter.a"),
        ({"a": 10**5000}, "filter.a"),
        ({"a": "x" * (MAX_TEXT + 1)}, "filter.a"),
        ({"a": "\0"}, "filter.a"),
        ({"a": "\udfff"}, "filter.a"),
        ({"a": b"x"}, "filter.a"),
        ({"a": {"$in": [1] * (MAX_VALUES + 1)}}, f"filter.a.$in[{MAX_VALUES}]"),
        ({"$or": [{"a": 1}] * MAX_CONDITIONS}, f"filter.$or[{MAX_CONDITIONS - 1}]"),
        (nested(MAX_DEPTH), "filter" + ".$not" * MAX_DEPTH),
        (nested(3000), "filter" + ".$not" * MAX_DEPTH),
    ],
    ids=range(43),
)
def test_what_is_no_filter_is_refused(value: Any, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_filter(value)
    assert caught.value.extra["field"] == where
    assert caught.value.message.startswith(where) and len(caught.value.message) < 1000


def test_depth_within_fields_is_counted() -> None:
    value: dict[str, Any] = {"$gt": 1}
    for _ in range(3000):
        value = {"$not": value}
    with pytest.raises(InvalidInput, match="nest"):
        read_filter({"a": value})


def test_the_largest_filters_are_read() -> None:
    read_filter({"a": {"$in": list(range(MAX_VALUES))}})
    read_filter(nested(MAX_DEPTH - 1))
    read_filter({"$or": [{"a": 1}] * (MAX_CONDITIONS - 1)})
    read_filter({f"f{i}": i for i in range(MAX_CONDITIONS)})
    read_filter({".".join("a" * MAX_PATH): 1})


def test_errors_begin_with_what_the_request_calls_it() -> None:
    with pytest.raises(InvalidInput, match=r"^where\.a\.\$gt: expected"):
        read_filter({"a": {"$gt": None}}, where="where")


names = st.sampled_from(
    ("a", "a.b", "$or", "$and", "$not", "$in", "$gt", "$ne", "$exists", "", "$")
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@given(anything)
def test_anything_is_read_or_refused(value: Any) -> None:
    try:
        filter = read_filter(value)
    except InvalidInput as error:
        assert error.extra["field"].startswith("filter")
    else:
        assert matches(filter, {"a": {"b": 1}}) in (True, False)
