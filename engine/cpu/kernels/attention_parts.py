"""What the kernels of attention share: how operands lie, what scratch memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.cpu.builder import F32, I1, Builder, Value
from engine.cpu.target import Target
from engine.dtypes import DType

KEYS: Final = 256  # keys of one block: their scores for a block of queries stay in the cache
LINE: Final = 64


@dataclass(frozen=True)
class Heads:
    """How queries, keys, values and results of one head lie; neighbours of a head are neighbours.

    Attributes:
        rank: Leading axes: batch, heads.
        size: Numbers of a query and of a key.
        value_size: Numbers of a value and of a result.
        q_row: Elements from query to query.
        k_row: From key to key.
        v_row: From value to value.
        y_row: From result to result.
        dtype: FLOAT32, of queries, keys and values.
        y_dtype: What results are stored as.
    """

    rank: int
    size: int
    value_size: int
    q_row: int
    k_row: int
    v_row: int
    y_row: int
    dtype: DType = DType.FLOAT32
    y_dtype: DType = DType.FLOAT32


@dataclass(frozen=True)
class Operand:
    """An operand of the expression of the scores.

    Attributes:
        kind: What it has a number for: "one" (a head), "key", or "both" (query and key).
        dtype: Its element type.
    """

    kind: str
    dtype: DType


@dataclass(frozen=True)
class Scratch:
    """Where things lie in the scratch memory of a block of queries."""

    heads: Heads
    operands: tuple[Operand, ...]
    width: int
    lanes: int

    @property
    def value_pitch(self) -> int:
        """Elements from one row of results to the next: whole vectors."""
        return -(-self.heads.value_size // self.lanes) * self.lanes

    @property
    def _sizes(self) -> list[int]:
        """Bytes of: queries, scores, results, largest scores, sums, scales, operands."""
        size, width = 4, self.width
        sizes = [self.heads.size * width, KEYS * width, self.value_pitch * width, *[width] * 3]
        full = [o for o in self.operands if o.kind == "both"]
        return [*(n * size for n in sizes), *(KEYS * width * o.dtype.itemsize for o in full)]

    @property
    def offsets(self) -> list[int]:
        """The first byte of each."""
        found, total = [], 0
        for size in self._sizes:
            found.append(total)
            total += -(-size // LINE) * LINE
        return found

    @property
    def size_bytes(self) -> int:
        """Bytes of all."""
        return sum(-(-size // LINE) * LINE for size in self._sizes)


def width_of(target: Target) -> int:
    """Return the queries of one block: the columns of the register tile."""
    return target.tile_columns


def rows_of(target: Target) -> int:
    """Return the rows of the tile: they divide the width, and sums fit in the registers."""
    return 8 if target.lanes == 16 else 4


def vector_parts(size: int, lanes: int) -> list[int]:
    """Return how many lanes of each vector of a row there are."""
    return [min(lanes, size - k) for k in range(0, size, lanes)]


def has_weights(f: Builder, zeros: str, total: Value) -> Value:
    """Return whether a query with this sum of weights gives its sum of values, not zeros."""
    if zeros == "blind":
        return f.b.fcmp_unordered("!=", total, F32(0.0))
    if zeros == "none":
        return f.b.fcmp_ordered(">", total, F32(0.0))
    return I1(1)
