"""Maps from ai.onnx.ml: ZipMap makes them, CastMap and DictVectorizer read them.

A map is a dict at run time, whose values are plain numbers or texts; dicts live on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ir.value_types import MapType, SequenceType, ValueType
from engine.ir.values import CELL_BYTES
from engine.ops.common import Array, check_size
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.ml_common import (
    DOMAIN,
    Labels,
    as_matrix,
    check_choice,
    feature_count,
    row_count,
)
from engine.ops.registry import operator

Map = dict[Any, Any]
FORMS = ("DENSE", "SPARSE")
CASTS: dict[str, tuple[DType, Callable[[Any], Any]]] = {
    "TO_FLOAT": (DType.FLOAT32, float),
    "TO_INT64": (DType.INT64, int),
    "TO_STRING": (DType.STRING, lambda value: value if isinstance(value, str) else f"{value:f}"),
}


@operator("ZipMap", since=1, domain=DOMAIN)
class ZipMap:
    """Each row of scores as a map from class labels to scores."""

    attributes = {"classlabels_int64s": (), "classlabels_strings": ()}
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """As many maps as rows."""
        if bool(ctx.attributes["classlabels_int64s"]) == bool(
            ctx.attributes["classlabels_strings"]
        ):
            ctx.fail("expected either classlabels_int64s or classlabels_strings")
        labels = Labels.read(ctx.attributes, "classlabels_int64s")
        columns = feature_count(ctx)
        if columns is not None and columns != labels.count:
            ctx.fail(f"{labels.count} class labels for {columns} columns; expected equally many")
        one = MapType(labels.dtype, TensorType(ctx.dtype(0), ()))
        return [SequenceType(one, row_count(ctx))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[list[Map]]:
        """A label that is there twice keeps its last column."""
        rows, labels = as_matrix(x), Labels.read(ctx.attributes, "classlabels_int64s")
        assert labels.values is not None
        names = labels.values.tolist()
        if rows.shape[1] != len(names):
            raise ValueError(f"{len(names)} class labels for {rows.shape[1]} columns")
        check_size(ctx, (rows.size, CELL_BYTES), np.uint8)
        return [[dict(zip(names, row, strict=True)) for row in rows.tolist()]]


def _map_of(ctx: InferContext, keys: Sequence[DType]) -> MapType:
    """Return the type of input 0, which must be a map with keys of one of these types."""
    kind = ctx.value_type(0)
    if not isinstance(kind, MapType) or kind.key not in keys:
        ctx.fail(
            f"input 0 is {kind}, expected a map with keys of type {' or '.join(map(str, keys))}"
        )
    return kind


@operator("CastMap", since=1, domain=DOMAIN)
class CastMap:
    """A map's values by ascending key, or each at the place that its key names."""

    attributes = {"cast_to": "TO_FLOAT", "map_form": "DENSE", "max_map": 1}
    tensors_only = False
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """[1, entries], or [1, max_map]."""
        check_choice(ctx, "cast_to", tuple(CASTS))
        check_choice(ctx, "map_form", FORMS)
        _map_of(ctx, (DType.INT64,))
        dtype, _ = CASTS[ctx.attributes["cast_to"]]
        size: Dim = int(ctx.attributes["max_map"])
        if ctx.attributes["map_form"] == "DENSE":
            size = ctx.fresh_dim("entries")
        elif ctx.attributes["max_map"] < 1:
            ctx.fail(f"max_map is {ctx.attributes['max_map']}; expected 1 at least")
        return [TensorType(dtype, (1, size))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Map) -> Sequence[Array]:
        """Places that no key names are zero, or empty text."""
        dtype, cast = CASTS[ctx.attributes["cast_to"]]
        entries = sorted((int(key), value) for key, value in x.items())
        if ctx.attributes["map_form"] == "DENSE":
            return [_row([cast(value) for _, value in entries], dtype)]
        size = int(ctx.attributes["max_map"])
        check_size(ctx, (1, size), dtype.numpy)
        if entries and not 0 <= entries[0][0] <= entries[-1][0] < size:
            raise ValueError(f"keys must be 0 to {size - 1}")
        values: list[Any] = ["" if dtype is DType.STRING else 0] * size
        for key, value in entries:
            values[key] = cast(value)
        return [_row(values, dtype)]


def _row(values: Sequence[Any], dtype: DType) -> np.ndarray:
    found = np.empty((1, len(values)), dtype.numpy)
    found[0, :] = values
    return found


@operator("DictVectorizer", since=1, domain=DOMAIN)
class DictVectorizer:
    """A map's values, each at the place of its key in a vocabulary; other keys are left out."""

    attributes = {"int64_vocabulary": (), "string_vocabulary": ()}
    tensors_only = False
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """[1, words] of the type of the map's values."""
        numbers, words = ctx.attributes["int64_vocabulary"], ctx.attributes["string_vocabulary"]
        if bool(numbers) == bool(words):
            ctx.fail("expected either int64_vocabulary or string_vocabulary")
        kind = _map_of(ctx, (DType.STRING,) if words else (DType.INT64,))
        if not isinstance(kind.value, TensorType):
            ctx.fail(f"input 0 is {kind}, expected a map to numbers or texts")
        return [TensorType(kind.value.dtype, (1, len(words or numbers)))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Map) -> Sequence[Array]:
        """Words that are no key give zero, or empty text."""
        vocabulary = ctx.attributes["string_vocabulary"] or ctx.attributes["int64_vocabulary"]
        dtype = _value_type(ctx, x)
        missing: Any = "" if dtype is DType.STRING else 0
        return [_row([x.get(word, missing) for word in vocabulary], dtype)]


def _value_type(ctx: ComputeContext, x: Map) -> DType:
    """The declared type of a map's values; outside of a typed graph, what they look like."""
    kind = ctx.types[0] if ctx.types else None
    if isinstance(kind, MapType):
        return kind.dtype
    found = np.asarray(next(iter(x.values()), 0.0))
    return DType.STRING if found.dtype.kind in "OUS" else DType.FLOAT32
