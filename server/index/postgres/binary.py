"""Vectors and rows in PostgreSQL's binary formats, which spare printing and reading decimals.

A `vector` of pgvector is two 16-bit integers, its length and a zero, then big-endian float32.
An array is a header with the type of its elements, then each with its length in bytes. COPY wants
a signature, rows of fields with lengths, and a trailer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import pq
from psycopg.adapt import Dumper

from server.index.contract import Vectors

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_TRAILER = struct.pack(">h", -1)
COPY_PIECE = 1 << 20  # bytes handed to the connection at one time
NULL = struct.pack(">i", -1)


class Raw:
    """A parameter that is in PostgreSQL's format already; the statement must say its type."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class RawDumper(Dumper):
    """Hands a `Raw` on as it is."""

    format = pq.Format.BINARY

    def dump(self, obj: Raw) -> bytes:
        """Return what goes over the wire."""
        return obj.data


def encoded_rows(rows: Vectors) -> list[bytes]:
    """Return the rows (n, dim) as values of type vector."""
    count, dim = rows.shape
    whole = np.empty((count, dim + 1), dtype=">f4")
    whole[:, 1:] = rows
    whole[:, :1].view(">i2")[:] = (dim, 0)
    data, size = whole.tobytes(), 4 * (dim + 1)
    return [data[start : start + size] for start in range(0, count * size, size)]


def vector(row: NDArray[np.float32]) -> Raw:
    """Return one row (dim,) as a parameter of type vector."""
    return Raw(encoded_rows(row[np.newaxis])[0])


def vector_array(rows: Vectors, type_oid: int) -> Raw:
    """Return rows (n, dim) as a parameter of type vector[]."""
    head = struct.pack(">iiIii", 1, 0, type_oid, len(rows), 1)
    return Raw(head + b"".join(map(_with_length, encoded_rows(rows))))


def decoded_rows(values: Sequence[bytes], dim: int) -> Vectors:
    """Return values of type vector as rows (n, dim)."""
    whole = np.frombuffer(b"".join(values), dtype=">f4").reshape(len(values), dim + 1)
    return np.ascontiguousarray(whole[:, 1:], dtype=np.float32)


def copy_rows(rows: Iterable[Sequence[bytes | None]]) -> Iterator[bytes]:
    """Yield what COPY ... FROM STDIN (FORMAT BINARY) reads, in pieces."""
    pieces, size = [COPY_HEADER], 0
    for row in rows:
        piece = struct.pack(">h", len(row)) + b"".join(
            NULL if each is None else _with_length(each) for each in row
        )
        pieces.append(piece)
        size += len(piece)
        if size >= COPY_PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join([*pieces, COPY_TRAILER])


def _with_length(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value
