"""The library of approximate search, which need not be installed."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Any

EXTRA = "similarity"  # of pyproject.toml

_thread = threading.local()


@cache
def is_installed() -> bool:
    """Return whether approximate search can be had."""
    try:
        import faiss  # noqa: F401 - whether it runs is only known once it is loaded
    except ImportError:
        return False
    return True


def load() -> Any:
    """Return faiss; `is_installed` must have said so."""
    import faiss

    return faiss


def stay_on_one_thread(faiss: Any) -> None:
    """Keep the library's calls from this thread on it.

    Its own pool has as many threads as the machine has cores; the models need those.
    """
    if not getattr(_thread, "told", False):
        faiss.omp_set_num_threads(1)
        _thread.told = True


def yield_to_others() -> None:
    """Let this thread run only where nothing else wants the core."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
