"""Filters on metadata: what they may say, read from JSON once and checked there.

    {"label": "cat"}                               equal
    {"year": {"$gte": 2020, "$lt": 2024}}          compared; $ne $gt $gte $lt $lte
    {"label": {"$in": ["cat", "dog"]}}             one of; $nin none of
    {"camera.maker": {"$exists": true}}            a path into nested objects
    {"$or": [{...}, {...}]}   {"$and": [...]}   {"$not": {...}}

Several fields in one object must all hold. The stores turn the tree into their own language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scalar = str | int | float | bool | None
Comparison = Literal["eq", "ne", "gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True)
class Compare:
    """The value at a path stands so to a scalar; a missing value, or another type, does not."""

    path: tuple[str, ...]
    comparison: Comparison
    value: Scalar


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
