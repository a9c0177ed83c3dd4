"""What is asked of the operating system, the interpreter and BLAS so that the loop stays quick.

Every function here does its best and says whether it could; none is needed for right answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path

KEPT_BYTES = 128 << 20
_MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes; larger blocks are mapped
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h

# The names of one setter: in numpy's wheels, in 64-bit-integer builds, and in plain OpenBLAS.
_BLAS_SETTERS = (
    *("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads"),
    *("openblas_set_num_threads64_", "openblas_set_num_threads"),
)


def lower_priority(nice: int) -> bool:
    """Put the calling thread `nice` steps behind the process's other threads (Linux only)."""
    if sys.platform != "linux" or nice <= 0:
        return False
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then all threads are equals
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, now + nice))
        return True
    return False


def give_way() -> None:
    """Let other threads that are ready to run have this one's core (where the system knows how)."""
    # Native code on all cores keeps a thread that has been woken waiting for a whole slice.
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def set_switch_interval(seconds: float) -> None:
    """Set how long a thread may hold the interpreter while the event loop waits for it."""
    sys.setswitchinterval(seconds)


def settle_heap() -> None:
    """Spare the garbage collector what lives as long as the process: modules, routes, settings.

    To be called once, when everything has started. A full collection that walks all of that holds
    up the event loop for about 50 ms; one that walks only what came later, for a few.
    """
    gc.collect()
    gc.freeze()


def keep_freed_memory() -> bool:
    """Let the allocator keep what large bodies and arrays free, to hand it out again (glibc only).

    By default it returns every large block to the kernel, and the next one is faulted in page by
    page: four fifths of what it costs the event loop to take in a body of 5 MB. At most
    `KEPT_BYTES` are kept at the heap's end, and unloading a model trims them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    )


def limit_blas_threads(threads: int) -> bool:
    """Let numpy's matrix products use at most `threads` threads each; False if there is no way."""
    setter = _blas_setter()
    if setter is None:
        return False
    setter(ctypes.c_int(threads))
    return True


@cache
def _blas_setter() -> ctypes._NamedFuncPointer | None:
    for library in _blas_libraries():
        with contextlib.suppress(OSError):
            handle = ctypes.CDLL(str(library))
            for name in _BLAS_SETTERS:
                if hasattr(handle, name):
                    return getattr(handle, name)  # type: ignore[no-any-return]  # ctypes: a symbol
    return None


def _blas_libraries() -> list[Path]:
    spec = find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    package = Path(spec.origin).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs")
    return [file for folder in folders for file in sorted(folder.glob("*openblas*"))]
