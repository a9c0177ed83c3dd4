"""What this machine can do at most: arithmetic and memory traffic, measured once and remembered.

The bound of a kernel is the longer of two times: its arithmetic at the peak rate, its bytes at the
memory's (S. Williams, A. Waterman, D. Patterson: Roofline, CACM 2009).
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.container import is_private
from engine.cpu.code_files import default_folder
from engine.cpu.code_store import CodeStore, kernel_key
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.gauge import BLOCK_BYTES, MultiplyAdd, ReadMemory
from engine.cpu.runtime.memory import Block
from engine.cpu.runtime.pool import shared_pool
from engine.cpu.runtime.program import NativeProgram, ResolvedStep
from engine.cpu.target import host_target

ROUNDS: Final = 20_000  # about 0.1 ms a task: long beside claiming it
TASKS_PER_CORE: Final = 16
ARRAY_BYTES: Final = 256 << 20  # far more than the last cache
REPEATS: Final = 5  # the best counts: others may be using the machine
MAX_FILE_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Roofline:
    """Rates of this machine.

    Attributes:
        cores: Cores that the pool uses.
        flops_per_core: float32 operations a second on one core, multiply and add counted apart.
        flops_all: Likewise, on all cores at once.
        bytes_per_core: Bytes a second that one core reads from memory.
        bytes_all: Likewise, all cores at once.
    """

    cores: int
    flops_per_core: float
    flops_all: float
    bytes_per_core: float
    bytes_all: float

    def flops(self, threads: int) -> float:
        """Return the peak of so many threads, between one core and all by straight line."""
        return _between(self.flops_per_core, self.flops_all, threads, self.cores)

    def bandwidth(self, threads: int) -> float:
        """Return the bytes a second that so many threads read at most."""
        return min(self.bytes_all, self.bytes_per_core * min(threads, self.cores))

    def seconds(self, flops: float, size_bytes: float, threads: int = 1) -> float:
        """Return the time below which work of this size cannot be done."""
        return max(flops / self.flops(threads), size_bytes / self.bandwidth(threads))


def roofline(folder: Path | None = None) -> Roofline:
    """Return this machine's rates: those measured earlier, else measured now (about a second).

    Args:
        folder: Where they are kept; by default beside the kernels.
    """
    folder = folder or default_folder()
    path = None if folder is None else folder / f"roofline-{_machine_key()}.json"
    known = None if path is None else _read(path)
    if known is None:
        known = measure()
        if path is not None:
            _write(path, known)
    return known


def measure() -> Roofline:
    """Measure this machine now; others that compute meanwhile make it look slower."""
    cores = shared_pool().cores
    one, every = _arithmetic_rate(1), _memory_rate(1)
    if cores == 1:
        return Roofline(1, one, one, every, every)
    return Roofline(cores, one, _arithmetic_rate(cores), every, _memory_rate(cores))


def _arithmetic_rate(threads: int) -> float:
    target, kernel = host_target(), MultiplyAdd()
    tasks = TASKS_PER_CORE * threads
    out = Block(tasks * target.lanes * 4)
    out.array.view(np.float32)[:] = 0.25
    took = _best_time(kernel, [out.address], (ROUNDS,), tasks, threads)
    return kernel.flops(target, ROUNDS) * tasks / took


def _memory_rate(threads: int) -> float:
    tasks = ARRAY_BYTES // BLOCK_BYTES
    out, array = Block(tasks * host_target().lanes * 4), Block(ARRAY_BYTES)
    array.array[:] = 0  # pages that nobody wrote are all one page of zeros, in cache
    took = _best_time(ReadMemory(), [out.address, array.address], (), tasks, threads)
    return ARRAY_BYTES / took


def _best_time(
    kernel: Kernel, operands: Sequence[int], numbers: tuple[int, ...], tasks: int, threads: int
) -> float:
    handle = CodeStore().get([kernel], host_target())[kernel]
    places = tuple((number, 0, 0) for number in range(1, len(operands) + 1))
    program = NativeProgram([ResolvedStep(handle.address, places, numbers, tasks)])
    run: Callable[[], int] = lambda: program.run([0, *operands], threads)  # noqa: E731  # one line
    run()
    return min(_timed(run) for _ in range(REPEATS))


def _timed(run: Callable[[], int]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _between(one: float, every: float, threads: int, cores: int) -> float:
    if threads <= 1 or cores == 1:
        return one
    part = (min(threads, cores) - 1) / (cores - 1)
    return one + part * (every - one)


def _machine_key() -> str:
    """Return a name for this machine and for how it is measured."""
    key = kernel_key(MultiplyAdd(), host_target())[:24]
    return f"{key}-{shared_pool().cores}"


def _read(path: Path) -> Roofline | None:
    try:
        status = path.stat()
        if status.st_size > MAX_FILE_BYTES or not is_private(status):
            return None
        known = Roofline(**json.loads(path.read_text()))
        numbers = tuple(asdict(known).values())
        good = all(isinstance(n, (int, float)) and math.isfinite(n) and n > 0 for n in numbers)
    except (OSError, ValueError, TypeError):
        return None
    return known if good else None


def _write(path: Path, known: Roofline) -> None:
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{uuid.uuid4().hex}")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(known)))
        unfinished.chmod(0o600)
        unfinished.rename(path)
