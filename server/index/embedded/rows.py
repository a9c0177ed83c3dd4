"""Vectors in a file: one row of float32 per slot, written through, read through a mapping."""

from __future__ import annotations

import itertools
import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.index.contract import Vectors

GROWTH = 1.5  # of a file that is full
LEAST_BYTES = 256 << 10  # of a new file; what is not written takes no room on the disk


class RowFile:
    """Rows of a file that only grows.

    Writing goes through the file descriptor and not through the mapping: a full disk is then an
    error of the call, where a store to mapped memory would end the process.
    """

    def __init__(self, path: Path, dim: int) -> None:
        """Open or make the file.

        Raises:
            OSError: it cannot be opened, written or mapped.
        """
        self.path = path
        self._row_bytes = dim * 4
        self._dim = dim
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._map()
        except BaseException:
            os.close(self._fd)
            raise
        self._open = True

    def _map(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < self._row_bytes:
            size = max(LEAST_BYTES, self._row_bytes)
            os.ftruncate(self._fd, size)
        count = size // self._row_bytes
        mapped = mmap.mmap(self._fd, count * self._row_bytes, access=mmap.ACCESS_READ)
        flat = np.frombuffer(mapped, dtype=np.float32)
        self.matrix: NDArray[np.float32] = flat.reshape(count, self._dim)  # (capacity, dim)

    @property
    def bytes(self) -> int:
        """Return the room it takes on the disk."""
        return os.fstat(self._fd).st_blocks * 512 if self._open else 0

    def write(self, slots: NDArray[np.int64], rows: Vectors) -> None:
        """Write rows (n, dim) to slots (n,), which ascend; `matrix` may be a longer one after it.

        Raises:
            OSError: the disk is full or failed; slots that counted before are as they were.
        """
        if not len(slots):
            return
        self.reserve(int(slots[-1]) + 1)
        breaks = np.flatnonzero(np.diff(slots) != 1) + 1
        edges = [0, *breaks.tolist(), len(slots)]
        for start, stop in itertools.pairwise(edges):
            self._write_at(int(slots[start]) * self._row_bytes, rows[start:stop])

    def reserve(self, count: int) -> None:
        """Make room for so many rows; `matrix` may be a longer one after it.

        Raises:
            OSError: the file cannot grow, or be mapped.
        """
        if count > len(self.matrix):
            wanted = max(count, int(len(self.matrix) * GROWTH))
            os.ftruncate(self._fd, wanted * self._row_bytes)
            self._map()

    def _write_at(self, offset: int, rows: Vectors) -> None:
        left = np.ascontiguousarray(rows).data.cast("B")
        while left:
            written = os.pwrite(self._fd, left, offset)
            left, offset = left[written:], offset + written

    def sync(self) -> None:
        """Return when what was written is on the disk.

        Raises:
            OSError: the disk failed.
        """
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the file; arrays that were taken from `matrix` stay readable."""
        if self._open:
            self._open = False
            os.close(self._fd)
