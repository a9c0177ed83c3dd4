"""Counts of n-grams in rows of words or numbers: TfIdfVectorizer.

The pool of n-grams becomes a trie whose levels are sorted arrays; all windows of all rows go down
it together. Words live on the host only, so this computes on numpy arrays on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ops.common import Array, check_size, ints
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.ml_common import item_per_row
from engine.ops.ml_encoders import Lookup
from engine.ops.registry import REQUIRED, Kernel, operator

MODES = ("TF", "IDF", "TFIDF")
CHUNK = 1 << 18  # words, or columns, that are counted at once


@dataclass(frozen=True, eq=False)
class _Level:
    """The n-grams of one length: a trie, and where each of them is counted.

    Attributes:
        steps: For each word of an n-gram, known pairs of (prefix, word) as sorted numbers.
        column: The output column of each n-gram, by its place in the last step.
    """

    steps: Sequence[np.ndarray]
    column: np.ndarray


@dataclass(frozen=True, eq=False)
class _Pool:
    """All n-grams that count."""

    words: Lookup
    word_count: int
    levels: Mapping[int, _Level]
    columns: int


def _read_pool(attributes: Mapping[str, Any]) -> _Pool:
    """Read the attributes; `ValueError` says what does not fit."""
    texts, numbers = attributes["pool_strings"], attributes["pool_int64s"]
    if bool(texts) == bool(numbers):
        raise ValueError("expected either pool_strings or pool_int64s")
    pool = np.array(texts, object) if texts else np.array(numbers, np.int64)
    if attributes["mode"] not in MODES:
        raise ValueError(f"mode is {attributes['mode']!r}; expected one of {', '.join(MODES)}")
    shortest, longest = attributes["min_gram_length"], attributes["max_gram_length"]
    starts = ints(attributes["ngram_counts"])
    if not 1 <= shortest <= longest <= len(starts):
        raise ValueError(
            f"n-grams of {shortest} to {longest} words, and {len(starts)} ngram_counts"
        )
    if attributes["max_skip_count"] < 0:
        raise ValueError(f"max_skip_count is {attributes['max_skip_count']}; expected 0 at least")
    ends = (*starts[1:], len(pool))
    if any(end < start for start, end in zip((0, *starts), (*starts, len(pool)), strict=True)):
        raise ValueError(f"ngram_counts {list(starts)} must count up, to {len(pool)} at most")
    columns = np.asarray(attributes["ngram_indexes"], np.int64)
    if not columns.size or int(columns.min()) < 0:
        raise ValueError("ngram_indexes must name a column for each n-gram, from 0 on")
    words = np.unique(pool)
    lookup = Lookup(words)
    levels: dict[int, _Level] = {}
    first = 0
    for n, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        count, rest = divmod(end - start, n)
        if rest or first + count > len(columns):
            raise ValueError(f"{end - start} words do not make {n}-grams that have a column each")
        if shortest <= n <= longest:
            grams = lookup.find(pool[start:end].reshape(count, n))
            levels[n] = _build_level(grams, columns[first : first + count], len(words))
        first += count
    if first != len(columns):
        raise ValueError(f"{len(columns)} ngram_indexes for {first} n-grams")
    return _Pool(lookup, len(words), levels, int(columns.max()) + 1)


def _build_level(grams: np.ndarray, columns: np.ndarray, words: int) -> _Level:
    """Build the trie of n-grams given as numbers of words, (grams, n)."""
    steps: list[np.ndarray] = []
    node = np.zeros(len(grams), np.int64)
    for k in range(grams.shape[1]):
        known, node = np.unique(node * (words + 1) + grams[:, k], return_inverse=True)
        steps.append(known)
    column = np.zeros(len(steps[-1]), np.int64)
    column[node] = columns
    return _Level(steps, column)


def _occurrences(
    level: _Level, tokens: np.ndarray, n: int, distance: int, words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column) of every n-gram of the pool whose words lie `distance` apart.

    Windows that no longer can be in the pool drop out word by word, so that long n-grams take no
    more memory than short ones.
    """
    windows = max(tokens.shape[1] - (n - 1) * distance, 0)
    row = np.repeat(np.arange(len(tokens)), windows)
    place = np.tile(np.arange(windows), len(tokens))
    node = np.zeros(len(row), np.int64)
    for k, known in enumerate(level.steps):
        if not len(row):
            break
        wanted = node * (words + 1) + tokens[row, place + k * distance]
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found = known[at] == wanted
        row, place, node = row[found], place[found], at[found]
    return row, level.column[node]


