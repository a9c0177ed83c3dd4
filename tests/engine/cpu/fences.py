"""Puts every value of native code between pages that nobody may touch, and fills memory with NaN.

A kernel that leaves its operands ends the process with SIGSEGV, so who fences runs in a process of
its own; a kernel that reads what nobody wrote gets NaN.

    python -m tests.engine.cpu.fences resnet bert      # networks of tests/networks, or all
    python -m tests.engine.cpu.fences --generated 50   # generated graphs
    python -m tests.engine.cpu.fences --isa avx2 bert  # code for another instruction set
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, given, settings
from onnx.helper import make_node

import engine
import engine.cpu.region as region
from engine.cpu.memory_plan import ALIGNMENT, Tenant
from engine.cpu.runtime.layout import SlotWord
from engine.cpu.runtime.pool import shared_pool
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.test_attention_pairs import attention_feeds, attention_network
from tests.engine.cpu.test_generated import check
from tests.engine.onnx_models import model
from tests.engine.passes.generated_graphs import Generated, graphs
from tests.networks.checking import check_network
from tests.networks.table import NETWORKS

PAGE = mmap.PAGESIZE
POISON = 0xFF  # NaN in every float type, -1 in every integer type

Span = tuple[int, int]
ROOMS: dict[int, list[Span]] = {}  # size of an arena -> the pages in it that have a tenant


class FencedBlock:
    """Memory of which only the rooms of tenants can be touched; all of it where none are known."""

    def __init__(self, size_bytes: int, *, has_rooms: bool = True) -> None:
        rooms = ROOMS.get(size_bytes) if has_rooms else None
        inside = _pages(size_bytes)
        self._map = mmap.mmap(-1, inside + 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(self._map, np.uint8)
        start = PAGE
        if rooms is None:
            rounded = -(-size_bytes // ALIGNMENT) * ALIGNMENT
            start += inside - rounded
            rooms = [(0, inside)]
        for begin, end in rooms:
            whole[PAGE + begin : PAGE + end] = POISON
        edges = [0, *(PAGE + edge for room in rooms for edge in room), inside + 2 * PAGE]
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            _forbid(whole.ctypes.data + low, high - low)
        self.array = whole[start : start + size_bytes]
        self.address, self.size_bytes = whole.ctypes.data + start, size_bytes


class FencedLanes:
    """A new arena for every run."""

    size_bytes = 0

    def take(self, size_bytes: int) -> FencedBlock:
        return FencedBlock(size_bytes)

    def give_back(self, lane: FencedBlock) -> None:
        """Forget it: the next run shall find nothing of this one."""


def fenced_array(shape: Sequence[int], dtype: Any, at_end: bool = True) -> np.ndarray:
    """Return an array whose last (or first) byte is the last (or first) of what may be touched."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    inside = _pages(size)
    memory = mmap.mmap(-1, inside + 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(memory, np.uint8)
    whole[PAGE : PAGE + inside] = POISON
    for edge in (0, PAGE + inside):
        _forbid(whole.ctypes.data + edge, PAGE)
    start = PAGE + (inside - size if at_end else 0)
    inner: np.ndarray = whole[start : start + size].view(kind).reshape(tuple(shape))
    return inner


@contextmanager
def fenced(at_end: bool = True) -> Iterator[None]:
    """Fence what models use that are loaded inside: arenas, inputs, outputs, workers' memory."""

    def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
        return fenced_array(shape, dtype, at_end)

    original = region.CompiledRegion.run

    def run(self: Any, inputs: Sequence[np.ndarray], *rest: Any, **named: Any) -> Any:
        copies = []
        for value in inputs:
            copies.append(fenced_array(value.shape, value.dtype, at_end))
            copies[-1][...] = value
        return original(self, copies, *rest, **named)

    def place_apart(tenants: Sequence[Tenant], sizes: Sequence[int]) -> tuple[list[int], int]:
        return _place_apart(sizes, at_end)

    def reserve(self: Any, scratch_bytes: int, local_bytes: int) -> None:
        self._scratch = FencedBlock(scratch_bytes, has_rooms=False)
        self._local = FencedBlock(local_bytes)
        self._words[SlotWord.SCRATCH] = self._scratch.address
        self._words[SlotWord.LOCAL] = self._local.address

    _forget_memory()
    with (
        patch("engine.cpu.region._empty", empty),
        patch("engine.cpu.region.CompiledRegion.run", run),
        patch("engine.cpu.binding.place", place_apart),
        patch("engine.cpu.compiling.Lanes", FencedLanes),
        patch("engine.cpu.runtime.pool.Slot.reserve", reserve),
        patch("engine.cpu.weight_store.Block", _PoisonedBlock),
    ):
        try:
            yield
        finally:
            _forget_memory()  # later runs must not get what has fences within


def _forget_memory() -> None:
    """Take the cores' own memory from them: the next run asks for some."""
    for slot in shared_pool()._slots:
        slot._scratch = slot._local = None
        slot.scratch_bytes = slot.local_bytes = -1


def _place_apart(sizes: Sequence[int], at_end: bool) -> tuple[list[int], int]:
    """Give every tenant pages of its own, with one between them that nobody may touch."""
    offsets, rooms, cursor = [], [], PAGE
    for size in sizes:
        inside = _pages(size)
        rounded = -(-size // ALIGNMENT) * ALIGNMENT
        offsets.append(cursor + (inside - rounded if at_end else 0))
        rooms.append((cursor, cursor + inside))
        cursor += inside + PAGE
    total = cursor
    while total in ROOMS:  # a size tells which arena it is
        total += PAGE
    ROOMS[total] = rooms
    return offsets, total


class _PoisonedBlock:
    """Memory for fixed values: what lies between them is NaN."""

    def __init__(self, size_bytes: int) -> None:
        memory = np.full(size_bytes + ALIGNMENT, POISON, np.uint8)
        skip = -memory.ctypes.data % ALIGNMENT
        self.array = memory[skip:]
        self.address, self.size_bytes = memory.ctypes.data + skip, self.array.nbytes


def _pages(size: int) -> int:
    return -(-max(size, 1) // PAGE) * PAGE


@cache
def _mprotect() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _forbid(address: int, size: int) -> None:
    if size and _mprotect()(address, size, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def main(arguments: Sequence[str]) -> None:
    """Run networks or generated graphs, fenced at their ends and at their beginnings."""
    faulthandler.enable()
    parser = argparse.ArgumentParser(prog="python -m tests.engine.cpu.fences")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--generated", type=int, default=0)
    parser.add_argument("--isa", choices=ISAS, default=host_target().isa)
    options = parser.parse_args(arguments)
    target = target_for(options.isa)
    for at_end in (True, False):
        with patch("engine.cpu.device.host_target", lambda: target), fenced(at_end):
            if options.generated:
                run_generated(options.generated)
            else:
                run_networks(options.names)
                run_narrow_signals()
                run_pairs()
    print("done", flush=True)


def run_networks(names: Sequence[str]) -> None:
    """Hold networks to their recorded answers."""
    folder = Path(__file__).parents[2] / "networks" / "fixtures"
    for name in names or NETWORKS:
        print(name, flush=True)
        check_network(folder / f"{name}.onnx", NETWORKS[name], 2, "cpu")


def run_narrow_signals() -> None:
    """Convolve signals of few channels, each by itself: less than a vector lies in memory."""
    for channels in (1, 2, 3, 17):
        print(f"signals of {channels}", flush=True)
        weights = np.ones((channels, 1, 4), np.float32)
        node = make_node("Conv", ["x", "w"], ["y"], group=channels)
        shapes = [("x", [2, channels, 9])], [("y", [2, channels, 6])]
        x = np.arange(18 * channels, dtype=np.float32).reshape(2, channels, 9)
        with engine.load(model([node], *shapes, {"w": weights}), device="cpu") as loaded:
            sums = np.lib.stride_tricks.sliding_window_view(x, 4, axis=2).sum(axis=-1)
            np.testing.assert_allclose(loaded.run({"x": x})["y"], sums)


def run_pairs() -> None:
    """Attend to rows whose heads and keys end in the midst of vectors and pairs."""
    if not host_target().has_bf16_dot:
        return
    for size, length in ((32, 65), (20, 33), (7, 5)):
        print(f"pairs of {size}", flush=True)
        source = attention_network(size)
        feeds = attention_feeds(size, length)
        with engine.load(source, device="reference") as slow:
            (expected,) = slow.run(feeds).values()
        with engine.load(source, device="cpu", precision="bf16", threads=2) as loaded:
            np.testing.assert_allclose(loaded.run(feeds)["y"], expected, atol=0.1)


def run_generated(count: int) -> None:
    """Hold generated graphs to the reference device."""

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(graphs())
    def run(case: Generated) -> None:
        check(case)

    run()


if __name__ == "__main__":
    main(sys.argv[1:])
