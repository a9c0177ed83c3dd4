"""How long this process's threads had to wait for a core: the trace that others leave."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")


def waited_s() -> float:
    """Return the seconds that all threads have waited so far; 0 where the system does not say.

    The second number of a thread's schedstat (Linux, Documentation/scheduler/sched-stats.rst).
    """
    if not TASKS.exists():
        return 0.0
    total = 0
    for task in TASKS.iterdir():
        with suppress(OSError, IndexError):  # a thread may end meanwhile
            total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9