def _count(pool: _Pool, tokens: np.ndarray, skips: int) -> np.ndarray:
    """Return how often the pool's n-grams occur in rows of words, (N, columns)."""
    totals = np.zeros(len(tokens) * pool.columns)
    for n, level in pool.levels.items():
        if not len(level.column):
            continue
        for distance in range(1, 2 if n == 1 else skips + 2):  # one word lies apart from nothing
            if (n - 1) * distance >= tokens.shape[1]:
                break
            row, column = _occurrences(level, tokens, n, distance, pool.word_count)
            totals += np.bincount(row * pool.columns + column, minlength=len(totals))
    return totals.reshape(len(tokens), pool.columns)


@operator("TfIdfVectorizer", since=9)
class TfIdfVectorizer:
    """How often each n-gram of a pool occurs in a row, or a weight where it does, or both."""

    attributes = {
        "max_gram_length": REQUIRED,
        "max_skip_count": REQUIRED,
        "min_gram_length": REQUIRED,
        "mode": REQUIRED,
        "ngram_counts": REQUIRED,
        "ngram_indexes": REQUIRED,
        "pool_int64s": (),
        "pool_strings": (),
        "weights": (),
    }
    rows = staticmethod(item_per_row)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 [columns], or [N, columns]."""
        columns = max(ints(ctx.attributes["ngram_indexes"]), default=-1) + 1
        weights, indexes = ctx.attributes["weights"], ctx.attributes["ngram_indexes"]
        if columns < 1 or len(weights) not in (0, len(indexes)):
            ctx.fail(f"{len(weights)} weights for {len(indexes)} ngram_indexes from 0 on")
        if bool(ctx.attributes["pool_strings"]) != (ctx.dtype(0) is DType.STRING):
            ctx.fail(f"its input is {ctx.dtype(0)}, its pool is of the other kind")
        shape = ctx.shape(0)
        if shape is None:
            return [TensorType(DType.FLOAT32)]
        if len(shape) not in (1, 2):
            ctx.fail(f"expected [C] or [N, C], got {ctx.type(0)}")
        return [TensorType(DType.FLOAT32, (*shape[:-1], columns))]

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel:
        """The trie is built once."""
        return partial(_vectorize, ctx, _read_pool(ctx.attributes))

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Windows whose words lie apart by one distance, up to the allowed skips, count too."""
        return _vectorize(ctx, _read_pool(ctx.attributes), x)


def _vectorize(ctx: ComputeContext, pool: _Pool, x: np.ndarray) -> Sequence[np.ndarray]:
    if x.ndim not in (1, 2):
        raise ValueError(f"expected [C] or [N, C], got shape {list(x.shape)}")
    rows = x[None, :] if x.ndim == 1 else x
    check_size(ctx, (len(rows), pool.columns), np.float64)
    skips = min(int(ctx.attributes["max_skip_count"]), rows.shape[1])
    counts = np.empty((len(rows), pool.columns))
    step = max(1, CHUNK // max(rows.shape[1], pool.columns, 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        counts[part] = _count(pool, pool.words.find(rows[part]), skips)
    if ctx.attributes["mode"] == "IDF":
        counts = (counts > 0).astype(np.float64)
    if ctx.attributes["mode"] != "TF" and ctx.attributes["weights"]:
        counts = counts * _weights(ctx.attributes, pool.columns)
    return [counts.reshape(*x.shape[:-1], pool.columns).astype(np.float32)]


def _weights(attributes: Mapping[str, Any], columns: int) -> np.ndarray:
    """Return the weight of each column: that of the n-gram which is counted there."""
    found = np.ones(columns)
    found[np.asarray(attributes["ngram_indexes"])] = attributes["weights"]
    return found
