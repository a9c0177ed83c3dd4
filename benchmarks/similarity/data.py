"""The vectors of the benchmarks: fixed seeds, unit length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["clustered", "uniform"]
Vectors = NDArray[np.float32]

CENTRES = 1000
SPREAD = 0.7  # length of a row's deviation from its centre, which has length 1


@dataclass(frozen=True)
class VectorSet:
    """Rows to search, queries from the same source, and rows that are added later."""

    rows: Vectors
    queries: Vectors
    later: Vectors


def vector_set(kind: Kind, count: int, dim: int, queries: int, later: int) -> VectorSet:
    """Return unit vectors: around random centres, or in every direction alike."""
    draw = np.random.default_rng(7)
    total = count + queries + later
    if kind == "uniform":
        drawn = draw.standard_normal((total, dim), np.float32)
    else:
        centres = draw.standard_normal((CENTRES, dim), np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        noise = draw.standard_normal((total, dim), np.float32) * np.float32(SPREAD / dim**0.5)
        drawn = centres[draw.integers(0, CENTRES, total)] + noise
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return VectorSet(drawn[:count], drawn[count : count + queries], drawn[count + queries :])


def nearest(rows: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """Return the k rows (m, k) with the largest dot product, in no order: a flat scan."""
    found = np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), 200):
        scores = queries[first : first + 200] @ rows.T
        found[first : first + 200] = np.argpartition(-scores, k, axis=1)[:, :k]
    return found


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the share of `truth` (m, k) that `found` has."""
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / truth.size
