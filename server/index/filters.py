"""Filters on metadata: what they may say, read from JSON once and checked there.

    {"label": "cat"}                               equal
    {"year": {"$gte": 2020, "$lt": 2024}}          compared; $eq $ne $gt $gte $lt $lte
    {"label": {"$in": ["cat", "dog"]}}             one of; $nin none of
    {"camera.maker": {"$exists": true}}            a path into nested objects
    {"$or": [{...}, {...}]}   {"$and": [...]}   {"$not": {...}}

Several fields in one object must all hold. The stores turn the tree into their own language, and
mean the same by it:

- A path steps through objects only, never into an array. What it does not reach is missing. A
  name that has a dot in it, or begins with a dollar sign, is written with a backslash before that
  (`a\\.b`), and a backslash as two.
- Equality looks at the type first: `true` is not 1, "1" is not 1, but 1 is 1.0. `null` equals a
  null that is there, not a missing value. An array or an object equals no scalar.
- Order is between two numbers by value, or two strings by code points. Whatever else stands at
  the path is neither greater nor less, nor at least or at most.
- `$ne`, `$nin` and `$not` are exact complements: a filter and its negation split a collection in
  two, so `{"label": {"$ne": "cat"}}` also finds the items without any label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scalar = str | int | float | bool | None
Comparison = Literal["eq", "gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True)
class Compare:
    """The value at a path stands so to a scalar; a missing value, or another type, does not."""

    path: tuple[str, ...]
    comparison: Comparison
    value: Scalar  # a string or a finite number wherever order is asked for


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value at a path is one of these."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """There is a value at the path, be it null."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; true of no parts."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds; false of no parts."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter = Compare | OneOf | Exists | All | Some | Not
