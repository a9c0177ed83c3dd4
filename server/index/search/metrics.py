"""What a score is, and which vectors have one.

A larger score is nearer: the cosine, the dot product, or minus the Euclidean distance. Rows are
kept as they were given; what a metric needs beside them is one number per row, its *factor*.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput
from server.index.contract import Metric, Vectors

Floats = NDArray[np.float32]

# Up to this length no dot product, and no distance, leaves the range of float32.
MAX_LENGTH = 1e18
_MAX_SQUARED = MAX_LENGTH**2
# Shorter vectors have no direction in float32: their cosine with anything is 0.
_MIN_LENGTH = 1e-30
# Below this the square of a length has lost digits to underflow.
_MIN_SQUARED = 1e-24


def check_rows(vectors: Vectors, dim: int | None = None, field: str = "vector") -> None:
    """Refuse vectors that cannot be compared.

    Args:
        vectors: (n, dim) float32.
        dim: the length they should have; None: any from 1 on.
        field: what the message calls them.

    Raises:
        InvalidInput: they have another length, or hold a value that is not finite or too large.
    """
    if vectors.ndim != 2 or vectors.shape[1] != (dim or vectors.shape[1]) or not vectors.shape[1]:
        raise InvalidInput(
            f"`{field}`: expected {dim or 'some'} numbers, got {list(vectors.shape[1:])}",
            field=field,
            expected=dim,
            got=list(vectors.shape),
        )
    squared = _squares(vectors)
    if not (squared < _MAX_SQUARED).all():
        row = int(np.flatnonzero(~(squared < _MAX_SQUARED))[0])
        raise _not_comparable(field, row)


def _not_comparable(field: str, row: int) -> InvalidInput:
    return InvalidInput(
        f"`{field}`, number {row}: expected finite numbers and a length below {MAX_LENGTH:g}; "
        "it has a NaN, an infinity, or values far too large",
        field=field,
        row=row,
    )


def _squares(rows: Vectors) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        squares: Floats = np.einsum("nd,nd->n", rows, rows)  # (n,)
    return squares


def lengths(rows: Vectors) -> Floats:
    """Return the Euclidean length of each row (n,), right for very short rows as well."""
    squared = _squares(rows)
    length: Floats = np.sqrt(squared)
    tiny = np.flatnonzero(squared < _MIN_SQUARED)
    if tiny.size:
        length[tiny] = np.linalg.norm(rows[tiny].astype(np.float64), axis=1)
    return length


def inverse_lengths(rows: Vectors) -> Floats:
    """Return 1 / length of each row (n,); 0 for rows that have no direction."""
    length = lengths(rows)
    inverse = np.zeros_like(length)
    np.divide(1, length, out=inverse, where=length > _MIN_LENGTH)
    return inverse


def factors(rows: Vectors, metric: Metric) -> Floats:
    """Return what the metric needs beside each row (n,): see the module's description."""
    if metric == "cosine":
        return inverse_lengths(rows)
    if metric == "l2":
        return _squares(rows)
    return np.ones(len(rows), np.float32)


def comparable(rows: Vectors, metric: Metric) -> Vectors:
    """Return rows whose dot product (or distance) is the metric: unit rows for cosine."""
    if metric != "cosine":
        return np.ascontiguousarray(rows)
    return rows * inverse_lengths(rows)[:, None]  # (n, dim)


def prepare_queries(queries: Vectors, dim: int, metric: Metric) -> Vectors:
    """Return queries as the search compares them: contiguous float32, unit rows for cosine.

    Raises:
        InvalidInput: they have another length, or are not finite.
    """
    if queries.dtype == np.float32 and queries.ndim == 2 and queries.shape[1] == dim:
        if len(queries) == 1:  # the way of one query a call: short
            with np.errstate(over="ignore", invalid="ignore"):
                squared = float(queries[0].dot(queries[0]))
            if _MIN_SQUARED < squared < _MAX_SQUARED:
                if metric == "cosine":
                    return queries * np.float32(1.0 / math.sqrt(squared))
                return np.ascontiguousarray(queries)
        queries = np.ascontiguousarray(queries)
        squares = _squares(queries)
        if ((squares > _MIN_SQUARED) & (squares < _MAX_SQUARED)).all():
            if metric == "cosine":
                return queries * np.reciprocal(np.sqrt(squares))[:, None]
            return queries
    queries = np.ascontiguousarray(queries, np.float32)
    check_rows(queries, dim, "query")
    return comparable(queries, metric)
