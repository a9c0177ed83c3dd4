"""Runs one kernel on numpy arrays, without plans or threads."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from engine.cpu.kernel import Kernel
from engine.cpu.native import LoadedObject, compile_kernel
from engine.cpu.target import ISAS, Target, host_target

GUARD = 0xA5  # what lies around every operand

# The instruction sets that this machine can run, its own first: on x86 every older one, too.
_HOST = host_target()
HOST_ISAS = tuple(i for i in ISAS[ISAS.index(_HOST.isa) :] if i == _HOST.isa or i != "neon")


def skip_where_missing(isa: str) -> None:
    """Skip a test of code for an instruction set that this machine cannot run."""
    if isa not in HOST_ISAS:
        pytest.skip(f"this machine cannot run code for {isa}")


@cache
def loaded(kernel: Kernel, target: Target) -> LoadedObject:
    return LoadedObject(compile_kernel(kernel, "kernel", target), target)


def guarded(array: np.ndarray, margin: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A copy of an array, and the memory it lies in, with a margin of known bytes on both sides."""
    memory = np.full(array.nbytes + 2 * margin + 64, GUARD, np.uint8)
    start = margin + (-(memory.ctypes.data + margin) % 64)
    inner = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    outside = memory.copy()
    outside[start : start + array.nbytes] = 0
    return inner, memory


def run_kernel(
    kernel: Kernel,
    operands: Sequence[np.ndarray],
    *,
    numbers: Sequence[int] = (),
    tasks: int,
    writes: int = 1,
    pieces: int = 1,
    target: Target | None = None,
) -> list[np.ndarray]:
    """Run all tasks, cut into `pieces`, on copies; return the first `writes` operands.

    Fails when a byte around an operand changed, or an operand that is only read.
    """
    target = target or host_target()
    function = loaded(kernel, target).function(
        "kernel",
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    copies = [guarded(np.ascontiguousarray(a)) for a in operands]
    pointers = np.array([inner.ctypes.data for inner, _ in copies], np.int64)
    values = np.array([*numbers, 0], np.int64)
    scratch = np.full(kernel.scratch_bytes(target) + 128, 0xFF, np.uint8)  # NaN in every type
    aligned = scratch.ctypes.data + (-scratch.ctypes.data % 64)
    bounds = [tasks * i // pieces for i in range(pieces + 1)]
    for low, high in itertools.pairwise(bounds):
        function(pointers.ctypes.data, values.ctypes.data, low, high, aligned)
    for i, ((inner, memory), given) in enumerate(zip(copies, operands, strict=True)):
        start = inner.ctypes.data - memory.ctypes.data
        around = np.concatenate([memory[:start], memory[start + inner.nbytes :]])
        assert (around == GUARD).all(), f"operand {i}: written outside of it"
        if i >= writes:
            assert inner.tobytes() == np.ascontiguousarray(given).tobytes(), f"operand {i} changed"
    return [inner for inner, _ in copies[:writes]]
