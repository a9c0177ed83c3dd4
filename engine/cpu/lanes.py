"""Memory that runs borrow: one lane per run at a time, kept for the next one."""

from __future__ import annotations

import mmap
from threading import Lock
from typing import Any

import numpy as np

HUGE_PAGE = 2 << 20
PAGE = 4096


class Block:
    """Zeroed memory outside of Python's heap, on huge pages where it is large enough."""

    def __init__(self, size_bytes: int) -> None:
        huge = size_bytes >= HUGE_PAGE
        self._map = mmap.mmap(-1, size_bytes + (HUGE_PAGE if huge else PAGE))
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._map, np.uint8)
        skip = -whole.ctypes.data % (HUGE_PAGE if huge else 64)
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = whole[skip : skip + size_bytes]
        self.address = int(self.array.ctypes.data)
        self.size_bytes = size_bytes


class Lane:
    """The arena of one run."""

    __slots__ = ("address", "block", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.block = Block(max(size_bytes, PAGE))
        self.address, self.size_bytes = self.block.address, self.block.size_bytes


class Lanes:
    """The lanes of one plan. Thread-safe; as many exist as runs overlapped at the most."""

    def __init__(self) -> None:
        self._free: list[Lane] = []
        self._made: set[Lane] = set()
        self._lock = Lock()

    def take(self, size_bytes: int) -> Lane:
        """Return a lane of at least this size."""
        with self._lock:
            lane = self._free.pop() if self._free else None
            if lane is not None and lane.size_bytes >= size_bytes:
                return lane
            if lane is not None:
                self._made.discard(lane)
        lane = Lane(size_bytes + size_bytes // 4)
        with self._lock:
            self._made.add(lane)
        return lane

    def give_back(self, lane: Lane) -> None:
        """Keep a lane for the next run."""
        with self._lock:
            self._free.append(lane)

    @property
    def size_bytes(self) -> int:
        """Memory of all lanes."""
        return sum(lane.size_bytes for lane in self._made)
