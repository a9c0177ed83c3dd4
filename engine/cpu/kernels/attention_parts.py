"""What the kernels of attention share: how operands lie, what scratch memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import F32, I1, Builder, Value
from engine.cpu.kernels.square import transposed
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
    """Where things lie in the scratch memory of a task: blocks of queries, one after the other, and
    what they share.

    Attributes:
        heads: How operands lie.
        operands: Those of the scores.
        width: Queries of a block.
        lanes: Of a vector.
        blocks: Blocks of queries in a task.
        in_pairs: Whether products take pairs of bfloat16: then keys and values are copied.
    """

    heads: Heads
    operands: tuple[Operand, ...]
    width: int
    lanes: int
    blocks: int = 1
    in_pairs: bool = False

    @property
    def value_pitch(self) -> int:
        """Elements from one row of results to the next: whole vectors."""
        return self._whole(self.heads.value_size)

    @property
    def key_pitch(self) -> int:
        """Elements from one copied key to the next: whole vectors."""
        return self._whole(self.heads.size)

    def _whole(self, count: int) -> int:
        return -(-count // self.lanes) * self.lanes

    @property
    def _block_sizes(self) -> list[int]:
        """Bytes of a block's: queries, results, largest scores, sums, scales."""
        size = self.heads.size + self.heads.size % 2
        rows = [size // 2 if self.in_pairs else self.heads.size, self.value_pitch]
        return [4 * self.width * n for n in (*rows, 1, 1, 1)]

    @property
    def _shared_sizes(self) -> list[int]:
        """Bytes of: scores, operands with a number per query and key, keys, values."""
        full = [o.dtype.itemsize for o in self.operands if o.kind == "both"]
        sizes = [KEYS * self.width * size for size in (4, *full)]
        if self.in_pairs:
            sizes += [KEYS * 2 * self.key_pitch, KEYS * 2 * self.value_pitch]
        return sizes

    @property
    def block_bytes(self) -> int:
        """Bytes from one block's part to the next one's."""
        return sum(map(_lines, self._block_sizes))

    @property
    def block_offsets(self) -> list[int]:
        """The first byte of each of a block's parts, counted from where those begin."""
        return _offsets(self._block_sizes, self.shared_bytes)

    @property
    def shared_offsets(self) -> list[int]:
        """The first byte of what blocks share: first of all the scores."""
        return _offsets(self._shared_sizes, 0)

    @property
    def shared_bytes(self) -> int:
        """Bytes of what blocks share."""
        return sum(map(_lines, self._shared_sizes))

    @property
    def size_bytes(self) -> int:
        """Bytes of all."""
        return self.shared_bytes + self.blocks * self.block_bytes


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _offsets(sizes: Sequence[int], first: int) -> list[int]:
    found = [first]
    for size in sizes[:-1]:
        found.append(found[-1] + _lines(size))
    return found


def width_of(target: Target) -> int:
    """Return the queries of one block: the columns of the register tile."""
    return target.tile_columns


def blocks_of(products: DType) -> int:
    """Return the blocks of queries of one task: those that keys and values are copied for."""
    return 2 if products is DType.BFLOAT16 else 1


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


def turn_operand(
    f: Builder,
    to: Value,
    source: Value,
    step: Value,
    sizes: tuple[Value, Value, int],
    size: int,
) -> None:
    """Copy (queries, keys), `step` elements from query to query, to (keys, width).

    Args:
        f: The function under construction.
        to: Scratch memory.
        source: The first query's element for the first key.
        step: Elements from query to query.
        sizes: Queries, keys, width.
        size: Bytes of an element.
    """
    (queries, count, width), lanes = sizes, f.lanes
    bottom = f.sub(queries, f.rem(queries, lanes)) if size == 4 else f.mul(0, 1)
    edge = f.sub(count, f.rem(count, lanes))
    kind = ir.IntType(8 * size)

    def single(query: Value, key: Value) -> None:
        at = f.at_bytes(source, f.mul(f.add(f.mul(query, step), key), size))
        place = f.at_bytes(to, f.mul(f.add(f.mul(key, width), query), size))
        f.b.store(f.b.load(at, typ=kind, align=size), place, align=size)

    if size == 4:
        with f.loop(0, bottom, lanes, unroll=False) as query:
            with f.loop(0, edge, lanes, unroll=False) as key:
                first = f.add(f.mul(query.i, step), key.i)
                lines = [f.load(f.at(source, f.add(first, f.mul(step, k)))) for k in range(lanes)]
                for k, line in enumerate(transposed(f, lines)):
                    place = f.add(f.mul(f.add(key.i, k), width), query.i)
                    f.store(line, f.at(to, place))
            end = f.add(query.i, lanes)
            with (
                f.loop(query.i, end, unroll=False) as one,
                f.loop(edge, count, unroll=False) as key,
            ):
                single(one.i, key.i)
    with f.loop(bottom, queries, unroll=False) as one, f.loop(0, count, unroll=False) as key:
        single(one.i, key.i)
