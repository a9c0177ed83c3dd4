"""What loading and running a model may cost.

The lowest layer but errors: imports nothing of the engine else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import ResourceLimit

MIB = 1 << 20
GIB = 1 << 30
MAX_RANK = 64  # as many dims as an array has

# A container's own ceiling, newest cgroup first; "max" and absurdly large numbers mean none.
CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one model. Exceeding one is a `ResourceLimit` that names node, need and limit.

    Attributes:
        model_bytes: Size of the model file and of its external data, each.
        nodes: Nodes of the graph, subgraphs and inlined functions included.
        nesting: Depth of subgraphs and of functions that call functions.
        load_s: Wall-clock seconds from the file to a runnable model.
        run_bytes: Bytes alive at once during a run; None is a quarter of the container's memory.
        loop_iterations: Passes through the bodies of one run, those of loops in loops included.
        fold_bytes: Largest constant that folding may create.
    """

    model_bytes: int = 8 * GIB
    nodes: int = 200_000
    nesting: int = 32
    load_s: float = 120.0
    run_bytes: int | None = None
    loop_iterations: int = 1_000_000
    fold_bytes: int = 16 * MIB

    @property
    def effective_run_bytes(self) -> int:
        """`run_bytes`, or a quarter of what this machine or container has."""
        return container_memory_bytes() // 4 if self.run_bytes is None else self.run_bytes


class Deadline:
    """The moment by which a load must be over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self, where: str) -> None:
        """Raise `ResourceLimit` when the time is over; `where` names the node or the stage."""
        if time.monotonic() > self._end:
            raise ResourceLimit(where, f"more than {self.seconds:g} s", f"load_s={self.seconds:g}")


@cache
def container_memory_bytes() -> int:
    """Return the memory this process may use: the container's limit or the machine's."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *filter(None, map(_cgroup_limit, CGROUP_FILES))])


def _cgroup_limit(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
