"""Instructions on tiles for this process: the processor's own, or emulated (`amx_emulator.c`)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import numpy as np

from engine.cpu.target import Target, host_target, target_for

SOURCE: Final = Path(__file__).with_name("amx_emulator.c")
FLAGS: Final = ("-O3", "-mavx2", "-mfma", "-ffp-contract=off", "-fno-strict-aliasing")
KINDS: Final = ("configure", "release", "zero", "load", "store", "multiply")


def why_not() -> str:
    """Return why code that uses tiles cannot run here; "" where it can."""
    host = host_target()
    if host.has_amx:
        return ""
    if not (host.has_bf16_dot and host.has_int8_dot):
        return (
            "this processor lacks AVX-512 with dot products, which code for tiles has beside them"
        )
    if llvm.get_host_cpu_features().get("amx-tile"):  # some instructions would run, and some not
        return "this processor has tiles, but this process may not use them"
    return "" if shutil.which("gcc") else "there is no gcc to compile the emulator with"


@cache
def _emulator() -> Any:
    """Compile the emulator, and let it handle what the processor does not know."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "emulator.so"
        command = ["gcc", *FLAGS, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lm"]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
    if loaded.emulator_install():
        raise OSError("the handler of SIGILL was not installed")
    return loaded


def tile_target() -> Target:
    """Return a target with tiles whose code can run in this process from now on.

    For a process of its own: the handler stays.
    """
    if not host_target().has_amx:
        _emulator()
    return target_for("amx")


def counted() -> dict[str, int] | None:
    """Return how many instructions of each kind ran so far; None where the processor has them."""
    if host_target().has_amx:
        return None
    numbers = np.zeros(len(KINDS), np.uint64)
    _emulator().emulator_counts(ctypes.c_void_p(numbers.ctypes.data))
    return dict(zip(KINDS, numbers.tolist(), strict=True))


def is_configured() -> bool:
    """Whether this thread's tiles have shapes, which no kernel may leave behind."""
    return not host_target().has_amx and bool(_emulator().emulator_is_configured())


@contextmanager
def used(**expected: int) -> Iterator[None]:
    """Fail unless so many instructions run, and unless tiles are left as they were found."""
    before = counted()
    yield
    after = counted()
    assert not is_configured(), "a kernel left tiles in use"
    if before is None or after is None:  # a processor that has them does not count
        return
    done = {kind: after[kind] - before[kind] for kind in after}
    assert done["multiply"], "no tile was multiplied"
    for kind, number in expected.items():
        assert done[kind] == number, f"{kind}: {done[kind]} instead of {number}"
