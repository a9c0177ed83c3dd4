"""Memory for native code, outside of Python's heap."""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np

HUGE_PAGE: Final = 2 << 20
PAGE: Final = 4096


class Block:
    """Zeroed memory that starts at a page: a huge one where the block is that large.

    It is private: a process made by fork gets a copy of its own.

    Attributes:
        address: Where it starts.
        size_bytes: How much there is, at least what was asked for.
    """

    def __init__(self, size_bytes: int) -> None:
        huge = size_bytes >= HUGE_PAGE
        page = HUGE_PAGE if huge else PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._map = mmap.mmap(-1, size_bytes + page, flags=flags)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"{size_bytes} bytes: {error}") from error
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._map, np.uint8)
        skip = -whole.ctypes.data % page
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = whole[skip : skip + size_bytes]
        self.address = int(whole.ctypes.data) + skip
        self.size_bytes = size_bytes
