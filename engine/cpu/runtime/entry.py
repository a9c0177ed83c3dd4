"""The native runtime's entry function, loaded once per process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from engine.cpu.code_store import CodeStore
from engine.cpu.runtime.walker import Walker
from engine.cpu.target import host_target

Entry = Callable[[int, int], int]  # (address, WALK | SERVE | DISMISS) -> status


@cache
def native_entry() -> Entry:
    """Return the function; calls let go of the GIL."""
    handle = CodeStore().get([Walker()], host_target())[Walker()]
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    function: Entry = prototype(handle.address)
    function.code = handle  # type: ignore[attr-defined]  # the code lives as long as the function
    return function
