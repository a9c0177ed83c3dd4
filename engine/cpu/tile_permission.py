"""Whether this process may use tiles: a setting, then the kernel's leave.

The registers of tiles take 8 KiB of every thread that has used them, so Linux wants to be asked
before the first use, once per process (`arch_prctl(2)`, Documentation/arch/x86/xstate.rst).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

VARIABLE: Final = "MILLRACE_AMX"
_WORDS: Final = {"": True, "on": True, "off": False}
_ARCH_PRCTL: Final = 158  # the number of the system call on x86-64
_REQUEST_PERMISSION: Final = 0x1023  # ARCH_REQ_XCOMP_PERM
_TILE_DATA: Final = 18  # the component of a thread's state


def tiles_are_permitted() -> bool:
    """Ask for leave to use tiles, on a processor that has them; False where there is none.

    `ValueError` when the environment says neither "on" nor "off".
    """
    return _wanted(os.environ.get(VARIABLE, "")) and _granted()


def _wanted(word: str) -> bool:
    try:
        return _WORDS[word.strip().lower()]
    except KeyError:
        raise ValueError(f"{VARIABLE} is {word!r}; expected 'on' (the default) or 'off'") from None


def _granted() -> bool:
    if sys.platform != "linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    request = (ctypes.c_long(each) for each in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    return bool(call(*request) == 0)
