"""Weights packed for the register tile: panels of a few vectors of columns, row after row.

A matrix (K, N) becomes ceil(N / panel) panels, each (K, panel) in one piece; the last is as narrow
as whole vectors allow. bfloat16 panels hold pairs of rows interleaved, as the dot product takes
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.cpu.target import Target
from engine.dtypes import DType

Array = np.ndarray


@dataclass(frozen=True)
class Panels:
    """How `columns` columns are cut into panels for a target.

    Attributes:
        columns: Columns that there are.
        lanes: Lanes of a vector.
        vectors: Vectors in a whole panel.
    """

    columns: int
    lanes: int
    vectors: int

    @classmethod
    def of(cls, columns: int, target: Target) -> Panels:
        """Return the cut for this processor."""
        return cls(columns, target.lanes, target.tile_vectors)

    @property
    def width(self) -> int:
        """Columns of a whole panel."""
        return self.lanes * self.vectors

    @property
    def count(self) -> int:
        """Panels, the last one included."""
        return -(-self.columns // self.width)

    @property
    def whole(self) -> int:
        """Panels of full width."""
        return self.columns // self.width

    @property
    def tail_vectors(self) -> int:
        """Vectors of the narrower last panel; 0 when all are whole."""
        return -(-(self.columns % self.width) // self.lanes)

    @property
    def tail_lanes(self) -> int:
        """Lanes of the last panel's last vector that exist."""
        return self.columns % self.lanes or self.lanes

    @property
    def padded(self) -> int:
        """Columns of all panels at full width: the length of a vector with a number per column."""
        return self.count * self.width


def pack_panels(matrix: Array, panels: Panels, dtype: DType = DType.FLOAT32) -> Array:
    """Return a (K, N) matrix as one array of panels, columns padded with zeros."""
    pieces = []
    for first in range(0, panels.columns, panels.width):
        piece = matrix[:, first : first + panels.width]
        missing = -piece.shape[1] % panels.lanes
        piece = np.pad(piece, ((0, 0), (0, missing))) if missing else piece
        if dtype is DType.BFLOAT16:
            pieces.append(_pairs(piece))
        else:
            pieces.append(np.ascontiguousarray(piece, np.float32).reshape(-1))
    return np.concatenate(pieces)


def _pairs(piece: Array) -> Array:
    """Return (K, n) rounded to bfloat16 as (ceil(K / 2), n, 2)."""
    piece = np.pad(piece, ((0, piece.shape[0] % 2), (0, 0)))
    pairs = to_bfloat16(piece).reshape(-1, 2, piece.shape[1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1)).reshape(-1)


def whole_pairs(terms: int, dtype: DType) -> int:
    """Return how many terms are multiplied: bfloat16 comes in pairs."""
    return terms + terms % 2 if dtype is DType.BFLOAT16 else terms


def to_bfloat16(array: Array) -> Array:
    """Return float32 rounded to bfloat16, to nearest even, as the bits (uint16); NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)


def pack_columns(vector: Array, panels: Panels) -> Array:
    """Return a number per column, padded with zeros to whole panels."""
    flat = np.ascontiguousarray(vector, np.float32).reshape(-1)
    return np.pad(flat, (0, panels.padded - flat.size))
