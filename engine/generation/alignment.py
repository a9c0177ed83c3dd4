"""Where a translation comes from: how much each of its tokens looked at each token of its source.

A step graph gives the queries that its layers put to the source; its keys lie in the slots. So a
step costs nothing more: the queries of searches that ask are copied after each step, and the
weights are computed once, for the sequences that come of it, as the mean over the heads of one
layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Weights = tuple[tuple[float, ...], ...]
DIGITS: Final = 4  # of a weight


@dataclass(frozen=True, eq=False)
class SourceLooks:
    """One layer's attention to the source, over static arrays.

    Attributes:
        queries: Of the last step, by batch row. (R, 1, W)
        keys: By source slot. (S, M, W)
        lengths: Tokens of each source. (S,)
        heads: How many there are.
        scale: Of the products.
    """

    queries: NDArray[np.float32]
    keys: NDArray[np.float32]
    lengths: NDArray[np.int64]
    heads: int
    scale: float

    def weights(self, queries: NDArray[np.float32], source: int) -> NDArray[np.float32]:
        """Return the weights (L, M) of queries (L, W) over a source of M tokens; rows sum to 1."""
        keys = self.keys[source, : int(self.lengths[source])]
        count, width = len(queries), keys.shape[1] // self.heads
        split = queries.reshape(count, self.heads, width).transpose(1, 0, 2)  # (H, L, D)
        turned = keys.reshape(len(keys), self.heads, width).transpose(1, 2, 0)  # (H, D, M)
        scores = np.matmul(split, turned) * np.float32(self.scale)  # (H, L, M)
        scores -= scores.max(axis=-1, keepdims=True)
        each = np.exp(scores)
        each /= each.sum(axis=-1, keepdims=True)
        mean: NDArray[np.float32] = each.mean(axis=0)
        return mean


class KeptQueries:
    """The queries of one search, by beam and position."""

    def __init__(self, looks: SourceLooks, source: int, rows: NDArray[np.int64], most: int) -> None:
        """Make room for `most` tokens; pages come when they are written."""
        self._looks, self._source, self._rows = looks, source, rows
        width = looks.queries.shape[2]
        self._kept = np.zeros((rows.size, most, width), np.float32)  # (k, L, W)

    def keep(self, first: int, position: int) -> None:
        """Take what the last step asked at a position; `first` is the search's first batch row."""
        beams = self._rows.size
        self._kept[:, position] = self._looks.queries[first : first + beams, 0]

    def weights(self, history: NDArray[np.int32], length: int) -> Weights:
        """Return the weights of `length` tokens along a history of cache rows.

        The token at position t was chosen by what was fed at position t - 1.
        """
        beams = (history[:length, None] == self._rows).argmax(axis=1)  # (L,)
        queries = self._kept[beams, np.arange(length)]  # (L, W)
        found = self._looks.weights(queries, self._source).astype(np.float64)
        return tuple(tuple(row) for row in found.round(DIGITS).tolist())
