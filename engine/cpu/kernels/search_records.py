"""How a search's settings and progress lie in memory: a row of 64-bit numbers.

The columns are those of `engine/generation/state.py`; a test holds that they agree.
"""

from __future__ import annotations

from typing import Final

from engine.cpu.builder import I32, I64, Builder, Value
from engine.dtypes import DType

(
    BEAMS,
    KEEP,
    LENGTH,
    MOST,
    LEAST,
    EARLY,
    HOPED,
    FIRST,
    LAST,
    ENDS,
    END_COUNT,
    BANS,
    BAN_COUNT,
    SAMPLES,
    DONE,
    TOKEN,
) = range(16)
COLUMNS: Final = 16
MOST_CANDIDATES: Final = 128
NO_TOKEN: Final = -1
LEAST_SCORE: Final = -5e8


class Record:
    """A row of numbers in memory, read and written by column."""

    def __init__(self, f: Builder, pointer: Value) -> None:
        self._f, self._pointer = f, pointer

    def __getitem__(self, column: int) -> Value:
        f = self._f
        return f.load(f.at(self._pointer, column, DType.INT64), DType.INT64, 1)

    def __setitem__(self, column: int, value: Value) -> None:
        f = self._f
        f.store(value, f.at(self._pointer, column, DType.INT64), DType.INT64)


def widened(f: Builder, value: Value) -> Value:
    """Return a 32-bit number as one of 64 bits."""
    return f.b.sext(value, I64)


def truncated(f: Builder, value: Value) -> Value:
    """Return a 64-bit number as one of 32 bits."""
    return f.b.trunc(value, I32)
