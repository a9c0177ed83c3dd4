"""Memory allocation suited to training: large blocks that come and go at every step."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
NEVER = 2**31 - 1
TOP_PAD_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, instead of giving it back and clearing new pages.

    A training step frees every activation and the next one asks for the same sizes again; the
    kernel's clearing of fresh pages otherwise takes a tenth of the time. Without glibc: no effect.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, NEVER)
    mallopt(M_TOP_PAD, TOP_PAD_BYTES)
